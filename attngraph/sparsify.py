"""Which edges of an attention graph to keep, and how a graph keeps these alone in memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from attngraph.checks import check_weight
from attngraph.precision import widen


def keep(
    weight: Tensor, top_k: int | None = None, threshold: float | None = None, mass: float | None = None
) -> Tensor:
    r"""A mask of the edges to keep; exactly one rule must be given.

    Args:
        weight: ``(..., n, m)``.
        top_k: the ``k`` heaviest edges of each query (fewer where fewer are non-zero; ties keep the first).
        threshold: edges of weight at least this.
        mass: the smallest set of each query's heaviest edges whose weights sum to at least this share of its
            total.

    Returns:
        bool ``(..., n, m)``. Weights are never renormalised: degrees come from the kept edges. Weights that
        are NaN are kept.

    Raises:
        ValueError: none or several rules, or a value out of range.
    """
    rules = {"top_k": top_k, "threshold": threshold, "mass": mass}
    given = [name for name, rule in rules.items() if rule is not None]
    if len(given) != 1:
        raise ValueError(f"pass exactly one of top_k, threshold, mass; got {', '.join(given) or 'none'}")
    if threshold is not None:
        if not threshold >= 0:
            raise ValueError(f"threshold must be at least 0, got {threshold}")
        return ~((weight < threshold) | (weight <= 0))
    if mass == 1:
        return ~(weight <= 0)
    order = weight.sort(dim=-1, descending=True, stable=True)
    if mass is not None:
        if not 0 < mass <= 1:
            raise ValueError(f"mass must be in (0, 1], got {mass}")
        values = order.values.double()
        heavier = values.cumsum(-1) - values  # the mass of the heavier edges
        ranked = ~(heavier >= mass * values.sum(-1, keepdim=True))
    else:
        assert top_k is not None
        if top_k < 1 or top_k % 1:
            raise ValueError(f"top_k must be an integer of at least 1, got {top_k}")
        ranked = (torch.arange(weight.shape[-1], device=weight.device) < top_k).expand_as(weight)
    kept = torch.zeros_like(weight, dtype=torch.bool).scatter(-1, order.indices, ranked)
    return kept & ~(weight <= 0)


class Totals(NamedTuple):
    """Sums over all edges of a graph, also those that are not kept.

    Args:
        query_degree: ``(b, h, n)``, :math:`d_i`: 1 for a softmax row, 0 for a query that sees nothing.
        value_degree: ``(b, h, m)``, :math:`e_j`, over all queries of the graph, also in causal graphs, and
            over these alone.
        entropy: ``(b, h, n)``, of each query's weights, in nats.
    """

    query_degree: Tensor
    value_degree: Tensor
    entropy: Tensor


class KeptWeight(ABC):
    """Weights ``(b, h, n, m)`` that are not kept as an array."""

    totals: Totals | None
    """Of the attention that the edges are taken from, if it was streamed."""

    @property
    @abstractmethod
    def shape(self) -> torch.Size:
        """``(b, h, n, m)``."""

    @abstractmethod
    def dense(self) -> Tensor:
        """The array."""

    @abstractmethod
    def sum(self, axis: int) -> Tensor:
        """Sums over the values (``axis`` -1) or the queries (-2), ``(b, h, nodes)`` in float32 or wider."""

    @abstractmethod
    def map(self, function: Callable[[Tensor], Tensor]) -> KeptWeight:
        """The same with a function of each tensor."""

    @abstractmethod
    def at(self, examples: slice | list[int], heads: slice | list[int]) -> KeptWeight:
        """Those of some examples and heads."""

    def where(self, visible: Tensor) -> KeptWeight:
        """The weights where ``visible``, bool ``(b, n or 1, m or 1)``, is True, and 0 elsewhere."""
        return self

    def non_zeros(self) -> NonZeros:
        """The edges alone."""
        return replace(NonZeros.of(self.dense()), totals=self.totals)

    def chosen(self, **rules: Any) -> NonZeros:
        """The strongest edges of each query; see :func:`keep`."""
        weight = self.dense()
        return replace(
            NonZeros.of(torch.where(keep(weight, **rules), weight, torch.zeros_like(weight))),
            totals=self.totals,
        )

    def rows(self, queries: slice) -> Tensor:
        """The weights of some queries, ``(b, h, queries, m)``."""
        return self.dense()[:, :, queries]

    def strips(self) -> Iterator[tuple[slice, Tensor]]:
        """All weights, as many queries at a time as memory is meant for: which, and their :meth:`rows`."""
        yield slice(0, self.shape[2]), self.dense()

    def sum_of(self, factors: Tensor) -> Tensor:
        r"""Weighted sums over queries, :math:`\sum_i f_{ir} M_{ij}`, ``(b, h, r, m)``.

        Args:
            factors: ``(b, n, r)``; or bool, which queries are in each of r sets.
        """
        weight = widen(self.dense())
        return factors.mT.to(weight.dtype)[:, None] @ weight


@dataclass(frozen=True, eq=False)
class NonZeros(KeptWeight):
    """The non-zero entries of an array of weights: their places in its flat form, in order, and their
    values."""

    index: Tensor
    values: Tensor
    sizes: torch.Size
    totals: Totals | None = None

    @classmethod
    def of(cls, weight: Tensor) -> NonZeros:
        """Places take 4 bytes each where they fit, else 8."""
        flat = weight.detach().flatten()
        index = flat.nonzero()[:, 0]
        return cls(narrow(index, weight.shape), flat[index], weight.shape)

    @property
    def shape(self) -> torch.Size:
        return self.sizes

    def dense(self) -> Tensor:
        flat = self.values.new_zeros(self.shape.numel())
        return flat.index_put((self.index,), self.values).view(self.shape)

    def non_zeros(self) -> NonZeros:
        return self

    def chosen(self, **rules: Any) -> NonZeros:
        if rules.get("top_k") is None:
            return super().chosen(**rules)
        keep(torch.ones(1, 1), **rules)  # raises errors for invalid arguments
        order = self.values.argsort(descending=True, stable=True)  # of equal edges the first come first
        order = order[(self.index.long() // self.shape[3])[order].argsort(stable=True)]
        row = self.index.long()[order] // self.shape[3]
        place = torch.arange(len(row), device=row.device) - torch.searchsorted(row, row)
        kept = order[place < rules["top_k"]].sort().values
        return replace(self, index=self.index[kept], values=self.values[kept])

    def places(self) -> Tensor:
        """Example, head, query and value of each entry, ``(4, e)``."""
        return torch.stack(torch.unravel_index(self.index.long(), self.shape))

    def rows(self, queries: slice) -> Tensor:
        b, h, n, m = self.shape
        first, end, _ = queries.indices(n)
        example, head, query, value = self.places()
        there = (query >= first) & (query < end)
        found = self.values.new_zeros(b, h, end - first, m)
        found[example[there], head[there], query[there] - first, value[there]] = self.values[there]
        return found

    def sum(self, axis: int) -> Tensor:
        b, h, n, m = self.shape
        example, head, query, value = self.places()
        node, nodes = (query, n) if axis == -1 else (value, m)
        values = widen(self.values)
        sums = values.new_zeros(b * h * nodes).index_add(0, (example * h + head) * nodes + node, values)
        return sums.view(b, h, nodes)

    def __post_init__(self) -> None:
        check_weight(self.values, tuple(self.values.shape))

    def where(self, visible: Tensor) -> NonZeros:
        b, _, n, m = self.shape
        example, _, query, value = self.places()
        there = visible.expand(b, n, m)[example, query, value]
        return replace(self, index=self.index[there], values=self.values[there])

    def map(self, function: Callable[[Tensor], Tensor]) -> NonZeros:
        totals = None if self.totals is None else Totals(*map(function, self.totals))
        return NonZeros(function(self.index), function(self.values), self.shape, totals)

    def at(self, examples: slice | list[int], heads: slice | list[int]) -> NonZeros:
        b, h, n, m = self.shape
        numbers = torch.arange(b * h).view(b, h)[examples][:, heads]
        first = torch.arange(b * h + 1, device=self.index.device) * (n * m)
        ends = torch.searchsorted(self.index.long(), first).tolist()
        index, values = [self.index[:0].long()], [self.values[:0]]
        for place, number in enumerate(numbers.flatten().tolist()):
            own = slice(ends[number], ends[number + 1])
            index.append(self.index[own].long() + (place - number) * n * m)
            values.append(self.values[own])
        sizes = torch.Size((*numbers.shape, n, m))
        totals = None if self.totals is None else Totals(*(x[examples][:, heads] for x in self.totals))
        return NonZeros(narrow(torch.cat(index), sizes), torch.cat(values), sizes, totals)


def narrow(index: Tensor, sizes: torch.Size) -> Tensor:
    """Places in an array of these sizes, in 4 bytes each where they fit."""
    return index.int() if sizes.numel() < 2**31 else index


class WeightField:
    """The field ``weight`` of a graph: a tensor, made dense whenever it is read if it is kept as
    :class:`KeptWeight`."""

    def __get__(self, graph: Any, owner: type | None = None) -> Tensor:
        if graph is None:
            raise AttributeError("weight has no default")  # so dataclass requires it
        kept = graph.__dict__["_weight"]
        return kept.dense() if isinstance(kept, KeptWeight) else kept

    def __set__(self, graph: Any, weight: Tensor | KeptWeight) -> None:
        graph.__dict__["_weight"] = weight


WEIGHT: Any = WeightField()  # Any: dataclass fields that are descriptors are of the type that they give
