"""Squared norms of value features, kept from one decoding step to the next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from attngraph.precision import widen


def with_metric(x: Tensor, metric: Tensor | None) -> Tensor:
    """``x G`` per head, ``(b, h, n, d)``, for a metric ``(h, d, d)``; None is the identity."""
    if metric is None:
        return x
    heads_first = x.transpose(0, 1)  # else each example would get a copy of the metric
    return (heads_first.flatten(1, 2) @ metric.to(x.dtype)).reshape(heads_first.shape).transpose(0, 1)


def square_norm(value: Tensor, metric: Tensor | None) -> Tensor:
    r""":math:`v_j G v_j^\top`, ``(b, h, m)``."""
    wide = widen(value)
    return (with_metric(wide, metric) * wide).sum(-1)


def square_norm_by_picture(value: Tensor, metric: Tensor | None, picture: Tensor) -> Tensor:
    r""":func:`square_norm`, computed once for each image.

    Args:
        value: ``(b, h, m, d)``.
        metric: ``(h, d, d)`` or None.
        picture: see :class:`attngraph.AttentionScores`.
    """
    first = (picture == torch.arange(len(picture), device=picture.device)).nonzero()[:, 0]
    norms = square_norm(value[first], metric)
    of_examples = norms.new_empty(value.shape[:3])
    of_examples[first] = norms
    return of_examples[picture]


@dataclass(eq=False)
class KeptNorms:
    r"""Keeps :math:`v_j G v_j^\top` of a graph's values, so that it is computed once for each of them: every
    new token of a decoder attends to the same image and the same earlier tokens.

    Attributes:
        value: the features whose norms these are, ``(b, h, m, d)``, as the graph holds them.
        known: the norms of the first ``k`` values, ``(b, h, k)``, in a list shared with the owner; empty
            until norms are first needed.
    """

    value: Tensor
    known: list[Tensor] = field(default_factory=list)

    @property
    def square(self) -> Tensor | None:
        """The norms that are known, or None."""
        return self.known[0] if self.known else None

    def get(self, compute: Callable[[Tensor], Tensor]) -> Tensor:
        """The norms of all values; ``compute`` gives those of some, ``(b, h, ., d)`` to ``(b, h, .)``."""
        if not self.known:
            self.known[:] = [compute(self.value)]
        count = self.known[0].shape[-1]
        if count < self.value.shape[2]:
            self.known[:] = [torch.cat([self.known[0], compute(self.value[:, :, count:])], -1)]
        return self.known[0]
