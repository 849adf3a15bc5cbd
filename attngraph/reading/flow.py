"""What the calls of one model have to know of each other."""

from __future__ import annotations

import weakref
from typing import NamedTuple

import torch
from torch import Tensor

from attngraph.reading.masks import Mask, read_mask
from attngraph.reading.per_thread import PerThread


class _Left:
    """What calls leave: masks that were read, and self-attention by ``home``, ``b`` and ``n``."""

    def __init__(self):
        self.masks: list[tuple] = []
        self.seen: list[tuple[Tensor, Mask]] = []
        self.calls: dict[tuple[object, int, int], SelfAttention] = {}


class SelfAttention(NamedTuple):
    """What a self-attention call leaves for the cross-attention after it.

    Attributes:
        causal: whether its queries are ordered in time.
        span: which queries count in the degrees that each query sees; see :class:`attngraph.AttentionGraph`.
        queries: which of them are valid, bool ``(b, n)``; None if all are.
        valid: whether all are.
        layer_idx: the layer's place in the key/value cache.
        stored: whether its keys and values are in the cache by now.
    """

    causal: bool = False
    span: Tensor | None = None
    queries: Tensor | None = None
    valid: bool = True
    layer_idx: int | None = None
    stored: bool = True


class Flow:
    """What the calls of one model share, in each thread for itself: a mask is read once, and cross-attention
    follows the self-attention call before it in the same forward pass, over as many queries in the same part
    (``home``, the innermost transformers model)."""

    KEPT = 8  # numbers of queries whose last self-attention is remembered

    def __init__(self):
        self._own = PerThread(_Left)
        self._latest = _Left()

    def __reduce__(self):  # copies of a model start anew
        return Flow, ()

    @property
    def _left(self) -> _Left:
        """What this thread's calls left. Autograd's threads, where layers run again in the backward pass
        (gradient checkpointing), begin no pass: they find that of the last thread that did."""
        return self._own.get() if self._own.known() else self._latest

    def begin(self, home: object) -> None:
        """A forward pass of ``home`` begins: forget the self-attention of the one before."""
        left = self._latest = self._own.get()
        left.calls = {key: call for key, call in left.calls.items() if key[0] is not home}
        left.seen = []

    def mask(self, mask: Tensor | None, shape: tuple[int, int, int, int]) -> Mask:
        """:func:`attngraph.reading.masks.read_mask`, once for all layers that get the same tensor."""
        left = self._left
        for kept, key, read in left.masks:
            if mask is not None and kept() is mask and key == (shape[0], *shape[2:], mask._version):
                return read
        read = read_mask(mask, shape)
        if mask is not None and not (mask.is_inference() or torch.is_inference_mode_enabled()):
            left.masks = [entry for entry in left.masks if entry[0]() is not None][-self.KEPT :]
            left.masks.append((weakref.ref(mask), (shape[0], *shape[2:], mask._version), read))
        return read

    def seen(self, visible: Tensor | None, shape: tuple[int, int, int, int]) -> Mask:
        """The same for what calls were seen to hide, bool ``shape``, once for all layers that hide the same
        edges."""
        left = self._left
        if visible is None:
            return read_mask(None, shape)
        for kept, read in left.seen:
            if kept.shape == visible.shape and torch.equal(kept, visible):
                return read
        read = read_mask(visible, shape)
        left.seen = [*left.seen[1 - self.KEPT :], (visible, read)]
        return read

    def note(self, home: object, b: int, n: int, call: SelfAttention) -> None:
        """Remember a self-attention call over ``n`` queries of ``b`` examples."""
        calls = self._left.calls
        calls.pop((home, b, n), None)
        calls[home, b, n] = call
        while len(calls) > self.KEPT:
            del calls[next(iter(calls))]

    def before(self, home: object, b: int, n: int) -> SelfAttention | None:
        """The last such call in this forward pass, if there was one."""
        return self._left.calls.get((home, b, n))
