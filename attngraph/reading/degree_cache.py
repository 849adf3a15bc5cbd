"""Running value degrees for decoding with a key/value cache.

In a causal graph query i sees value degrees summed over the queries up to i. With a cache the earlier queries
are gone, so their sums are kept beside the cached keys and values, and follow them through beam reordering,
cropping and batch changes: the cache layer is replaced by one of its class extended with
:class:`_KeepsDegrees`. They are kept for generation: no gradient flows back through them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DummyLayer, EncoderDecoderCache, StaticLayer

from attngraph.errors import UserError
from attngraph.graph import AttentionGraph, PastDegree
from attngraph.norms import KeptNorms
from attngraph.precision import widen
from attngraph.reading.projection import shared

NO_PLACE = (
    "an attention layer does not say where in the key/value cache its keys are, so that the degrees of "
    "earlier tokens cannot be kept with them: run the model with use_cache=False"
)


@dataclass
class _Call:
    """What is kept of a forward pass, or of a part of one.

    Attributes:
        rows: ``(b, h, rows, m)``: the weights of all its queries, in the model's own type; or, if ``summed``,
            the degrees after its last ones.
        summed: whether the rows are degrees.
        queries: how many valid queries there were after each row, ``(b, rows)``.
        length: how many queries it stands for.
        start: how many of the first values had left a sliding window by then.
        end: whether the cache may be cropped to its end for good.
    """

    rows: Tensor
    summed: bool
    queries: Tensor
    length: int
    start: int
    end: bool

    def after(self, before: _Call | None = None, total: Tensor | None = None) -> Tensor:
        """The degrees after its last query, ``(b, h, m)``, from those after the call before it."""
        if self.summed:
            return self.rows[:, :, -1]
        added = widen(self.rows).sum(2)
        if before is None or total is None:
            return added
        return _on_values(total, added.shape[-1], self.start - before.start) + added


class DegreeCache:
    """The running degrees of one attention layer, so that decoding can go on after the last query, or after
    an earlier one when the cache is cropped.

    The norms of the values are kept as well: cross-attention's stay the same, self-attention's grow by those
    of new tokens.

    Of the last :data:`ROWS` queries the weights are kept, and what they add to: ``h (2 ROWS + 12)`` bytes for
    each value in half precision, beside ``4 d`` for each head of keys and values. Of queries before them only
    the last one of a call of several (a prompt, say) is kept, and none of single steps, whose lengths count
    with the call after them. Until the next call, a call of several keeps its last :data:`REACH`, since
    assisted decoding crops the cache by the candidates in it that were refused.
    """

    ROWS, REACH = 32, 64

    def __init__(self):
        self.calls: list[_Call] = []
        self.total: Tensor | None = None  # after the last query, (b, h, m)
        self.norms: list[Tensor] = []  # of the values, (b, h, m), once they are known
        self.first = torch.empty(0)  # their first features, (b, h, m)
        self.start: int | None = None  # as for norms_of, when these were kept
        self._old = 0  # how many of the calls lie before the last ROWS queries; of these there are sums

    @property
    def length(self) -> int:
        """How many queries so far, padded ones included."""
        return sum(call.length for call in self.calls)

    def past(self, values: int, start: int = 0) -> PastDegree | None:
        """The degrees left by all queries so far, on ``values`` values from number ``start`` on, zero for new
        ones; None before the first."""
        if self.total is None:
            return None
        last = self.calls[-1]
        return PastDegree(_on_values(self.total, values, start - last.start), last.queries[:, -1])

    def append(self, graph: AttentionGraph, start: int = 0) -> None:
        """Add a graph's queries; the graph's own ``past_degree`` must be :meth:`past`."""
        n, queries, several = graph.shape[2], graph.queries_counted(), graph.shape[2] > 1
        self.total = graph.degree_after().total.detach()
        if self.calls:
            self._shorten()
        if graph.span is not None:
            rows = graph.last_value_degrees(self.REACH).detach().clone()
            self.calls.append(_Call(rows, True, queries[:, -self.REACH :], n, start, several))
        else:
            early = max(0, n - (self.REACH - 1))
            before, rows = graph.split_degree(early)
            if early:
                counted = queries[:, early - 1 : early]
                self.calls.append(_Call(before[:, :, None], True, counted, early, start, False))
            self.calls.append(_Call(rows, False, queries[:, early:], n - early, start, several))
        while sum(call.length for call in self.calls[self._old + 1 :]) >= self.ROWS - 1:
            self._forget(self._old)

    def norms_of(self, value: Tensor, start: int | None = None) -> KeptNorms:
        """What is kept of the norms of values ``(b, h, m, d)``: those of the last step's values, if they are
        the first of these, as their first features say.

        Args:
            value: the values.
            start: for self-attention, whose values are the tokens', how many have left a sliding window.
        """
        first = value[..., 0]
        left = 0 if start is None or self.start is None else start - self.start
        old, norms = self.first[..., left:], [x[..., left:] for x in self.norms]
        both = min(old.shape[-1], first.shape[-1])
        if not torch.equal(old[..., :both], first[..., :both]):
            norms = []
        self.norms, self.first, self.start = [x[..., :both] for x in norms], first.clone(), start
        return KeptNorms(value, self.norms)

    def crop(self, removed: int) -> None:
        """Forget the last ``removed`` queries.

        Raises:
            UserError: the cache then ends at a query whose degrees are not kept any more.
        """
        if self.start is not None:  # self-attention's values go with the queries
            values = max(0, self.first.shape[-1] - removed)
            self.norms, self.first = [x[..., :values] for x in self.norms], self.first[..., :values]
        left = removed
        while left > 0 and self.calls:
            call = self.calls[-1]
            if call.length <= left:
                left -= self.calls.pop().length
            elif left >= call.rows.shape[2]:
                raise UserError(
                    f"the key/value cache is cropped by {removed} tokens, to one whose degrees the attention "
                    f"graph has forgotten: of long texts it keeps those of the last {self.ROWS} tokens, of "
                    f"the last {self.REACH} right after a longer forward pass, and where each of these "
                    "ended. Crop it there, or start from an empty cache; with generate use at most "
                    f"{self.REACH - 1} candidates (num_assistant_tokens, prompt_lookup_num_tokens), or "
                    f"{self.ROWS - 1} from an assistant that has graph adapters itself"
                )
            else:
                call.rows, call.queries = call.rows[:, :, :-left].clone(), call.queries[:, :-left]
                call.length -= left
                left = 0
        self._old = min(self._old, len(self.calls))
        before = self.total = None
        for call in self.calls[max(0, self._old - 1) :]:
            self.total, before = call.after(before, self.total), call

    def _shorten(self) -> None:
        """Of the last call, keep no more rows than of others; :meth:`append` forgets what is cut off."""
        call, rows = self.calls[-1], self.ROWS
        if call.summed and call.rows.shape[2] > rows:
            call.rows, call.queries = call.rows[:, :, -rows:].clone(), call.queries[:, -rows:]
        elif not call.summed and call.length >= rows:
            early = call.length - (rows - 1)
            cut = replace(
                call, rows=call.rows[:, :, :early], queries=call.queries[:, :early], length=early, end=False
            )
            call.rows, call.queries = call.rows[:, :, early:].clone(), call.queries[:, early:]
            call.length = rows - 1
            self.calls.insert(-1, cut)

    def _forget(self, k: int) -> None:
        """Keep the degrees after a call and not its weights; and nothing of what came before it, unless that
        was the end of a call of several."""
        call, before = self.calls[k], self.calls[k - 1] if k else None
        total = call.after(before, None if before is None else before.after())
        call.rows, call.summed, call.queries = total[:, :, None].clone(), True, call.queries[:, -1:]
        if before is None or before.end:
            self._old += 1
        else:
            call.length += before.length
            del self.calls[k - 1]

    def change_batch(self, change: Callable[[Tensor], Tensor]) -> None:
        """Apply ``change`` (a function of a tensor) to the batch dimension of everything kept."""
        for call in self.calls:
            call.rows, call.queries = change(call.rows), change(call.queries)
        if self.total is not None:
            self.total = change(self.total)
        if self.norms:
            self.norms, self.first = [change(x) for x in self.norms], change(self.first)


def _on_values(total: Tensor, values: int, left: int) -> Tensor:
    """Degrees on ``values`` values, without the first ``left``, which a sliding window dropped; 0 on new
    ones."""
    total = total[..., left:]
    grown = values - total.shape[-1]
    return torch.nn.functional.pad(total, (0, grown)) if grown >= 0 else total[..., :values]


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
