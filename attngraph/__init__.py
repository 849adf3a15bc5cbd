"""Attention layers as sparse bipartite graphs.

Axis legend used in shape comments: b batch, h heads, n query nodes, m value nodes, d features per head, e edges.
"""

from attngraph.errors import UserError
from attngraph.graph import AttentionGraph, PastDegree
from attngraph.scores import AttentionScores

__version__ = "0.1.0"
__all__ = ["AttentionGraph", "AttentionScores", "PastDegree", "UserError", "__version__", "capture", "record"]


def __getattr__(name: str):
    if name in ("capture", "record"):  # on first use: transformers takes seconds to import
        from attngraph.reading import reader

        return getattr(reader, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
