"""What the calls of one model have to know of each other."""

from __future__ import annotations

import weakref
from typing import NamedTuple

import torch
from torch import Tensor

from attngraph.reading.masks import Mask, read_mask


class SelfAttention(NamedTuple):
    """What a self-attention call leaves for the cross-attention after it.

    Attributes:
        causal: whether its queries are ordered in time.
        span: which queries count in the degrees that each query sees; see :class:`attngraph.AttentionGraph`.
        queries: which of them are valid, bool ``(b, n)``; None if all are.
        valid: whether all are.
        layer_idx: the layer's place in the key/value cache.
    """

    causal: bool = False
    span: Tensor | None = None
    queries: Tensor | None = None
    valid: bool = True
    layer_idx: int | None = None


class Flow:
    """What the calls of one model share: a mask is read once, and cross-attention follows the self-attention
    call before it over as many queries in the same part (``home``, the innermost transformers model)."""

    KEPT = 8  # numbers of queries whose last self-attention is remembered

    def __init__(self):
        self._masks: list[tuple] = []
        self._last: dict[tuple[object, int, int], SelfAttention] = {}

    def __reduce__(self):  # copies of a model start anew
        return Flow, ()

    def mask(self, mask: Tensor | None, shape: tuple[int, int, int, int]) -> Mask:
        """:func:`attngraph.reading.masks.read_mask`, once for all layers that get the same tensor."""
        for kept, key, read in self._masks:
            if mask is not None and kept() is mask and key == (shape[0], *shape[2:], mask._version):
                return read
        read = read_mask(mask, shape)
        if mask is not None and not (mask.is_inference() or torch.is_inference_mode_enabled()):
            self._masks = [entry for entry in self._masks if entry[0]() is not None][-self.KEPT :]
            self._masks.append((weakref.ref(mask), (shape[0], *shape[2:], mask._version), read))
        return read

    def note(self, home: object, b: int, n: int, call: SelfAttention) -> None:
        """Remember a self-attention call over ``n`` queries of ``b`` examples."""
        self._last.pop((home, b, n), None)
        self._last[home, b, n] = call
        while len(self._last) > self.KEPT:
            del self._last[next(iter(self._last))]

    def before(self, home: object, b: int, n: int) -> SelfAttention:
        """The last such call, or what is true of none."""
        return self._last.get((home, b, n), SelfAttention())
