r"""What a statistic is compared with: graphs of the same size, degrees and mask in which nothing depends on what the
nodes are.

- :func:`uniform`: every query spreads the weight that it has evenly over the values that it sees,
  :math:`U_{ij} = d_i / |\{j : ij \text{ visible}\}|`. The mask and the query degrees stay.
- A permutation: the weights stay where they are, and what the nodes are is dealt anew: the values' classes (or
  features) among the values; and where both sides are the same nodes (self-attention, plain graphs) the nodes', on both
  sides alike. All degrees of both sides, every single weight and the mask stay, and so do the numbers of nodes in each
  class; what goes is the link between the nodes and their edges. Under a causal mask no weight moves to a place that
  the mask hides, since none moves. (Dealing only one side of self-attention would be wrong: without its diagonal no
  token meets itself, so tokens of its class are a little rarer among those that it meets than among all.)
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from analysis.bipartite import Bipartite


def uniform(graph: Bipartite) -> Bipartite:
    """Uniform attention with the graph's mask, query degrees and features."""
    seen = graph.visible.sum(-1).clamp(min=1)[:, None]
    weight = (graph.query_degree / seen)[..., None] * graph.visible[:, None]
    return replace(graph, weight=weight)


def permuted(graph: Bipartite, generator: torch.Generator) -> Bipartite:
    """The graph with the features of its values dealt anew, or of its nodes where both sides are the same."""
    if not graph.paired:
        return replace(graph, value=gather(graph.value, shuffle(graph.columns[:, None], generator)[..., None]))
    order = shuffle((graph.rows | graph.columns)[:, None], generator)[..., None]
    return replace(graph, query=gather(graph.query, order), value=gather(graph.value, order))


def shuffle(mask: Tensor, generator: torch.Generator) -> Tensor:
    """A random order of the last axis, as long as ``mask``, that moves the places where ``mask`` is True among
    themselves only.

    The generator lives on the CPU, so that the orders are the same on every device.
    """
    keys = torch.rand(mask.shape, generator=generator, dtype=torch.float64).to(mask.device).masked_fill(~mask, 2)
    places = (~mask).long().argsort(dim=-1, stable=True)
    return torch.zeros_like(places).scatter(-1, places, keys.argsort(dim=-1, stable=True))


def gather(x: Tensor, order: Tensor) -> Tensor:
    """``x`` with its nodes (axis 2) rearranged; ``order (b, h|1, m)`` for labels, ``(b, 1, m, 1)`` for features."""
    shape = [max(sizes) for sizes in zip(x.shape, order.shape)]
    return x.expand(shape).gather(2, order.expand(shape))
