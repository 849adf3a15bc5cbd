r"""Alternative query rows of the node features :math:`\hat V = [Q W_q ; V W_v] W_o`."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from attngraph.checks import unchecked
from attngraph.edges import smallest_weight
from attngraph.functorch import transformed
from attngraph.graph import AttentionGraph
from attngraph.precision import widen
from attngraph.scores import AttentionScores

QUERY_ROWS = ("query", "zero", "noise")
PLACES = 1024  # after as many queries the noise comes again
Graph = TypeVar("Graph", AttentionGraph, AttentionScores)


def with_query_rows(graph: Graph, rows: str) -> Graph:
    r"""The graph with other features at its query nodes; edges and value nodes stay.

    - ``query``: the projected queries, as in the paper;
    - ``zero``: zeros, :math:`\hat V = [0 ; V W_v] W_o`: distances depend on values and degrees alone, and a
      residual adds nothing;
    - ``noise``: a standard normal vector for each position in the text, scaled to the norm of the query's
      row.

    GCN does not use query rows; in pGNN, APPNP, GCNII and their controls they enter the distances and the
    residual.

    The noise is a fixed function of the position (the number of valid queries of the same text before), the
    head and the feature. Noise sampled in every call would differ between cached decoding and a full pass,
    and between training and a loaded model. So it depends on the query only through its norm, and not on the
    layer, on padding or on other texts.

    Args:
        graph: an attention graph, or scores; with the past degrees if earlier queries are in a cache.
        rows: one of :data:`QUERY_ROWS`.

    Source: the ablation of the concatenation in Wu et al., AAAI 2024, which does not specify the noise;
    its dependence on position and norm is ours.
    """
    if rows == "query":
        return graph
    query = graph.node if isinstance(graph, AttentionScores) else graph.query
    other = torch.zeros_like(query) if rows == "zero" else _noise_like(query, _places(graph))
    if isinstance(graph, AttentionScores):
        return unchecked(graph, feature=other)
    return unchecked(graph, query=other, rotated=False)


def _places(graph: AttentionGraph | AttentionScores) -> Tensor:
    """Number of valid queries of the same text before each query, ``(b or 1, n)``."""
    n, device = graph.shape[2], graph.query.device
    mask = graph.query_mask
    valid = torch.ones(1, n, dtype=torch.bool, device=device) if mask is None else mask
    before = valid.cumsum(1) - valid.long()
    past = 0 if graph.past_degree is None else graph.past_degree.queries[:, None]
    if isinstance(graph, AttentionScores) or graph.span is None:
        return before + past
    first = graph.span[..., 0]  # where the text begins; -1 if earlier queries belong to it
    packed = before.expand_as(first).gather(1, first.clamp(min=0))
    return before - packed + (first < 0) * past


def _noise_like(query: Tensor, places: Tensor) -> Tensor:
    """Noise ``(b, h, n, d)`` at the lengths of queries."""
    b, h, n, d = query.shape
    wide: Any = widen(query)
    drawn = _draw(h, d, wide.dtype, wide.device) if transformed() else _noise(h, d, wide.dtype, wide.device)
    noise = drawn[places % PLACES].transpose(1, 2)  # b or 1, h, n, d
    square = wide.square().sum(-1, keepdim=True).clamp(min=smallest_weight(wide.dtype))
    return (noise * (square / noise.square().sum(-1, keepdim=True)).sqrt()).expand(b, h, n, d).to(query.dtype)


def _draw(heads: int, features: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """``(places, h, d)``, the same wherever it is made."""
    drawn = np.random.RandomState(0).standard_normal((PLACES, heads, features))
    return torch.from_numpy(drawn).to(device, dtype)


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # a tensor that is made in this mode serves no backward pass
def _noise(heads: int, features: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """:func:`_draw`, cached on the device for the next call, except inside a transform of PyTorch, where
    new tensors are only valid within the transform."""
    return _draw(heads, features, dtype, device)
