"""Routes of models of all kinds, and the operators along routes of several hops."""

import pytest
import torch

from attngraph.analysis.relevance import capture_with_gradients, image_nodes, raw, relevance, rollout, route
from tests.analysis.relevance.made_up_graphs import (
    graph,
    positive_parts,
    random_gradients,
    softmax,
    through_queries,
)
from tests.attngraph.reading.zoo import FAMILIES

ROUTES = {
    "llama": ["model.layers.1.self_attn"],
    "clip": ["vision_model.encoder.layers.1.self_attn"],
    "siglip": ["vision_model.head.attention"],
    "t5": ["decoder.block.1.layer.1.EncDecAttention"],
    "blip": ["text_decoder.bert.encoder.layer.1.crossattention.self"],
    "blip2": [
        "language_model.model.decoder.layers.1.self_attn",
        "qformer.encoder.layer.0.crossattention.attention",
    ],
    "kosmos2": ["text_model.model.layers.1.self_attn", "image_to_text_projection.x_attn"],
    "llava": ["model.language_model.layers.1.self_attn"],
    "qwen2-vl": ["model.language_model.layers.1.self_attn"],
    "mllama": ["model.language_model.layers.2.cross_attn"],
    "florence2": ["model.language_model.decoder.layers.1.encoder_attn"],
    "donut": ["decoder.model.decoder.layers.1.encoder_attn"],
    "flava": ["multimodal_model.encoder.layer.1.attention.attention"],
    "lxmert": ["encoder.x_layers.0.visual_attention.att"],
    "segformer": ["stages.1.blocks.0.attention"],
}


@pytest.mark.parametrize("family", ROUTES)
def test_routes_of_all_kinds_of_models(family):
    model = FAMILIES[family].model()

    def score(output):  # of all that came out, for each example
        parts = [
            part for part in output.to_tuple() if isinstance(part, torch.Tensor) and part.is_floating_point()
        ]
        return sum(
            part.flatten(1).square().mean(1) for part in parts if part.requires_grad and part.shape[0] == 2
        )

    graphs, gradients = capture_with_gradients(model, FAMILIES[family].inputs(left=True), score)
    result = route(graphs)
    assert result.hops == ROUTES[family] and result.hops[0] in result.layers
    assert all(gradients[name].any() for name in result.hops)
    n, m = graphs[result.hops[0]].weight.shape[2], graphs[result.hops[-1]].weight.shape[3]
    for maps in (relevance(graphs, gradients), rollout(graphs)):
        assert maps.own.shape == (2, n, n) and maps.seen.shape == (2, n, m)
        assert maps.seen.isfinite().all() and (maps.seen >= 0).all() and maps.seen.any()
    assert raw(graphs).shape == (2, n, m)


def test_image_tokens_see_what_the_queries_saw_that_became_them():
    whole = graph(softmax(2, 2, 3, 4), "cross", ("text", "image"))
    assert (
        image_nodes(whole, 0).tolist() == [[False] * 3] * 2
        and image_nodes(whole, 1).tolist() == [[True] * 4] * 2
    )
    graphs, gradients, image = through_queries()
    assert route(graphs) == (["l"], ["l", "c"]) and torch.equal(image_nodes(graphs["l"], 0), image)
    eye = {size: torch.eye(size, dtype=torch.float64) for size in (2, 4, 5)}
    bar = positive_parts(graphs, gradients)
    mean = {name: g.weight.mean(1) for name, g in graphs.items()}

    def norm(x):  # (9), where a layer's own weights are all that was added to the identity
        return eye[x.shape[-1]] + x / x.sum(-1, keepdim=True)

    seen = norm(bar["q"]).transpose(1, 2) @ bar["c"] @ norm(bar["e"])
    mixed = 0.5 * mean["c"] @ (0.5 * (eye[4] + mean["e"]))
    for result, own, through in (
        (relevance(graphs, gradients), eye[5] + bar["l"], seen),
        (rollout(graphs), 0.5 * (eye[5] + mean["l"]), mixed),
    ):
        torch.testing.assert_close(result.own, own)
        for k in range(2):
            torch.testing.assert_close(result.seen[k], own[k][:, image[k]] @ through[k])
    for k in range(2):
        torch.testing.assert_close(raw(graphs)[k], mean["l"][k][:, image[k]] @ mean["c"][k])


def test_an_answer_sees_the_image_through_the_question():
    """A decoder that looks at a question, whose encoder looks at the image."""
    text = ("text", "text")
    own = softmax(2, 2, 2, 2, seed=73).tril()
    graphs = {
        "q": graph(softmax(2, 2, 3, 3, seed=70), "self", text),
        "c": graph(softmax(2, 2, 3, 4, seed=71), "cross", ("text", "image")),
        "s": graph(own / own.sum(-1, keepdim=True), "self", text, causal=True),
        "a": graph(softmax(2, 2, 2, 3, seed=72), "cross", text, causal=True),
    }
    gradients = random_gradients(graphs, 14)
    assert route(graphs) == (["s", "a"], ["a", "c"])
    mean = {name: graph.weight.mean(1) for name, graph in graphs.items()}
    bar = positive_parts(graphs, gradients)
    torch.testing.assert_close(raw(graphs), mean["a"] @ mean["c"])
    torch.testing.assert_close(rollout(graphs).seen, 0.25 * mean["a"] @ mean["c"])
    asked = (torch.eye(3, dtype=torch.float64) + bar["q"] / bar["q"].sum(-1, keepdim=True)).transpose(
        1, 2
    ) @ bar["c"]
    torch.testing.assert_close(relevance(graphs, gradients).seen, bar["a"] @ asked)


def test_graphs_without_a_route_are_refused():
    with pytest.raises(ValueError, match="graphs must hold a layer, got none"):
        route({})
    square = graph(softmax(2, 2, 3, 3), "self", ("text", "text"))
    with pytest.raises(ValueError, match="do not distinguish the two sides of c"):
        route({"s": square, "c": graph(softmax(2, 2, 3, 3), "cross", ("text", "text"))})
