"""What is read from a model is what the model computed: every layer of every family in the zoo."""

import sys

import pytest
import torch

from attngraph import record
from attngraph.reading.instrument import instrument
from tests.attngraph.reading.running import TIGHT, read, rows, run
from tests.attngraph.reading.zoo import FAMILIES, IMAGE, WITHOUT_OUTPUT, families

every_kind = pytest.mark.parametrize("family", families())


def own_weights(family, model, inputs) -> dict[str, torch.Tensor]:
    """The weights that the model's attention modules return in eager mode, under our names and without our
    code."""
    model.set_attn_implementation("eager")
    found: dict[str, torch.Tensor] = {}

    def keep(name, weight):
        found[name if name not in found else f"{name}#2"] = weight

    hooks = []
    for name in {key.partition("#")[0] for key in family.layers}:
        module = model.get_submodule(name)
        kind = type(module).__name__

        def hook(module, args, output, name=name, kind=kind):
            output = output if isinstance(output, tuple) else ()
            given = [x for x in output if isinstance(x, torch.Tensor) and x.dim() == 4]
            if given:  # T5 returns its position bias too, before the weights
                keep(name, given[-1].permute(2, 3, 0, 1) if "XLNet" in kind else given[-1])

        hooks.append(module.register_forward_hook(hook))
        told = dict(need_weights=True, average_attn_weights=False)
        told = told if "Multihead" in kind else dict(output_attentions=True)
        if any(word in kind for word in ("Lxmert", "FlavaSelf", "Multihead")):  # they are not always asked

            def ask(module, args, kwargs, told=told):
                return args, kwargs | told

            hooks.append(module.register_forward_pre_hook(ask, with_kwargs=True))
    quiet = ("visual.blocks", "vision_tower.blocks")  # Qwen2-VL's and Florence-2's return no weights
    visual = {
        id(model.get_submodule(name)): name
        for name in family.layers
        if any(part in name for part in quiet) and "#" not in name
    }
    file = sys.modules[type(model).__module__]
    eager = getattr(file, "eager_attention_forward", None)

    def listening(module, *args, **kwargs):
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


def tensors(output) -> list[torch.Tensor]:
    """All of a model's output: also of its parts, such as the weights of each layer."""
    if isinstance(output, torch.Tensor):
        return [output]
    parts = (
        output.values() if isinstance(output, dict) else output if isinstance(output, (tuple, list)) else ()
    )
    return [tensor for part in parts for tensor in tensors(part)]


def same_output(got, want, exact=True):
    got, want = tensors(got), tensors(want)
    assert want
    for a, b in zip(got, want, strict=True):
        # e^-100 is 1e-44: the weights of pairs that shifted windows hide
        torch.testing.assert_close(
            a, b, **(dict(rtol=0, atol=1e-42) if exact else dict(rtol=1e-4, atol=1e-5))
        )


def described(graph) -> str:
    """Kind, causality and modalities, as in ``Family.layers``."""
    sides = graph.query_modality, graph.value_modality
    sides = ("mixed" if isinstance(side, torch.Tensor) else str(side) for side in sides)
    return " ".join([graph.kind, "causal" if graph.causal else "both", *sides])


def is_padded(family) -> bool:
    return any(name.endswith("attention_mask") for name in family.inputs())


def check_weights(family, model, inputs, graphs):
    own = own_weights(family, model, inputs)
    assert set(graphs) == set(family.layers)
    for name, graph in graphs.items():
        torch.testing.assert_close(graph.weight[rows(graph)], own[name][rows(graph)], **TIGHT)
        assert (graph.weight[~rows(graph)] == 0).all()


def check_padding(inputs, graphs):
    """Self-attention over padded words has them as invalid queries and invisible values; so has what follows
    it."""
    own = "decoder_" if "attention_mask" not in inputs else ""
    ids, mask = inputs[f"{own}input_ids"], inputs[f"{own}attention_mask"].bool()
    valid = mask[inputs.get("image_embeds_position_mask", ids == IMAGE) == 0].view(2, 7)
    checked = 0
    for graph in graphs.values():
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


def check_output(site, graph, want):
    """M V, through W_o and its bias, is what the model's projection put out; the metric is that of W_o."""
    norm = getattr(site.module, "inner_attn_ln", None)  # Kosmos-2's
    context = (graph.weight @ graph.value).transpose(1, 2).flatten(2)
    valid = rows(graph)[:, 0]
    with torch.no_grad():
        got = site.output(context if norm is None else norm(context))
    torch.testing.assert_close(got[valid], want[valid], rtol=1e-5, atol=2e-5)
    w = site.output.weight
    w = w if type(site.output).__name__ == "Conv1D" else w.T  # h·d, width
    one = graph.query[0, 1, 0] @ w.reshape(graph.shape[1], graph.shape[4], -1)[1]
    torch.testing.assert_close(graph.query[0, 1, 0] @ graph.metric[1] @ graph.query[0, 1, 0], one @ one)


CHANGED = "llama llava smolvlm qwen2-vl mllama instructblip paligemma gemma3 falcon blip2 whisper".split()
CHANGED += [
    "falcon, groups",
    "gemma3n, shared keys",
    "gemma4, shared keys",
    "roformer",
    "roformer, a decoder",
]
"""Families that rotate or multiply queries before they are compared; see test_projection.py."""


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_read(name):
    """Its layers, their kind, weights, padding, features, outputs; the model computes the same meanwhile."""
    family, seen = FAMILIES[name], []
    model, inputs = family.model(), family.inputs()
    output, handle = run(model, inputs, output_attentions=True), instrument(model)
    assert set(handle.sites) == {name.partition("#")[0] for name in family.layers}
    projected: dict[str, list[torch.Tensor]] = {name: [] for name in handle.sites}
    hooks = [
        site.output.register_forward_hook(lambda m, a, out, name=name: projected[name].append(out))
        for name, site in handle.sites.items()
        if site.output is not None
    ]
    for site in handle.sites.values():
        site.listeners.append(seen.append)
    with record(model) as calls:
        same_output(run(model, inputs, output_attentions=True), output, family.exact)
    for hook in hooks:
        hook.remove()
    if name not in CHANGED:
        assert seen and all(call.feature is call.query and not call.rotated for call in seen)
    for layer, graphs in calls.items():
        site = handle.sites[layer]
        assert model.get_submodule(layer) is site.module
        if site.output is None:
            assert layer.endswith(WITHOUT_OUTPUT) and graphs[0].metric is None
            continue
        assert model.get_submodule(site.output_name) is site.output
        if len(projected[layer]) < len(graphs):  # Qwen2-VL projects all images together
            n = [graph.shape[2] for graph in graphs]
            projected[layer] = [part[None] for part in projected[layer][0].split(n)]
        for graph, want in zip(graphs, projected[layer], strict=True):
            check_output(site, graph, want)
    handle.remove()
    handle.remove()  # a second time does nothing
    graphs = {
        layer if k == 0 else f"{layer}#{k + 1}": graph
        for layer, several in calls.items()
        for k, graph in enumerate(several)
    }
    assert {layer: described(graph) for layer, graph in graphs.items()} == family.layers
    check_weights(family, model, inputs, graphs)
    if is_padded(family):
        check_padding(inputs, graphs)


@pytest.mark.parametrize("family", families(only=is_padded))
def test_padding_on_the_left(family):
    model, inputs = family.model(), family.inputs(left=True)
    graphs = read(model, inputs)
    check_weights(family, model, inputs, graphs)
    check_padding(inputs, graphs)


@every_kind
def test_an_sdpa_model_gives_the_same_graphs_and_is_as_before(family):
    eager, inputs = family.model(), family.inputs()
    model = family.model(implementation="sdpa" if eager._supports_sdpa else "eager")

    def state():
        parts = list(model.modules())
        hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in parts]
        configs = [(id(m.config), str(m.config._attn_implementation)) for m in parts if hasattr(m, "config")]
        return [type(m) for m in parts], hooks, configs, [sorted(vars(m)) for m in parts]

    output, before = run(model, inputs), state()
    with pytest.raises(ZeroDivisionError), record(model):
        raise ZeroDivisionError
    assert state() == before
    with record(model) as graphs:
        assert state() != before
        run(model, inputs)
    for name, want in read(eager, inputs).items():
        layer, _, place = name.partition("#")
        assert torch.equal(graphs[layer][int(place or 1) - 1].weight, want.weight)
    assert state() == before
    assert type(model.config._attn_implementation) is str
    same_output(run(model, inputs), output, family.exact)


@every_kind
def test_bfloat16(family):
    model, inputs = family.model().bfloat16(), family.inputs()
    inputs = {k: v.bfloat16() if v.is_floating_point() else v for k, v in inputs.items()}
    own, graphs = own_weights(family, model, inputs), read(model, inputs)
    for name, graph in graphs.items():
        assert graph.weight.dtype == torch.bfloat16
        assert name.endswith(WITHOUT_OUTPUT) or graph.metric.dtype == torch.float32
        assert torch.equal(graph.weight[rows(graph)], own[name][rows(graph)])


@pytest.mark.parametrize("family", families("trocr", "deberta", "gpt-neo"))
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
