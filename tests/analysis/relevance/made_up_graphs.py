"""Small graphs of made-up models, with random gradients of their weights."""

import torch

from attngraph import AttentionGraph

Graphs = dict[str, AttentionGraph]


def softmax(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).softmax(-1)


def graph(weight: torch.Tensor, kind: str, sides: tuple[str, str], causal: bool = False) -> AttentionGraph:
    b, h, n, m = weight.shape
    return AttentionGraph(
        torch.zeros(b, h, n, 1),
        torch.zeros(b, h, m, 1),
        weight,
        kind=kind,
        query_modality=sides[0],
        value_modality=sides[1],
        causal=causal,
    )


def random_gradients(graphs: Graphs, seed: int) -> dict[str, torch.Tensor]:
    """Gradients of both signs for the weights of all graphs."""
    draw = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(graph.weight.shape, generator=draw, dtype=torch.float64)
        for name, graph in graphs.items()
    }


def positive_parts(graphs: Graphs, gradients: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Equation (5) of every layer."""
    return {name: (graph.weight * gradients[name]).clamp(min=0).mean(1) for name, graph in graphs.items()}


def encoder_and_decoder() -> tuple[dict[str, AttentionGraph], dict[str, torch.Tensor]]:
    """Two layers of an encoder of 4 nodes, two of a decoder of 3; random gradients of both signs."""
    b, h, n, m = 2, 2, 3, 4
    image, text = ("image", "image"), ("text", "text")
    graphs = {f"e{k}": graph(softmax(b, h, m, m, seed=1 + k), "self", image) for k in range(2)}
    for k in range(2):
        own = softmax(b, h, n, n, seed=3 + k).tril()
        graphs[f"s{k}"] = graph(own / own.sum(-1, keepdim=True), "self", text, causal=True)
        graphs[f"c{k}"] = graph(softmax(b, h, n, m, seed=7 + k), "cross", ("text", "image"), causal=True)
    return graphs, random_gradients(graphs, 11)


def two_streams() -> tuple[dict[str, AttentionGraph], dict[str, torch.Tensor]]:
    """Words and regions that look at themselves and then, by one module, at one another; twice."""
    graphs = {}
    for k in range(2):
        graphs[f"s{k}"] = graph(softmax(2, 2, 3, 3, seed=20 + k), "self", ("text", "text"))
        graphs[f"e{k}"] = graph(softmax(2, 2, 4, 4, seed=30 + k), "self", ("image", "image"))
        graphs[f"x{k}"] = graph(softmax(2, 2, 3, 4, seed=40 + k), "cross", ("text", "image"))
        graphs[f"x{k}#2"] = graph(softmax(2, 2, 4, 3, seed=50 + k), "cross", ("image", "text"))
    return graphs, random_gradients(graphs, 12)


def through_queries() -> tuple[dict[str, AttentionGraph], dict[str, torch.Tensor], torch.Tensor]:
    """Two queries that look at four image nodes and become the image tokens of a sequence of five, at other
    places in each example."""
    image = torch.tensor([[0, 1, 1, 0, 0], [0, 0, 1, 1, 0]]).bool()
    own = softmax(2, 2, 5, 5, seed=63).tril()
    graphs = {
        "e": graph(softmax(2, 2, 4, 4, seed=60), "self", ("image", "image")),
        "q": graph(softmax(2, 2, 2, 2, seed=61), "self", ("image", "image")),
        "c": graph(softmax(2, 2, 2, 4, seed=62), "cross", ("image", "image")),
        "l": graph(own / own.sum(-1, keepdim=True), "self", (image, image), causal=True),
    }
    return graphs, random_gradients(graphs, 13), image
