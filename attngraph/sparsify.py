"""Which edges of an attention graph to keep, and how a graph keeps these alone in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


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
        raise ValueError(f"give exactly one of top_k, threshold, mass; got {', '.join(given) or 'none'}")
    if threshold is not None:
        if not threshold >= 0:
            raise ValueError(f"threshold must be at least 0, got {threshold}")
        return ~((weight < threshold) | (weight <= 0))
    if mass == 1:
        return ~(weight <= 0)
    order = weight.sort(dim=-1, descending=True, stable=True)
    if mass is not None:
        if not 0 < mass <= 1:
            raise ValueError(f"mass must lie in (0, 1], got {mass}")
        values = order.values.double()
        heavier = values.cumsum(-1) - values  # the mass of the heavier edges
        ranked = ~(heavier >= mass * values.sum(-1, keepdim=True))
    else:
        assert top_k is not None
        if top_k < 1 or top_k % 1:
            raise ValueError(f"top_k must be a whole number of at least 1, got {top_k}")
        ranked = (torch.arange(weight.shape[-1], device=weight.device) < top_k).expand_as(weight)
    kept = torch.zeros_like(weight, dtype=torch.bool).scatter(-1, order.indices, ranked)
    return kept & ~(weight <= 0)


@dataclass(frozen=True, eq=False)
class NonZeros:
    """The non-zero entries of a tensor: their places in its flat form, and their values."""

    index: Tensor
    values: Tensor
    shape: torch.Size

    @classmethod
    def of(cls, tensor: Tensor) -> NonZeros:
        """Places take 4 bytes each where they fit, else 8."""
        flat = tensor.detach().flatten()
        index = flat.nonzero()[:, 0]
        return cls(index.int() if flat.numel() < 2**31 else index, flat[index], tensor.shape)

    def dense(self) -> Tensor:
        """The tensor."""
        flat = self.values.new_zeros(self.shape.numel())
        return flat.index_put((self.index,), self.values).view(self.shape)


class WeightField:
    """The field ``weight`` of a graph: a tensor, made dense whenever it is read if it is kept as
    :class:`NonZeros`."""

    def __get__(self, graph: Any, owner: type | None = None) -> Tensor:
        if graph is None:
            raise AttributeError("weight has no default")  # which tells dataclass that it must be given
        kept = graph.__dict__["_weight"]
        return kept.dense() if isinstance(kept, NonZeros) else kept

    def __set__(self, graph: Any, weight: Tensor | NonZeros) -> None:
        graph.__dict__["_weight"] = weight


WEIGHT: Any = WeightField()  # Any: dataclass fields that are descriptors are of the type that they give
