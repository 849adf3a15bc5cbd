"""pGNN's closed form, and the bounds of its error (docs/concepts.md), in the packaged models and in those
models of docs/examples/third_party.py that are on this machine::

    python docs/examples/closed_form.py > closed-form.md

"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import torch
from third_party import third_party

from attngraph import AttentionGraph, capture
from attngraph.analysis.closed_form import closed_form
from attngraph.backends import edges_of
from attngraph.edges import rsqrt, smallest_weight
from attngraph.experiments.models import Sample, load_family
from attngraph.experiments.scenes.drawing import draw
from attngraph.experiments.scenes.scene import scenes

P = 1.5
NUMBERS = (
    "queries per value",
    "r",
    "to closed form",
    "to lengths and degrees",
    "to attention",
    "s",
    "bound: closed form",
    "bound: product",
)
Graphs = dict[str, AttentionGraph]


def shipped(name: str) -> Iterator[Graphs]:
    """The graphs of eight synthetic scenes, each with the prompt for its caption."""
    family = load_family(name)
    for scene in scenes("validation", 8, 0, "downstream"):
        sample = Sample(f"scene {scene.id}", draw(scene), scene=scene)
        yield capture(family.model, family.batch([sample]).inputs)


def bounds(graph: AttentionGraph) -> tuple[torch.Tensor, ...]:
    """Mean of s, weighted by attention, and the bounds of the total variations between pGNN's weights and the
    closed form, and between them and those without the product of query and value; means over queries."""
    edges = edges_of(graph)
    norm_q, norm_v, product = edges.products(edges.query, edges.value)
    ratio = rsqrt(edges.query_degree()) / rsqrt(edges.value_degree("sum"))
    cosine = product / (norm_q * norm_v).sqrt()
    s = ratio * (norm_q / norm_v).sqrt()
    weight = edges.weight
    visible = weight > smallest_weight(weight.dtype)
    t = 2 * s / (1 + s.square())
    largest, direction = (x.where(visible, 0).amax(-1).clamp(max=1) for x in (s, cosine.abs() * t))
    used, k = visible.any(-1), abs(P - 2)
    of_queries = (
        (weight * s.where(visible, 0)).sum(-1) / weight.sum(-1),
        (k / 2 * largest.atanh()).tanh(),
        (k / 4 * direction.atanh()).tanh(),
    )
    return tuple(x[used].mean() for x in of_queries)


def main() -> None:
    """Print the table, as Markdown."""
    columns = ("model", "layer", "kind", *NUMBERS)
    print(f"| {' | '.join(columns)} |\n|---|---|---|{'---:|' * len(NUMBERS)}")
    sources = {name: shipped(name) for name in ("mini-blip", "mini-mplug")}
    sources |= {name: (graphs for graphs, _ in examples) for name, examples in third_party()}
    for model, of_examples in sources.items():
        measured = defaultdict(list)
        with torch.no_grad():
            for graphs in of_examples:
                for layer, graph in graphs.items():
                    form, (_, _, n, m, _) = closed_form(graph, P), graph.shape
                    found = (form.r, form.variation, form.without_product, form.from_attention)
                    found = (*found, *bounds(graph))
                    measured[layer, graph.kind].append([n / m, *(x.mean().item() for x in found)])
        for (layer, kind), lines in measured.items():
            numbers = torch.tensor(lines).mean(0).tolist()
            print(f"| {model} | {layer} | {kind} | {' | '.join(f'{x:.3f}' for x in numbers)} |")


if __name__ == "__main__":
    main()
