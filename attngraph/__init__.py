"""Attention layers as weighted bipartite graphs.

- :class:`AttentionGraph` and :class:`AttentionScores`: the graph of an attention layer, with its weights or
  before they are computed;
- :class:`Edges`: how messages move on it, whichever way its edges are stored (:mod:`attngraph.backends`);
- :func:`capture` and :func:`record`: the graphs of a running model (:mod:`attngraph.reading`);
- :func:`show`: the graphs in a notebook (:mod:`attngraph.analysis.show`).

Axis legend of shape comments: b batch, h heads, n query nodes, m value nodes, d features per head, e edges.
"""

from importlib import import_module

from attngraph.degrees import PastDegree
from attngraph.edges import Edges
from attngraph.errors import UserError
from attngraph.graph import AttentionGraph
from attngraph.scores import AttentionScores

__version__ = "0.1.0"
__all__ = [
    "AttentionGraph",
    "AttentionScores",
    "Edges",
    "PastDegree",
    "UserError",
    "__version__",
    "capture",
    "record",
    "show",
]


def __getattr__(name: str):
    if name in ("capture", "record"):  # on first use: transformers takes seconds to import
        from attngraph.reading import reader

        return getattr(reader, name)
    if name == "show":
        return import_module("attngraph.analysis.show").show
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
