"""What is read from a model is what the model computed: every layer of every family in the zoo."""

import copy
import sys

import pytest
import torch

import attngraph
from attngraph import UserError, capture, record
from attngraph.reading.instrument import instrument
from tests.attngraph.reading.zoo import FAMILIES, IMAGE, QFORMER, VISION, far_from_zero, pixels, text, words

every_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
sides_of_padding = [  # on the left only where there is text to pad
    pytest.param(family, left, id=f"{'left' if left else 'right'}-{name}")
    for name, family in FAMILIES.items()
    for left in (False, True)
    if not left or any(not torch.equal(x, family.inputs(True)[key]) for key, x in family.inputs().items())
]
with_sdpa = pytest.mark.parametrize(
    "family", [f for f in FAMILIES.values() if f.sdpa], ids=[name for name, f in FAMILIES.items() if f.sdpa]
)
writers = {name: f for name, f in FAMILIES.items() if f.generates}
every_writer = pytest.mark.parametrize("family", writers.values(), ids=writers)


def run(model, inputs, **more):
    torch.manual_seed(3)  # ViLT draws patches
    with torch.no_grad():
        return model(**inputs, **more)


def read(model, inputs, **more):
    torch.manual_seed(3)
    return capture(model, inputs, **more)


def own_weights(family, model, inputs) -> dict[str, torch.Tensor]:
    """The weights that the model's attention modules return in eager mode, under our names and without our
    code."""
    model.set_attn_implementation("eager")
    found: dict[str, torch.Tensor] = {}

    def keep(name, weight):
        key = name if name not in found else f"{name}#2"
        found[key] = weight

    hooks = []
    for name in {key.partition("#")[0] for key in family.layers}:

        def hook(module, args, output, name=name):
            given = (
                [x for x in output if isinstance(x, torch.Tensor) and x.dim() == 4]
                if isinstance(output, tuple)
                else []
            )
            if given:  # T5 returns its position bias too, before the weights
                keep(name, given[-1])

        module = model.get_submodule(name)
        hooks.append(module.register_forward_hook(hook))
        kind = type(module).__name__
        if any(
            word in kind for word in ("Lxmert", "FlavaSelf", "Multihead")
        ):  # some layers do not ask for the weights
            told = (
                {"need_weights": True, "average_attn_weights": False}
                if "Multi" in kind
                else {"output_attentions": True}
            )
            hooks.append(
                module.register_forward_pre_hook(
                    lambda module, args, kwargs, told=told: (args, kwargs | told), with_kwargs=True
                )
            )
    quiet = ("visual.blocks", "vision_tower.blocks")
    visual = {
        id(model.get_submodule(name)): name
        for name in family.layers
        if any(part in name for part in quiet) and "#" not in name
    }
    file = sys.modules[type(model).__module__]
    eager = getattr(file, "eager_attention_forward", None)

    def listening(module, *args, **kwargs):  # Qwen2-VL's and Florence-2's vision attention returns no weights
        output = eager(module, *args, **kwargs)
        if id(module) in visual:
            keep(visual[id(module)], output[1])
        return output

    if visual:
        file.eager_attention_forward = listening
    try:
        run(model, inputs, output_attentions=True)
    finally:
        if visual:
            file.eager_attention_forward = eager
        for hook in hooks:
            hook.remove()
    return found


def rows(graph) -> torch.Tensor:
    """Which rows of the weights belong to valid queries: ``(b, h, n)``."""
    b, h, n = graph.shape[:3]
    valid = torch.ones(b, n, dtype=torch.bool) if graph.query_mask is None else graph.query_mask
    return valid[:, None].expand(b, h, n)


def same_rows(graph, weight, **tolerance):
    torch.testing.assert_close(graph.weight[rows(graph)], weight[rows(graph)], **tolerance)


TIGHT = dict(rtol=0, atol=1e-5)


@pytest.mark.parametrize("family, left", sides_of_padding)
def test_weights_are_the_models_own(family, left):
    model, inputs = family.model(), family.inputs(left)
    own, graphs = own_weights(family, model, inputs), read(model, inputs)
    assert set(graphs) == set(family.layers)
    for name, graph in graphs.items():
        same_rows(graph, own[name], **TIGHT)
        assert (graph.weight[~rows(graph)] == 0).all()


@every_family
def test_kind_causality_and_modality(family):
    def side(modality):
        return "mixed" if isinstance(modality, torch.Tensor) else str(modality)

    graphs = read(family.model(), family.inputs())
    got = {
        name: " ".join(
            [
                graph.kind,
                "causal" if graph.causal else "both",
                side(graph.query_modality),
                side(graph.value_modality),
            ]
        )
        for name, graph in graphs.items()
    }
    assert got == family.layers


@pytest.mark.parametrize(
    "family, left", [case for case in sides_of_padding if "vit" not in case.id.split("-")]
)
def test_padding(family, left):
    """Self-attention over padded words has them as invalid queries and invisible values; so has what follows
    it."""
    inputs = family.inputs(left)
    own = "decoder_" if "attention_mask" not in inputs else ""
    ids, mask = inputs[f"{own}input_ids"], inputs[f"{own}attention_mask"].bool()
    valid = mask[inputs.get("image_embeds_position_mask", ids == IMAGE) == 0].view(2, 7)
    checked = 0
    for graph in read(family.model(), inputs).values():
        if graph.kind == "self":
            words = torch.ones(graph.shape[::2][:2], dtype=torch.bool) & torch.as_tensor(
                graph.query_modality == "text"
            )
            if isinstance(graph.query_modality, torch.Tensor):
                words = ~graph.query_modality
            if (words.sum(1) == 7).all():
                padding = torch.zeros_like(words).masked_scatter(words, ~valid)
                assert torch.equal(graph.query_mask, ~padding)
                assert not graph.visible.transpose(1, 2)[padding].any()
                checked += 1
        elif graph.shape[3] == mask.shape[1] and graph.value_modality == "text":
            assert (graph.weight.transpose(2, 3)[~mask[:, None].expand(-1, graph.shape[1], -1)] == 0).all()
    assert checked > 0


def alone(inputs, example: int) -> dict:
    """One example of a batch, its words without their padding."""
    given = {name: x.chunk(2)[example] for name, x in inputs.items()}
    along = ("mm_token_type_ids", "cross_attention_mask", "image_embeds_position_mask")
    for side in ("", "decoder_", "qformer_"):
        mask = given.get(f"{side}attention_mask")
        if mask is not None:
            for name in (f"{side}input_ids", f"{side}attention_mask", *(along if not side else ())):
                if name in given:
                    given[name] = given[name][:, mask[0].bool()]
    return given


def valid_parts(graph, examples: slice) -> list[tuple]:
    """For each example (or window) the valid nodes' weights, and which queries and values are images, as far
    as known."""
    b, _, n, m, _ = graph.shape
    seen = torch.ones(b, n, m, dtype=torch.bool) if graph.visible is None else graph.visible.expand(b, n, m)
    parts = []
    for k in range(b)[examples]:
        queries, values = seen[k].any(1), seen[k].any(0)
        sides = zip(graph.is_image(), (queries, values))
        parts.append(
            (
                graph.weight[k][:, queries][:, :, values],
                *(None if x is None else x[k][kept] for x, kept in sides),
            )
        )
    return parts


@every_family
def test_a_graph_does_not_depend_on_its_batch(family):
    """Kind, causality, modality and weights are those of each example alone, without padding."""
    model, inputs = family.model(), family.inputs()
    batch = read(model, inputs)
    singles = [(k, name, one) for k in (0, 1) for name, one in read(model, alone(inputs, k)).items()]
    for example, name, one in singles:
        apart = "visual.blocks" in name  # Qwen2-VL's images are calls of their own
        many = batch[f"{name}#2" if apart and example else name]
        b = many.shape[0] // 2
        assert (many.kind, many.causal) == (one.kind, one.causal), name
        got = valid_parts(many, slice(None) if apart else slice(example * b, (example + 1) * b))
        for (weight, *sides), (weight_alone, *sides_alone) in zip(
            got, valid_parts(one, slice(None)), strict=True
        ):
            for side, side_alone in zip(sides, sides_alone):
                assert (side is None) == (side_alone is None) and (
                    side is None or torch.equal(side, side_alone)
                ), name
            if "Vilt" not in type(model).__name__:  # it draws the order of its patches
                torch.testing.assert_close(weight, weight_alone, rtol=1e-4, atol=1e-5)


@every_family
def test_the_graph_gives_the_attention_output(family):
    """M V, through W_o and its bias, is what the model's projection puts out."""
    model, inputs = family.model(), family.inputs()
    handle = instrument(model)
    projected: dict[str, list[torch.Tensor]] = {name: [] for name in handle.sites}
    hooks = [
        site.output.register_forward_hook(lambda m, a, out, name=name: projected[name].append(out))
        for name, site in handle.sites.items()
        if site.output is not None
    ]
    with record(model) as graphs:
        run(model, inputs)
    for hook in hooks:
        hook.remove()
    for name, calls in graphs.items():
        if handle.sites[name].output is None:  # nodes are channels
            assert "channel_attn" in name and calls[0].metric is None
            continue
        if len(projected[name]) < len(calls):  # Qwen2-VL projects all images together
            n = [graph.shape[2] for graph in calls]
            projected[name] = [part[None] for part in projected[name][0].split(n)]
        for graph, want in zip(calls, projected[name], strict=True):
            norm = getattr(handle.sites[name].module, "inner_attn_ln", None)  # Kosmos-2's
            context = (graph.weight @ graph.value).transpose(1, 2).flatten(2)
            valid = rows(graph)[:, 0]
            with torch.no_grad():
                got = handle.sites[name].output(context if norm is None else norm(context))
            torch.testing.assert_close(got[valid], want[valid], rtol=1e-5, atol=2e-5)
            w = handle.sites[name].output.weight
            w = w if type(handle.sites[name].output).__name__ == "Conv1D" else w.T  # h·d, width
            one = graph.query[0, 1, 0] @ w.reshape(graph.shape[1], graph.shape[4], -1)[1]
            torch.testing.assert_close(
                graph.query[0, 1, 0] @ graph.metric[1] @ graph.query[0, 1, 0], one @ one
            )
    handle.remove()


@with_sdpa
def test_an_sdpa_model_gives_the_same_graphs(family):
    inputs = family.inputs()
    want = read(family.model(), inputs)
    model = family.model(implementation="sdpa")
    before = run(model, inputs)
    got = read(model, inputs)
    for name in want:
        assert torch.equal(got[name].weight, want[name].weight)
        assert torch.equal(got[name].value, want[name].value)
    assert model.config._attn_implementation == "sdpa"
    same_output(run(model, inputs), before)


def same_output(got, want, exact=True):
    pairs = [(got[key], want[key]) for key in want if isinstance(want[key], torch.Tensor)]
    assert pairs
    for a, b in pairs:
        torch.testing.assert_close(a, b, **(dict(rtol=0, atol=0) if exact else dict(rtol=1e-4, atol=1e-5)))


@every_family
@pytest.mark.parametrize("fails", [False, True], ids=["", "after an error"])
def test_the_model_is_as_before(family, fails):
    model, inputs = family.model(implementation="sdpa" if family.sdpa else "eager"), family.inputs()

    def state():
        hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
        configs = [
            (id(m.config), str(m.config._attn_implementation))
            for m in model.modules()
            if hasattr(m, "config")
        ]
        return [type(m) for m in model.modules()], hooks, configs, [sorted(vars(m)) for m in model.modules()]

    output, before = run(model, inputs), state()
    if fails:
        with pytest.raises(ZeroDivisionError), record(model):
            raise ZeroDivisionError
    else:
        with record(model):
            assert state() != before
            run(model, inputs)
    assert state() == before
    assert all(type(config) is str for _, config in state()[2])
    same_output(run(model, inputs), output)


@every_family
def test_an_eager_model_computes_the_same_while_it_is_read(family):
    model, inputs = family.model(), family.inputs()
    want = run(model, inputs)
    with record(model):
        same_output(run(model, inputs), want, family.exact)


@every_family
def test_bfloat16(family):
    model, inputs = family.model().bfloat16(), family.inputs()
    inputs = {k: v.bfloat16() if v.is_floating_point() else v for k, v in inputs.items()}
    own, graphs = own_weights(family, model, inputs), read(model, inputs)
    for name, graph in graphs.items():
        assert graph.weight.dtype == torch.bfloat16
        assert graph.metric.dtype == torch.float32 if "channel_attn" not in name else graph.metric is None
        assert torch.equal(graph.weight[rows(graph)], own[name][rows(graph)])


@every_family
def test_training_with_dropout(family):
    """M is read before dropout, and the model draws the dropout that it draws without us."""
    model, inputs, p = family.model().train(), family.inputs(), 0.3
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = p
        for name in ("dropout", "attention_dropout"):
            if isinstance(getattr(part, name, None), float):
                setattr(part, name, p)
    own, want = own_weights(family, model, inputs), run(model, inputs)
    with record(model) as graphs:
        same_output(run(model, inputs), want, family.exact)
    dropped = 0
    for name, calls in graphs.items():
        for key, graph in zip((name, f"{name}#2"), calls):
            valid = rows(graph)
            torch.testing.assert_close(graph.weight.sum(-1)[valid], torch.ones(int(valid.sum())))
            ours, theirs = graph.weight[valid], own[key][valid]
            kept = theirs != 0
            lost = int((~kept & (ours > 0)).sum())
            if lost:  # BLIP's and TrOCR's return what we read, others what is left of it
                ours, theirs = ours[kept], theirs[kept] * (1 - p)
            dropped += lost
            torch.testing.assert_close(ours, theirs, **TIGHT)
    assert dropped > 0 or "decoder" in name


# ---- decoding --------------------------------------------------------------------------------------------


def prompt(family) -> dict:
    inputs = family.inputs(left=True)
    inputs = {name: value for name, value in inputs.items() if not name.startswith("decoder_")}
    if "text_decoder" in family.generates:  # BLIP's generate pads wrongly and drops the last token
        inputs["attention_mask"] = torch.ones_like(inputs["attention_mask"])
    return inputs


@every_writer
@pytest.mark.parametrize("beams", [1, 2])
def test_cached_generation_gives_the_rows_of_the_whole_text(family, beams):
    """The steps with a cache, put together, are the last call without one: weights, queries, degrees,
    modality."""
    model = family.model(seed=2)
    model.generation_config.update(eos_token_id=None, forced_eos_token_id=None)
    more = dict(num_beams=beams, do_sample=False, max_new_tokens=4, min_new_tokens=4)
    calls = {}
    for cached in (True, False):
        torch.manual_seed(0)
        with record(model, layers=family.generates) as calls[cached], torch.no_grad():
            model.generate(**prompt(family), use_cache=cached, **more)
    assert calls[True] and set(calls[True]) == set(calls[False])
    for name, steps in calls[True].items():
        assert len(steps) == len(calls[False][name]) == 4
        for step, whole in zip(steps, calls[False][name]):
            n, m = step.shape[2:4]
            assert whole.shape[3] == m and step.kind == whole.kind and step.causal and whole.causal
            valid = rows(step)
            for get in (
                lambda g: g.weight,
                lambda g: g.query,
                lambda g: g.value_degree("sum"),
                lambda g: g.value_degree("mean"),
            ):
                torch.testing.assert_close(
                    get(step)[valid], get(whole)[:, :, -n:][valid], rtol=1e-3, atol=1e-4
                )
            for got, want in zip(step.is_image(), whole.is_image()):
                if got is not None and want is not None:
                    assert torch.equal(got, want[:, -got.shape[1] :])
        assert [g.shape[2] for g in steps[1:]] == [1, 1, 1]
        assert steps[-1].past_degree is not None
        if family.layers[name] == "self causal mixed mixed":
            assert isinstance(steps[-1].value_modality, torch.Tensor) and steps[-1].query_modality == "text"


def test_image_tokens_are_where_the_prompt_has_them():
    family = FAMILIES["llava"]
    inputs = family.inputs()
    graph = read(family.model(), inputs)["model.language_model.layers.0.self_attn"]
    assert torch.equal(graph.query_modality, inputs["input_ids"] == IMAGE)
    without = {"input_ids": words(), "attention_mask": torch.ones(2, 7, dtype=torch.long)}
    graph = read(family.model(), without)["model.language_model.layers.0.self_attn"]
    assert graph.query_modality == graph.value_modality == "text"
    model = family.model()
    embeds = model.get_input_embeddings()(words())
    graph = read(model, {"inputs_embeds": embeds})["model.language_model.layers.0.self_attn"]
    assert graph.query_modality is None  # nobody says which of them are images


def test_image_tokens_follow_the_beams():
    """BLIP-2's generate embeds the prompt itself, and copies what it embedded for its beams."""
    family = FAMILIES["blip2"]
    model, inputs = family.model(), family.inputs()
    inputs["input_ids"][1] = inputs["input_ids"][1].flip(0)
    inputs["attention_mask"][:] = 1
    with record(model, layers="language_model.*.0.*") as graphs, torch.no_grad():
        model.generate(**inputs, num_beams=2, max_new_tokens=2, min_new_tokens=2, do_sample=False)
    ((first, second),) = graphs.values()
    images = (inputs["input_ids"] == IMAGE).repeat_interleave(2, 0)
    assert torch.equal(first.query_modality, images) and torch.equal(second.value_modality[:, :-1], images)


def test_recording_must_start_with_the_cache():
    model = FAMILIES["llama"].model()
    cache = run(model, {"input_ids": words()}, use_cache=True).cache
    with (
        pytest.raises(UserError, match="cache holds 7 earlier tokens, but the attention graph saw 0"),
        record(model),
    ):
        run(model, {"input_ids": words(1)}, cache=cache, use_cache=True)


def test_a_sliding_window_drops_the_degrees_of_the_values_that_leave_it():
    import transformers as hf

    config = hf.MistralConfig(
        vocab_size=41,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        sliding_window=4,
        attn_implementation="eager",
    )
    torch.manual_seed(0)
    model = hf.MistralForCausalLM(config).eval()
    ids = words(10)
    whole = read(model, {"input_ids": ids})
    with record(model) as steps, torch.no_grad():
        cache = hf.DynamicCache(config=config)
        for start, end in ((0, 6), (6, 8), (8, 9), (9, 10)):
            model(ids[:, start:end], cache=cache, use_cache=True)
    for name, calls in steps.items():
        assert [g.shape[3] for g in calls] == [6, 5, 4, 4]
        end = 0
        for step in calls:
            n, m = step.shape[2:4]
            end += n
            want = whole[name].value_degree()[:, :, end - n : end, end - m : end]
            torch.testing.assert_close(step.value_degree(), want)


def test_long_prompts_do_not_keep_all_their_degrees():
    """Of a long call the last rows are kept: the cache can be cropped by fewer, and not by more."""
    model = FAMILIES["llama"].model()
    ids = words(150)
    whole = read(model, {"input_ids": ids})
    steps = []
    with record(model, on_graph=lambda name, graph: steps.append(graph)), torch.no_grad():
        cache = model(ids[:, :140], use_cache=True).cache
        (degrees,) = cache.layers[0].degrees.values()
        assert (
            degrees.totals[0].shape[2] == 64
            and degrees.totals[0].untyped_storage().nbytes() == degrees.totals[0].nbytes
        )
        cache.crop(-63)
        model(ids[:, 77:], cache=cache, use_cache=True)
        with pytest.raises(UserError, match="cropped by 100 of the 140 tokens of one forward pass"):
            model(ids[:, :140], use_cache=True).cache.crop(-100)
    for step, graph in zip(steps[2:4], whole.values(), strict=True):
        assert step.shape[2] == 73
        torch.testing.assert_close(step.value_degree(), graph.value_degree()[:, :, 77:], rtol=1e-4, atol=1e-4)


def test_words_in_a_q_former_are_words():
    """BLIP-2's retrieval runs it over queries and words, over queries alone and over words alone."""
    import transformers as hf

    config = hf.Blip2Config(
        vision_config=VISION,
        num_query_tokens=3,
        image_text_hidden_size=16,
        image_token_index=IMAGE,
        qformer_config=QFORMER | dict(use_qformer_text_input=True, max_position_embeddings=64),
    )
    model = far_from_zero(hf.Blip2ForImageTextRetrieval(config), 0)
    inputs, first = text(images=3) | pixels(), "qformer.encoder.layer.0.attention.attention"
    graphs = capture(model, inputs | dict(use_image_text_matching_head=True), layers="qformer*")
    n = graphs[first].shape[2]
    assert n > 3 and torch.equal(graphs[first].query_modality, (torch.arange(n) < 3).expand(2, -1))
    cross = graphs["qformer.encoder.layer.0.crossattention.attention"]
    assert cross.shape[2] == 3 and cross.query_modality == cross.value_modality == "image"
    graphs = capture(model, inputs, layers="qformer*")
    sides = [
        (graph.query_modality, graph.value_modality)
        for name, graph in graphs.items()
        if name.startswith(first)
    ]
    assert sides == [("image",) * 2, ("text",) * 2]


# ---- choosing, sparsifying, streaming --------------------------------------------------------------------


def test_layers_by_name_and_pattern():
    family = FAMILIES["blip"]
    model, inputs = family.model(), family.inputs()
    one = "text_decoder.bert.encoder.layer.1.crossattention.self"
    assert list(read(model, inputs, layers=one)) == [one]
    assert list(read(model, inputs, layers=["*layer.0.cross*", "vision*.0.*"])) == [
        "vision_model.encoder.layers.0.self_attn",
        "text_decoder.bert.encoder.layer.0.crossattention.self",
    ]
    with pytest.raises(
        UserError, match=r"no attention layer is called 'layer.7'; there are vision_model.encoder.layers.0"
    ):
        read(model, inputs, layers=[one, "layer.7"])
    assert not hasattr(model.get_submodule(one), "attngraph")  # and nothing stays behind


def test_heads():
    family = FAMILIES["llama"]
    model, inputs = family.model(), family.inputs()
    whole, part = read(model, inputs), read(model, inputs, heads=[3, 1])
    for name in whole:
        for field in ("query", "value", "weight"):
            assert torch.equal(getattr(part[name], field), getattr(whole[name], field)[:, [3, 1]])
        assert torch.equal(part[name].metric, whole[name].metric[[3, 1]])
    with pytest.raises(UserError, match=r"model.layers.0.self_attn has heads 0..3, not 4"):
        read(model, inputs, heads=[0, 4])
    with record(model, heads=[2]) as steps, torch.no_grad():
        model.generate(**prompt(family), max_new_tokens=3, min_new_tokens=3, do_sample=False)
    assert all(g.shape[1] == 1 for calls in steps.values() for g in calls)


@pytest.mark.parametrize("rule", [{"top_k": 2}, {"threshold": 0.2}, {"mass": 0.6}], ids=str)
def test_sparse_graphs_hold_their_edges_only(rule):
    model = FAMILIES["llama"].model()
    inputs = {"input_ids": words(40)}
    whole, sparse = read(model, inputs), read(model, inputs, **rule)
    for name in whole:
        want = whole[name].sparsify(**rule)
        assert torch.equal(sparse[name].weight, want.weight)
        assert torch.equal(copy.deepcopy(sparse[name]).value_degree(), want.value_degree())
        edges = vars(sparse[name])["_weight"]
        kept = edges.index.nbytes + edges.values.nbytes
        assert kept == 8 * int((want.weight > 0).sum())
    assert sum(vars(sparse[name])["_weight"].values.nbytes for name in sparse) < sum(
        graph.weight.nbytes for graph in whole.values()
    )
    assert (
        len({graph.value_mask.untyped_storage().data_ptr() for graph in sparse.values()}) == 1
    )  # one mask for all layers


def test_sparse_graphs_in_cached_decoding():
    """Each step sees what the sparse graphs of earlier steps left, as the sparse graph of the whole text has
    it."""
    family = FAMILIES["llama"]
    model = family.model()
    ids = words()
    whole = read(model, {"input_ids": ids}, top_k=2)
    with record(model, top_k=2) as steps, torch.no_grad():
        cache = model(ids[:, :4], use_cache=True).cache
        model(ids[:, 4:], cache=cache, use_cache=True)
    for name in whole:
        torch.testing.assert_close(steps[name][1].value_degree(), whole[name].value_degree()[:, :, 4:])


def test_rules_are_checked_before_the_model_runs():
    model = FAMILIES["llama"].model()
    for rules, message in (({"top_k": 1, "mass": 0.5}, "exactly one"), ({"top_k": 0}, "at least 1")):
        with pytest.raises(ValueError, match=message):
            capture(model, {}, **rules)
    with pytest.raises(UserError, match="sparse graphs keep no gradients"):
        capture(model, {}, top_k=1, detach=False)


def test_streaming():
    model = FAMILIES["llama"].model()
    order = []
    with record(model, on_graph=lambda name, graph: order.append((name, graph.shape[2]))) as graphs:
        for n in (3, 5):
            run(model, {"input_ids": words(n)})
    names = list(FAMILIES["llama"].layers)
    assert order == [(name, n) for n in (3, 5) for name in names]
    assert list(graphs) == names and not any(graphs.values())


def test_gradients():
    family = FAMILIES["bert"]
    model, inputs = family.model(), family.inputs()
    assert not any(g.weight.requires_grad for g in capture(model, inputs).values())
    graphs = capture(model, inputs, detach=False)
    graph = graphs["encoder.layer.1.attention.self"]
    assert graph.metric.requires_grad
    graph.weight.square().sum().backward()
    assert model.encoder.layer[0].attention.self.query.weight.grad.abs().sum() > 0
    with record(model) as graphs:
        loss = model(**inputs).last_hidden_state.sum()
    loss.backward()  # training goes on while its graphs are kept, cut off
    assert not any(g.weight.requires_grad for calls in graphs.values() for g in calls)


def test_inputs_may_be_the_models_first_argument():
    model = FAMILIES["llama"].model()
    one, other = capture(model, words()), capture(model, {"input_ids": words()})
    assert all(torch.equal(one[name].weight, other[name].weight) for name in other)


# ---- nothing is missed silently, nothing false gets through ----------------------------------------------


class HomeMadeAttention(torch.nn.Module):
    def forward(self, x):
        return (x @ x.transpose(1, 2)).softmax(-1) @ x


class HomeMadeSelfAttention(torch.nn.Module):
    def __init__(self, attention):
        super().__init__()
        self.value = attention.value

    def forward(self, x, *args, **kwargs):
        return self.value(x), None


def with_an_unreadable_layer():
    model = FAMILIES["bert"].model()
    model.encoder.layer[1].output.register_forward_hook(lambda m, a, out: m.extra(out))
    model.encoder.layer[1].output.extra = HomeMadeAttention()
    return model


def test_a_layer_that_ran_unseen_is_named():
    model, inputs = with_an_unreadable_layer(), FAMILIES["bert"].inputs()
    unseen = r"no attention was seen in encoder.layer.1.output.extra \(HomeMadeAttention\)"
    with pytest.raises(UserError, match=unseen) as told:
        capture(model, inputs)
    patterns = ["encoder.layer.*.attention.self"]
    assert f"layers={patterns} (--layers 'encoder.layer.*.attention.self' on the command line)" in str(
        told.value
    )
    assert len(capture(model, inputs, layers=patterns)) == 2


def test_the_layers_that_can_be_read_are_named_one_by_one_where_a_pattern_takes_in_others():
    model, inputs = FAMILIES["bert"].model(), FAMILIES["bert"].inputs()
    attention = model.encoder.layer[0].attention.self
    model.encoder.layer[0].attention.self = HomeMadeSelfAttention(attention)
    with pytest.raises(UserError, match=r"layers=\['encoder.layer.1.attention.self'\]"):
        capture(model, inputs)


def test_models_without_attention():
    with pytest.raises(UserError, match="Linear has no attention layer that can be read$"):
        capture(torch.nn.Linear(2, 2), torch.ones(1, 2))
    with pytest.raises(
        UserError, match="Sequential has no attention layer that can be read: HomeMadeAttention use"
    ):
        capture(torch.nn.Sequential(HomeMadeAttention()), torch.ones(1, 2, 2))


def test_nothing_ran():
    family = FAMILIES["t5"]
    model = family.model()
    with pytest.raises(UserError, match="no attention layer ran"), record(model):
        pass
    with pytest.raises(UserError, match="no attention layer ran"), record(model, layers="decoder.*"):
        run(model.encoder, {"input_ids": words()})
    graphs = capture(
        FAMILIES["blip"].model().text_decoder, {"input_ids": words()}
    )  # no image: no cross-attention, no error
    assert len(graphs) == 2 and all(graph.kind == "self" for graph in graphs.values())


def test_nan_and_inf_are_refused():
    model = FAMILIES["bert"].model()
    with torch.no_grad():
        model.encoder.layer[1].attention.self.key.weight[0] = float("nan")
    with pytest.raises(
        UserError, match="encoder.layer.1.attention.self: the attention weights hold NaN or Inf"
    ):
        capture(model, FAMILIES["bert"].inputs())
    assert capture(model, FAMILIES["bert"].inputs(), layers="*layer.0*")


def changed_eager(monkeypatch, change):
    from transformers.models.llama import modeling_llama

    eager = modeling_llama.eager_attention_forward

    def changed(module, *args, **kwargs):
        context, weight = eager(module, *args, **kwargs)
        return context, change(weight)

    monkeypatch.setattr(modeling_llama, "eager_attention_forward", changed)


@pytest.mark.parametrize(
    "change",
    [lambda w: 1.1 * w, lambda w: 0.5 * w, lambda w: 2 * w - w.flip(-1)],
    ids=["more than 1", "less than 1", "negative"],
)
def test_weights_that_are_no_distribution_are_refused(change, monkeypatch):
    changed_eager(monkeypatch, change)
    with pytest.raises(
        UserError, match="model.layers.0.self_attn: the attention weights are not a distribution"
    ):
        capture(FAMILIES["llama"].model(), {"input_ids": words()})


def test_attention_sinks_take_a_share():
    import transformers as hf

    config = hf.GptOssConfig(
        vocab_size=41,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        num_local_experts=2,
        num_experts_per_tok=1,
    )
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    model = hf.GptOssForCausalLM(config).eval()
    graphs = capture(model, {"input_ids": words()})
    own = run(model, {"input_ids": words()}, output_attentions=True).attentions
    for graph, weight in zip(graphs.values(), own, strict=True):
        torch.testing.assert_close(graph.weight, weight, **TIGHT)
        assert (graph.query_degree() < 0.99).all()


def test_widths_that_differ_are_refused():
    import transformers as hf

    config = hf.DeepseekV3Config(
        vocab_size=41,
        hidden_size=16,
        intermediate_size=16,
        moe_intermediate_size=8,
        num_hidden_layers=1,
        first_k_dense_replace=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        q_lora_rank=8,
        kv_lora_rank=8,
        qk_rope_head_dim=4,
        qk_nope_head_dim=4,
        v_head_dim=6,
        n_routed_experts=2,
        n_group=1,
        topk_group=1,
        num_experts_per_tok=1,
    )
    with pytest.raises(
        UserError, match="model.layers.0.self_attn: queries have 8 features per head and values 6"
    ):
        capture(hf.DeepseekV3ForCausalLM(config).eval(), {"input_ids": words()})


def test_without_an_output_projection_there_is_no_metric():
    model = FAMILIES["bert"].model()
    model.encoder.layer[0].attention.output = torch.nn.Module()
    model.encoder.layer[0].attention.output.forward = lambda hidden, residual: hidden + residual
    graphs = capture(model, FAMILIES["bert"].inputs())
    assert [graph.metric is None for graph in graphs.values()] == [True, False]


def test_importing_attngraph_is_quick():
    import subprocess

    code = "import sys, attngraph; print(*sys.modules, *attngraph.__all__)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    slow = {"transformers", "torch_geometric", "networkx"}
    assert not slow & set(out.stdout.split()) and "capture" in out.stdout.split()
    assert attngraph.capture is capture
    with pytest.raises(AttributeError):
        getattr(attngraph, "nothing")  # noqa: B009  the attribute is looked up, and is not there
