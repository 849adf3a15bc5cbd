r"""Degrees of value nodes: their two definitions, the queries that count in them, and their state between
decoding steps."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

DEGREES = ("sum", "mean")


class PastDegree(NamedTuple):
    """Degrees of the value nodes left by earlier queries, for decoding with a key/value cache.

    Args:
        total: ``(b, h, m)``, the sum of the earlier valid queries' weights on each value (0 for new values).
        queries: ``(b,)``, number of valid queries before.
    """

    total: Tensor
    queries: Tensor


def check_degree(degree: str) -> str:
    """``degree`` if it is one of :data:`DEGREES`.

    Raises:
        ValueError: it is not.
    """
    if degree not in DEGREES:
        raise ValueError(f"degree must be one of {', '.join(DEGREES)}, got {degree!r}")
    return degree


def queries_counted(
    query_mask: Tensor, causal: bool, past_degree: PastDegree | None = None, span: Tensor | None = None
) -> Tensor:
    """Number of valid queries that count in the value degrees that each query sees.

    Args:
        query_mask: bool ``(b, n)``, which queries are valid.
        causal: count the valid queries up to each query, not all of them.
        past_degree: queries that came before; they count too.
        span: which queries count, ``(b, n, 2)``; see :class:`attngraph.AttentionGraph`.

    Returns:
        ``(b, n)`` in a causal graph, else ``(b, 1)``.
    """
    past = 0 if past_degree is None else past_degree.queries[:, None]
    if not causal:
        return query_mask.sum(1, keepdim=True) + past
    counts = query_mask.cumsum(1)
    if span is None:
        return counts + past
    first, last = span.unbind(-1)
    before = (counts - query_mask.long()).gather(1, first.clamp(min=0))
    return counts.gather(1, last) - before + (first < 0) * past


def mean_scale(
    values: Tensor,
    query_mask: Tensor,
    causal: bool,
    past_degree: PastDegree | None,
    span: Tensor | None = None,
) -> Tensor:
    """The factor that turns value degrees ``"sum"`` into ``"mean"``: visible values divided by valid queries.

    Args:
        values: how many values each query sees, ``(b, n)``; in a graph without order, how many any query
            sees, ``(b, 1)``. In the floating-point type of the result.
        query_mask: bool ``(b, n)``, which queries are valid.
        causal, past_degree, span: as for :func:`queries_counted`.

    Returns:
        ``(b, 1, n, 1)`` in a causal graph, else ``(b, 1, 1, 1)``.
    """
    queries = queries_counted(query_mask, causal, past_degree, span)
    return (values / queries.clamp(min=1))[:, None, :, None]
