"""The attention graphs of all four parts of mPLUG: kind, causality, modality, and the model's own weights."""

import pytest
import torch

from attngraph import capture
from tests.experiments.models.mplug.inputs import inputs
from tests.experiments.tiny import mplug

NODES = 5  # of a picture


def layers(asks: bool) -> dict[str, str]:
    """What each layer is."""
    own, crossed = "attention.self", "crossattention.self"
    found = {f"vision_model.encoder.layers.{k}.self_attn": "self both image image" for k in range(2)}
    if asks:
        found |= {f"text_encoder.encoder.layer.{k}.{own}": "self both text text" for k in range(2)}
        found |= {f"fusion_encoder.layer.{k}.{own}": "self both text text" for k in (0, 1, 3)}
        found |= {f"fusion_encoder.layer.{k}.{crossed}": "cross both text image" for k in (0, 1, 3)}
        found[f"fusion_encoder.layer.2.{own}"] = "self both mixed mixed"
    for k in range(2):
        name = f"text_decoder.bert.encoder.layer.{k}"
        found[f"{name}.{own}"] = "self causal text text"
        found[f"{name}.{crossed}"] = f"cross causal text {'mixed' if asks else 'image'}"
    return found


def described(graph) -> str:
    def side(modality):
        return "mixed" if isinstance(modality, torch.Tensor) else str(modality)

    order = "causal" if graph.causal else "both"
    return f"{graph.kind} {order} {side(graph.query_modality)} {side(graph.value_modality)}"


@pytest.mark.parametrize("asks", [True, False], ids=["vqa", "caption"])
def test_kind_causality_and_modality(asks):
    graphs = capture(mplug(), inputs(asks))
    assert {name: described(graph) for name, graph in graphs.items()} == layers(asks)


def test_where_nodes_are_mixed_the_image_comes_first():
    graphs = capture(mplug(), inputs())
    words = inputs()["input_ids"].shape[1]
    wanted = (torch.arange(NODES + words) < NODES).expand(2, -1)
    joined = graphs["fusion_encoder.layer.2.attention.self"]
    assert torch.equal(joined.query_modality, wanted) and torch.equal(joined.value_modality, wanted)
    for k in range(2):
        graph = graphs[f"text_decoder.bert.encoder.layer.{k}.crossattention.self"]
        assert torch.equal(graph.value_modality, wanted)
        hidden = torch.cat([torch.ones(2, NODES), inputs()["attention_mask"]], 1) == 0
        assert (graph.weight.transpose(1, 3)[hidden] == 0).all() and hidden.any()


@pytest.mark.parametrize("kind, asks", [("eager", False), ("sdpa", True)])
def test_weights_and_logits_are_the_models_own(kind, asks):
    model, given, own = mplug(), inputs(asks), {}
    model.set_attn_implementation("eager")
    graphs = capture(model, given)
    for name in graphs:
        model.get_submodule(name).register_forward_hook(
            lambda _, __, out, name=name: own.update({name: out[1]})
        )
    with torch.no_grad():
        logits = model(**given).logits
    for name, graph in graphs.items():
        b, h, n = graph.weight.shape[:3]
        valid = torch.ones(b, n, dtype=torch.bool) if graph.query_mask is None else graph.query_mask
        rows = valid[:, None].expand(b, h, n)
        torch.testing.assert_close(graph.weight[rows], own[name][rows], rtol=0, atol=1e-6)
    model.set_attn_implementation(kind)
    again = capture(model, given)
    assert all(torch.equal(again[name].weight, graph.weight) for name, graph in graphs.items())
    with torch.no_grad():
        torch.testing.assert_close(model(**given).logits, logits, rtol=1e-4, atol=1e-5)
