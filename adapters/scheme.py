"""Base class of message-passing schemes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from numbers import Real

import torch
from torch import Tensor, nn

from attngraph.adapters.scalar import learned_values
from attngraph.backends import edges_of
from attngraph.backends.chunks import in_chunks
from attngraph.checks import unchecked
from attngraph.degrees import check_degree as check_degree  # custom schemes import it from here
from attngraph.edges import Edges
from attngraph.graph import AttentionGraph
from attngraph.reading.calls import Call
from attngraph.scores import AttentionScores

SCHEMES: dict[str, type[Scheme]] = {}
#: What papers call a scheme.
PAPER_NAMES = {"adapter": "gcn", "p_adapter": "pgnn"}


def register(name: str) -> Callable[[type[Scheme]], type[Scheme]]:
    """Class decorator that registers a scheme under a name, by which configurations and commands choose it.

    Args:
        name: the scheme's name.

    Raises:
        ValueError: the name is taken by another class.
    """

    def add(scheme: type[Scheme]) -> type[Scheme]:
        taken = SCHEMES.get(name)
        if taken is not None and (taken.__module__, taken.__qualname__) != (
            scheme.__module__,
            scheme.__qualname__,
        ):
            raise ValueError(f"the scheme name {name!r} is taken by {taken.__module__}.{taken.__qualname__}")
        SCHEMES[name] = scheme
        scheme.name = name
        return scheme

    return add


class Scheme(nn.Module):
    r"""A message-passing scheme: a way to aggregate the features of an attention graph at its query nodes.

    A subclass writes :meth:`propagate` against :class:`attngraph.edges.Edges`, so it runs on every backend,
    and :meth:`edge_weights`. Schemes see neither :math:`W_o` (only its metric) nor how their output joins the
    frozen model.

    Attributes:
        fused: whether :meth:`aggregate_and_context` has its own way on the dense backend, which is faster
            than :meth:`forward` on a graph whose weights are known.
        is_attention: whether its aggregated features are the attention output itself, and 0 for padded
            queries.
    """

    name: str
    fused = False
    is_attention = False

    def forward(self, graph: AttentionGraph | AttentionScores, backend: str = "dense") -> Tensor:
        """Aggregated query features ``(b, h, n, d)``, in the dtype of ``graph.query``.

        Args:
            graph: the attention graph, or the scores that it comes from.
            backend: ``"dense"``, ``"sparse"`` (PyG message passing over the non-zero edges) or ``"tiled"``
                (the edges of some queries at a time: memory linear in the number of nodes); same numbers.
        """
        with torch.autocast(graph.query.device.type, enabled=False):
            if backend == "tiled":
                aggregated, _ = in_chunks(self.propagate, graph)
            else:
                aggregated = self.propagate(edges_of(graph, backend))
        return aggregated.to(graph.query.dtype)

    def aggregate_and_context(
        self, scores: AttentionScores, backend: str = "dense", context: bool = True
    ) -> tuple[Tensor, Tensor | None]:
        """:meth:`forward` and, if asked for, the attention output :math:`M V` of all queries, padded ones too
        (with the weights that dropout leaves, where there is dropout), in the scheme's fastest way.

        Args:
            scores: the attention scores.
            backend: as for :meth:`forward`.
            context: whether the attention output is wanted.

        Returns:
            Aggregated query features and the attention output (or None), both ``(b, h, n, d)``.
        """
        if backend == "tiled":
            with torch.autocast(scores.query.device.type, enabled=False):
                aggregated, output = in_chunks(self.propagate, scores, context)
            return aggregated.to(scores.query.dtype), output
        if not scores.value.requires_grad:
            # Strided values, as a frozen projection of an image gives them, would be copied for each product
            # with them, and every copy kept for the backward pass. (With gradients these would be summed in
            # another order.)
            scores = unchecked(scores, value=scores.value.contiguous())
        graph, output = scores.graph_and_context() if context else (scores.graph(), None)
        return self(graph, backend), output

    def decode(self, call: Call, metric: Tensor | None, owner: str) -> Tensor | None:
        """:meth:`forward` in a step of decoding with a key/value cache, if the scheme has a faster way there
        than from a graph or from scores.

        Args:
            call: what the attention layer computed.
            metric: see :meth:`attngraph.reading.calls.Site.metric`.
            owner: who keeps degrees in the cache.

        Returns:
            Aggregated query features with merged heads, ``(b, 1, h·d)``; None where there is no such way.
        """
        return None

    def reweight(self, graph: AttentionGraph, backend: str = "dense") -> Tensor:
        """The edge weights that the scheme uses in place of the attention weights, ``(b, h, n, m)``."""
        with torch.autocast(graph.query.device.type, enabled=False):
            edges = edges_of(graph, backend)
            return edges.to_dense(self.edge_weights(edges))

    def __repr__(self) -> str:
        """The scheme with its initial arguments, if they are attributes. Learned ones may have changed
        since."""
        held = vars(self)
        given = {x: held.get(x, held.get(f"fixed_{x}")) for x in inspect.signature(type(self)).parameters}
        parts = [f"{name}={value!r}" for name, value in given.items() if value is not None]
        return f"{type(self).__name__}({', '.join(parts)})"

    def propagate(self, edges: Edges) -> Tensor:
        """Aggregated query features ``(b, h, n, d)``; a scheme must define it."""
        raise NotImplementedError

    def edge_weights(self, edges: Edges) -> Tensor:
        """The weight of every edge, in the form of ``edges.weight``; a scheme must define it."""
        raise NotImplementedError

    def message_weights(self, edges: Edges) -> Tensor:
        """The factor with which a value enters a query's message, up to one factor for each query.

        It is :meth:`edge_weights` unless a scheme normalises these further. After several steps it is that of
        the last one.
        """
        return self.edge_weights(edges)

    def residual_share(self, edges: Edges) -> Tensor | float:
        r"""The factor :math:`\beta_i` of each query's own features in what :meth:`propagate` returns,

        .. math:: \bar U_i = (\text{what comes from values})_i + \beta_i \hat V_i ,

        ``(b, h, n, 1)`` or one number for all. After several steps it is that of the last one, whose messages
        may hold what the query sent to values before. A scheme without a residual leaves it at 0.
        """
        return 0.0

    def learned(self) -> dict[str, float]:
        """Current values of the single numbers that the scheme learns, under readable names.

        By default each :class:`~attngraph.adapters.scalar.Scalar`, by its own name. A scheme that keeps a
        number in another form (a logit, a logarithm) gives its value.
        """
        return learned_values(self)

    def combine(self, hidden: Tensor, update: Tensor) -> Tensor:
        r"""Combine the bottleneck's output with the aggregated features (both after :math:`W_o`):
        :math:`H + \sigma(H W_{down}) W_{up}` unless a scheme overrides this method."""
        return hidden + update


def check_range(name: str, value: float, low: float, high: float, open_low: bool = False) -> float:
    """``value`` as a float if it is in ``[low, high]`` (``(low, high]`` with ``open_low``).

    Raises:
        ValueError: it is not.
    """
    if not isinstance(value, Real) or isinstance(value, bool):
        raise ValueError(f"{name} must be a number, got {value!r}")
    value = float(value)
    if not (low < value if open_low else low <= value) or not value <= high:
        raise ValueError(f"{name} must be in {'(' if open_low else '['}{low:g}, {high:g}], got {value:g}")
    return value


def check_steps(steps: int) -> int:
    """``steps`` if it is an integer from 1 to 64.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(steps, Real) or isinstance(steps, bool) or steps % 1 or not 1 <= steps <= 64:
        raise ValueError(f"steps must be an integer from 1 to 64, got {steps!r}")
    return int(steps)


def check_switch(name: str, value: bool) -> bool:
    """``value`` if it is True or False.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, got {value!r}")
    return value
