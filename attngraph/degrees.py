r"""Degrees of value nodes: their two definitions, and what is kept of them between decoding steps."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

DEGREES = ("sum", "mean")


class PastDegree(NamedTuple):
    """What queries decoded earlier left on the value nodes, for decoding with a key/value cache.

    Args:
        total: ``(b, h, m)``, the sum of the earlier valid queries' weights on each value (0 for new values).
        queries: ``(b,)``, how many valid queries came before.
    """

    total: Tensor
    queries: Tensor


def check_degree(degree: str) -> None:
    """Raise :class:`ValueError` unless ``degree`` is one of :data:`DEGREES`."""
    if degree not in DEGREES:
        raise ValueError(f"degree must be one of {', '.join(DEGREES)}, got {degree!r}")


def mean_scale(values: Tensor, query_mask: Tensor, causal: bool, past_degree: PastDegree | None) -> Tensor:
    """The factor that turns value degrees ``"sum"`` into ``"mean"``: visible values divided by valid queries.

    Args:
        values: how many values each query sees, ``(b, n)``; in a graph without order, how many any query
            sees, ``(b, 1)``. In the floating-point type of the result.
        query_mask: bool ``(b, n)``, which queries are valid.
        causal: count the valid queries up to each query, not all of them.
        past_degree: queries that came before; they count too.

    Returns:
        ``(b, 1, n, 1)`` in a causal graph, else ``(b, 1, 1, 1)``.
    """
    queries = query_mask.cumsum(1) if causal else query_mask.sum(1, keepdim=True)
    if past_degree is not None:
        queries = queries + past_degree.queries[:, None]
    return (values / queries.clamp(min=1))[:, None, :, None]
