"""Running value degrees for decoding with a key/value cache.

In a causal graph query i sees value degrees summed over the queries up to i. With a cache the earlier queries
are gone, so their sums are kept beside the cached keys and values, and follow them through beam reordering,
cropping and batch changes: the cache layer is replaced by one of its class extended with
:class:`_KeepsDegrees`. They are kept for generation: no gradient flows back through them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DummyLayer, EncoderDecoderCache, StaticLayer

from attngraph.errors import UserError
from attngraph.graph import AttentionGraph, PastDegree
from attngraph.norms import KeptNorms
from attngraph.reading.projection import shared

NO_PLACE = (
    "an attention layer does not say where in the key/value cache its keys are, so that the degrees of "
    "earlier tokens cannot be kept with them: run the model with use_cache=False"
)


class DegreeCache:
    """The running degrees of one attention layer, so that decoding can go on after the last query, or after
    an earlier one when the cache is cropped.

    For cross-attention, whose values stay the same, the norms of these are kept as well (``norms``).

    ``totals`` holds a tensor ``(b, h, rows, m)`` per call, cumulated over all queries; ``queries`` ``(b,
    rows)`` likewise. ``lengths`` holds how many queries there were, and ``starts`` how many of the first
    values had left a sliding window by then.

    Of queries before the last :data:`ROWS` only the last one of a call of several (a prompt, say) is kept,
    and none of single steps, whose lengths count with the call after them.
    """

    ROWS = 64

    def __init__(self):
        self.totals: list[Tensor] = []
        self.queries: list[Tensor] = []
        self.lengths: list[int] = []
        self.starts: list[int] = []
        self.norms: KeptNorms | None = None
        self.first = torch.empty(0)
        self._old = 0  # how many of the calls lie before the last ROWS queries

    @property
    def length(self) -> int:
        """How many queries so far, padded ones included."""
        return sum(self.lengths)

    def past(self, values: int, start: int = 0) -> PastDegree | None:
        """The degrees left by all queries so far, on ``values`` values from number ``start`` on, zero for new
        ones; None before the first."""
        if not self.totals:
            return None
        total = self.totals[-1][:, :, -1, start - self.starts[-1] :]
        grown = values - total.shape[-1]
        total = torch.nn.functional.pad(total, (0, grown)) if grown >= 0 else total[..., :values]
        return PastDegree(total, self.queries[-1][:, -1])

    def append(self, graph: AttentionGraph, start: int = 0) -> None:
        """Add a graph's queries; the graph's own ``past_degree`` must be :meth:`past`."""
        self.totals.append(graph.value_degree("sum").detach()[:, :, -self.ROWS :].clone())
        self.queries.append(graph.queries_counted()[:, -self.ROWS :])
        self.lengths.append(graph.shape[2])
        self.starts.append(start)
        while sum(self.lengths[self._old + 1 :]) >= self.ROWS:
            self._forget(self._old)

    def norms_of(self, value: Tensor) -> KeptNorms:
        """What is kept of the norms of values ``(b, h, m, d)``; nothing yet if they are others than in the
        last step, which their first feature tells."""
        first, known = value[..., 0], self.norms.square if self.norms is not None else None
        if known is None or not torch.equal(first, self.first):
            self.first, known = first.clone(), None
        self.norms = KeptNorms(value, known)
        return self.norms

    def crop(self, removed: int) -> None:
        """Forget the last ``removed`` queries.

        Raises:
            UserError: the cache then ends at a query whose degrees are not kept any more.
        """
        left = removed
        while left > 0 and self.totals:
            here = self.lengths[-1]
            if here <= left:
                for kept in self._lists():
                    kept.pop()
            elif left >= self.totals[-1].shape[2]:
                raise UserError(
                    f"the key/value cache is cropped by {removed} tokens, to one whose degrees the attention "
                    f"graph has forgotten: of long texts it keeps those of the last {self.ROWS} tokens, and "
                    "where each longer forward pass ended. Crop it there, or start from an empty cache"
                )
            else:
                self.totals[-1] = self.totals[-1][:, :, :-left]
                self.queries[-1] = self.queries[-1][:, :-left]
                self.lengths[-1] -= left
            left -= here
        self._old = min(self._old, len(self.totals))

    def _forget(self, k: int) -> None:
        """Keep the last query of a call of several, and nothing of a single step."""
        if self.totals[k].shape[2] > 1:
            self.totals[k], self.queries[k] = self.totals[k][:, :, -1:].clone(), self.queries[k][:, -1:]
            self._old += 1
        else:
            self.lengths[k + 1] += self.lengths[k]
            for kept in self._lists():
                del kept[k]

    def _lists(self) -> tuple[list, ...]:
        return self.totals, self.queries, self.lengths, self.starts

    def change_batch(self, change: Callable[[Tensor], Tensor]) -> None:
        """Apply ``change`` (a function of a tensor) to the batch dimension of everything kept."""
        self.totals = [change(x) for x in self.totals]
        self.queries = [change(x) for x in self.queries]
        if self.norms is not None and self.norms.square is not None:
            self.norms = KeptNorms(self.norms.value, change(self.norms.square))
            self.first = change(self.first)


_Base: Any = object  # any class of cache layers, which is known at run time only


class _KeepsDegrees(_Base):
    """Mixed into a cache layer's class: whatever happens to keys and values happens to the degrees."""

    degrees: dict[str, DegreeCache]

    def reorder_cache(self, beam_idx):
        super().reorder_cache(beam_idx)
        self._change(lambda x: x.index_select(0, beam_idx.to(x.device)))

    def batch_repeat_interleave(self, repeats):
        super().batch_repeat_interleave(repeats)
        self._change(lambda x: x.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices):
        super().batch_select_indices(indices)
        self._change(lambda x: x[indices, ...])

    def crop(self, tokens_to_remove):
        before = self.get_seq_length()
        super().crop(tokens_to_remove)
        for cache in self.degrees.values():
            cache.crop(before - self.get_seq_length())

    def reset(self):
        super().reset()
        self.degrees.clear()

    def __reduce__(self):  # the class is made at run time, so pickle cannot find it by its name
        return _blank, (type(self).__mro__[2],), vars(self)

    def _change(self, change: Callable[[Tensor], Tensor]) -> None:
        for cache in self.degrees.values():
            cache.change_batch(change)


_extended: dict[type, type[_KeepsDegrees]] = {}


def _with_degrees(layer: Any) -> _KeepsDegrees:
    """A cache layer of the same kind and contents that keeps degrees."""
    extended = _blank(type(layer))
    extended.__dict__.update(vars(layer), degrees={})
    return extended


def _blank(base: type) -> _KeepsDegrees:
    """An instance without attributes of a cache layer's class, extended to keep degrees."""
    if base not in _extended:
        # transformers makes the caches of other models of a class that names a kind of layer
        kind = type(f"{base.__name__}WithDegrees", (_KeepsDegrees, base), {"_layer_type": None})
        _extended[base] = kind
    kind = _extended[base]
    return kind.__new__(kind)


def _self_attention(cache: Any) -> Any:
    """The part of a key/value cache that holds self-attention."""
    return cache.self_attention_cache if isinstance(cache, EncoderDecoderCache) else cache


def place_of(cache: Any, layer: int | None, key: Tensor | None) -> int | None:
    """Where a layer's degrees can be kept in a key/value cache.

    That is its own place; or, where the keys of its self-attention are in another, that one: a layer that
    runs several times in a pass, or is part of a model several times, has several places (HRM-Text, Zamba 2);
    or, if it stores no keys and values since it takes those of an earlier layer (Gemma 3n), the last one
    before that stores some. None if the module does not know its place, and its keys do not tell.

    Args:
        cache: the model's.
        layer: its own place, as far as the module knows.
        key: its keys, those in the cache included; None for cross-attention.
    """
    layers = _self_attention(cache).layers

    def holds(k: int) -> bool:
        return key is not None and shared(getattr(layers[k], "keys", None), key)

    if layer is None or layer >= len(layers) or not holds(layer):
        layer = next(filter(holds, range(len(layers))), layer)
    while layer is not None and layer > 0 and (layer >= len(layers) or isinstance(layers[layer], DummyLayer)):
        layer -= 1
    return layer


def _layer_of(cache: Any, layer: int) -> Any:
    """A layer of a key/value cache, made as the cache makes it if nothing was stored there yet."""
    store = _self_attention(cache)
    while len(store.layers) <= layer:
        store.layers.append(store.layer_class_to_replicate())
    return store.layers[layer]


def check_grows(cache: Any, layer: int) -> None:
    """Make sure that a layer of a key/value cache holds tokens only.

    Raises:
        UserError: it is of fixed length.
    """
    if isinstance(_layer_of(cache, layer), StaticLayer):
        raise UserError(
            "a static key/value cache has places without tokens, which an attention graph would take for "
            "values: use a DynamicCache"
        )


def degree_cache_of(cache: Any, layer: int, name: str, queries: int) -> DegreeCache:
    """The degrees kept in a key/value cache for one attention layer, made on first use.

    They live in the *self-attention* cache layer, also for cross-attention: it is the one that grows and is
    cropped with the queries.

    Args:
        cache: the model's ``Cache`` (an ``EncoderDecoderCache`` or one that holds self-attention).
        layer: the layer's index in the cache.
        name: the owner of the degrees; each has its own.
        queries: how many queries the current call adds; their keys are in the cache already.

    Raises:
        UserError: the cache holds tokens whose degrees were not kept, none of these queries, or is of fixed
            length.
    """
    check_grows(cache, layer)
    kept = _layer_of(cache, layer)
    if not isinstance(kept, _KeepsDegrees):
        kept = _self_attention(cache).layers[layer] = _with_degrees(kept)
    degrees = kept.degrees.setdefault(name, DegreeCache())
    earlier = kept.get_seq_length() - queries
    if earlier < 0:
        raise UserError(NO_PLACE)
    if earlier != degrees.length:
        raise UserError(
            f"the key/value cache holds {earlier} earlier tokens, but the attention graph saw "
            f"{degrees.length} of them: start from an empty cache, with the adapters on (or inside "
            "attngraph.record) throughout, and under torch.no_grad()"
        )
    return degrees
