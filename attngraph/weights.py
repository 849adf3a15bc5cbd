"""How an attention graph keeps its weights: as a tensor, or as its non-zero entries only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


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
