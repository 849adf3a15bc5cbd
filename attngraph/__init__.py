"""Attention layers as weighted bipartite graphs.

- :class:`AttentionGraph` and :class:`AttentionScores`: the graph of an attention layer, with its weights or
  before they are computed;
- :class:`Edges`: how messages move on it, whichever way its edges are stored (:mod:`attngraph.backends`);
- :func:`capture` and :func:`record`: the graphs of a running model (:mod:`attngraph.reading`);
- :func:`show`: the graphs in a notebook (:mod:`attngraph.analysis.show`);
- :func:`evaluate` and :func:`compare`: a model's scores on a task, and a table of methods, as data frames
  (:mod:`attngraph.experiments.commands`);
- its packages: :mod:`attngraph.adapters` (graph neural networks on these graphs, for PEFT),
  :mod:`attngraph.analysis` (statistics and figures), :mod:`attngraph.experiments` (training and comparing).

Axis legend of shape comments: b batch, h heads, n query nodes, m value nodes, d features per head, e edges.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from attngraph import _siblings

if TYPE_CHECKING:
    from attngraph.degrees import PastDegree
    from attngraph.edges import Edges
    from attngraph.errors import UserError
    from attngraph.graph import AttentionGraph
    from attngraph.reading.reader import capture, record
    from attngraph.scores import AttentionScores

_siblings.install()
__version__ = "0.1.0"
__all__ = [
    "AttentionGraph",
    "AttentionScores",
    "Edges",
    "PastDegree",
    "UserError",
    "__version__",
    "capture",
    "compare",
    "evaluate",
    "record",
    "show",
]
_MODULES = {
    "AttentionGraph": "attngraph.graph",
    "AttentionScores": "attngraph.scores",
    "Edges": "attngraph.edges",
    "PastDegree": "attngraph.degrees",
    "UserError": "attngraph.errors",
    "capture": "attngraph.reading.reader",
    "record": "attngraph.reading.reader",
    "show": "attngraph.analysis.show",
    "evaluate": "attngraph.experiments.commands.evaluate",
    "compare": "attngraph.experiments.commands.ablation",
}


def __getattr__(name: str) -> Any:
    """Imports on first use: torch and transformers take seconds, which ``attngraph --help`` need not wait."""
    if name in _MODULES:
        value = getattr(_module(_MODULES[name]), name)
    elif name in _siblings.FOLDERS:
        value = import_module(f"attngraph.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def _module(name: str) -> Any:
    """A module; a :class:`UserError` that names the extra where a package of one is missing."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        from attngraph.errors import UserError
        from attngraph.extras import EXTRA_OF, missing

        package = (error.name or "").partition(".")[0]
        if package not in EXTRA_OF:
            raise
        raise UserError(missing(package)) from None


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_siblings.FOLDERS})
