"""Backends: storage of the edges of a graph, and sums over them.

- ``"dense"`` (:class:`attngraph.backends.dense.DenseEdges`): all pairs of nodes, an array ``(b, h, n, m)``;
- ``"sparse"`` (:class:`attngraph.backends.sparse.SparseEdges`): the non-zero edges, as a PyG graph;
- ``"tiled"`` (:func:`attngraph.backends.chunks.in_chunks`): all pairs of some queries at a time, computed
  again in the backward pass.

All give the same numbers. A scheme that starts from scores
(:meth:`attngraph.adapters.scheme.Scheme.aggregate_and_context`) may have kernels for ``"dense"``, which it
uses where they cover the call.
Second derivatives through ``"tiled"`` hold all edges; the transforms of ``torch.func``, forward-mode
differentiation and ``torch.export`` use ``"dense"`` instead.
"""

from __future__ import annotations

from collections.abc import Callable

from attngraph.backends.dense import DenseEdges
from attngraph.backends.sparse import SparseEdges
from attngraph.edges import Edges
from attngraph.graph import AttentionGraph
from attngraph.scores import AttentionScores

BACKENDS = ("dense", "sparse", "tiled")


def check_backend(backend: str) -> None:
    """Raise :class:`ValueError` unless ``backend`` is one of :data:`BACKENDS`."""
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")


def edges_of(graph: AttentionGraph | AttentionScores, backend: str = "dense") -> Edges:
    """All edges of a graph at once, in the form of a backend; for ``"tiled"``, which never has all of them,
    in that of ``"dense"``.

    Raises:
        ValueError: an unknown backend.
    """
    check_backend(backend)
    if isinstance(graph, AttentionScores):
        graph = graph.graph()
    forms: dict[str, Callable[[AttentionGraph], Edges]] = {"sparse": SparseEdges}
    return forms.get(backend, DenseEdges)(graph)
