"""How the edges of a graph are stored and summed over: one subclass of :class:`attngraph.edges.Edges` each.

- ``"dense"`` (:class:`attngraph.backends.dense.DenseEdges`): all pairs of nodes, an array ``(b, h, n, m)``;
- ``"sparse"`` (:class:`attngraph.backends.sparse.SparseEdges`): the non-zero edges, as a PyG graph;
- ``"tiled"`` (:class:`attngraph.backends.tiled.TiledEdges`): none of them; they are computed a tile at a time
  whenever they are summed over.

All give the same numbers. Second derivatives through ``"tiled"`` hold all edges, and under the transforms of
``torch.func``, in forward-mode differentiation and under ``torch.export`` ``"dense"`` takes its place.
"""

from __future__ import annotations

from collections.abc import Callable

from attngraph.backends.dense import DenseEdges
from attngraph.backends.sparse import SparseEdges
from attngraph.backends.tiled import TiledEdges
from attngraph.edges import Edges
from attngraph.graph import AttentionGraph
from attngraph.scores import AttentionScores
from attngraph.transforms import transformed

BACKENDS: dict[str, Callable[..., Edges]] = {"dense": DenseEdges, "sparse": SparseEdges, "tiled": TiledEdges}


def edges_of(graph: AttentionGraph | AttentionScores, backend: str = "dense") -> Edges:
    """The graph's edges in the form of a backend. Only ``"tiled"`` leaves the weights of scores uncomputed.

    Raises:
        ValueError: an unknown backend, or ``"tiled"`` for scores under dropout.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    if backend == "tiled" and transformed():
        backend = "dense"
    if backend != "tiled" and isinstance(graph, AttentionScores):
        graph = graph.graph()
    return BACKENDS[backend](graph)
