"""What is read from a model is what the model computed: every layer of every family in the zoo."""

import sys

import pytest
import torch

from attngraph import record
from attngraph.reading.instrument import instrument
from tests.attngraph.reading.running import TIGHT, read, rows, run
from tests.attngraph.reading.zoo import FAMILIES, IMAGE, WITHOUT_OUTPUT

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
                keep(name, given[-1].permute(2, 3, 0, 1) if "XLNet" in type(module).__name__ else given[-1])

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


def same_rows(graph, weight, **tolerance):
    torch.testing.assert_close(graph.weight[rows(graph)], weight[rows(graph)], **tolerance)


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
    "family, left",
    [
        case
        for case in sides_of_padding
        if any(name.endswith("attention_mask") for name in case.values[0].inputs())
    ],
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
        if handle.sites[name].output is None:
            assert name.endswith(WITHOUT_OUTPUT) and calls[0].metric is None
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
        if name.endswith(WITHOUT_OUTPUT):
            assert graph.metric is None
        else:
            assert graph.metric.dtype == torch.float32
        assert torch.equal(graph.weight[rows(graph)], own[name][rows(graph)])


@every_family
def test_training_with_dropout(family):
    """M is read before dropout, and the model draws the dropout that it draws without us."""
    model, inputs, p = family.model().train(), family.inputs(), 0.3
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = p
        for name in ("dropout", "attention_dropout", "attn_dropout_p"):
            if type(getattr(part, name, None)) in (int, float):
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
    quiet = ("Blip", "TrOCR", "XGLM", "Falcon")  # Falcon has none with rotary positions
    assert dropped > 0 or type(model).__name__.startswith(quiet) or "decoder" in name
