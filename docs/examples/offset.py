"""How similar connected nodes are, with the offset between the clouds of queries and of values, and without.

    python docs/examples/offset.py                  # the mini-BLIP's cross-attention, 64 scenes
    python docs/examples/offset.py --model mini-mplug --layers '*crossattention*'

Mean cosines of features after W_o, over pairs of nodes of one graph (all heads and examples): two queries,
two values, a query and a value at random, and a query and a value that attention connects (weighted by M). In
the last two columns the mean query and the mean value of each graph are subtracted first.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import normalize

from attngraph.analysis.bipartite import Bipartite
from attngraph.experiments.base.arguments import asked
from attngraph.experiments.base.options import LookOptions
from attngraph.experiments.inspect.source import open_source
from attngraph.experiments.tables.render import aligned

HEAD = ("layer", "queries", "values", "random", "connected", "random, centred", "connected, centred")


def main(argv: Sequence[str] | None = None) -> None:
    """Print one line for each layer."""
    options = asked(LookOptions, sys.argv[1:] if argv is None else argv, "offset.py")
    source = open_source(replace(options, layers=options.layers or ("*crossattention*",)))
    found: dict[str, list[Tensor]] = defaultdict(list)
    for _, graphs in source.graphs():
        for name, graph in graphs.items():
            found[name].append(cosines(Bipartite.of(graph)))
    lines = [
        (name, *(f"{value:+.3f}" for value in torch.cat(values).mean(0).tolist()))
        for name, values in found.items()
    ]
    print(aligned([HEAD, *lines]))


def cosines(graph: Bipartite) -> Tensor:
    """The six mean cosines of :data:`HEAD` ``(b, 6)``, means over heads."""
    (q, seen_q), (v, seen_v) = (
        (x.float(), graph.visible.any(axis)[:, None, :, None]) for x, axis in zip(graph.features, (-1, -2))
    )
    weight = graph.weight.float() * seen_q

    def of(q: Tensor, v: Tensor) -> list[Tensor]:
        q, v = normalize(q, dim=-1) * seen_q, normalize(v, dim=-1) * seen_v
        between = (_mean(q, seen_q) * _mean(v, seen_v)).sum((-1, -2))
        edges = (q * (weight @ v)).sum((-1, -2)) / weight.sum((-1, -2))
        return [_pairs(q, seen_q), _pairs(v, seen_v), between, edges]

    centred = of(q - _mean(q, seen_q), v - _mean(v, seen_v))
    return torch.stack([*of(q, v), *centred[2:]], -1).mean(1)


def _mean(x: Tensor, seen: Tensor) -> Tensor:
    return (x * seen).sum(-2, keepdim=True) / seen.sum(-2, keepdim=True)


def _pairs(x: Tensor, seen: Tensor) -> Tensor:
    """The mean product of two different rows of unit length."""
    count = seen.sum((-1, -2)).to(x.dtype)
    return (x.sum(-2).square().sum(-1) - count) / (count * (count - 1)).clamp(min=1)


if __name__ == "__main__":
    main()
