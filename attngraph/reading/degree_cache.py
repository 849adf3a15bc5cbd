"""Running value degrees for decoding with a key/value cache.

In a causal graph query i sees value degrees summed over the queries up to i. With a cache the earlier queries
are gone, so their sums are kept with the cached keys and values, and follow them through beam reordering,
cropping and batch changes: the cache layer is replaced by one of its class extended with
:class:`_KeepsDegrees`. They are kept for generation: no gradient flows back through them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.cache_utils import DummyLayer, EncoderDecoderCache, StaticLayer

from attngraph.degrees import PastDegree, queries_counted
from attngraph.errors import UserError
from attngraph.graph import AttentionGraph
from attngraph.norms import KeptNorms
from attngraph.precision import widen
from attngraph.reading.projection import shared
from attngraph.scores import AttentionScores

NO_PLACE = (
    "an attention layer does not say where in the key/value cache its keys are, so that the degrees of "
    "earlier tokens cannot be kept with them: run the model with use_cache=False"
)


@dataclass
class _Call:
    """Degrees kept from a forward pass.

    Attributes:
        totals: ``(b, h, rows, m)``: the degrees after each of its last queries.
        queries: number of valid queries by then, ``(b, rows)``.
        length: number of queries that it represents.
        start: number of the first values that had left a sliding window by then.
        end: whether the cache may be cropped to its end for good.
        examples: if the batch has changed since, which of these examples each present one was, int64
            ``(b,)``, until :meth:`settle`; else None.
    """

    totals: Tensor
    queries: Tensor
    length: int
    start: int
    end: bool
    examples: Tensor | None = None

    def settle(self) -> None:
        """Bring it into the order of the examples of now."""
        self.totals, self.queries = (_picked(x, self.examples) for x in (self.totals, self.queries))
        self.examples = None

    def cut(self, rows: slice) -> None:
        """Keep only some of the rows, and no memory of the others."""
        self.totals, self.queries = self.totals[:, :, rows].clone(), self.queries[:, rows].clone()


class Kept(NamedTuple):
    """State of a :class:`DegreeCache` before or after a decoding step of one query.

    Attributes:
        totals: the degrees before or after the query, ``(k, h, 1, .)``, of the first values; those of further
            values are 0.
        queries: number of valid queries by then, ``(k, 1)``.
        norms: norms of the first values, ``(k, h, .)``; None if unknown.
        probe: the features of one value, ``(k, h, d)``: the norms are valid as long as it has them.
        place: the number of that value.
        examples: which of the ``k`` examples each of the batch was, int64 ``(b,)``; None if unchanged.
    """

    totals: Tensor
    queries: Tensor
    norms: Tensor | None
    probe: Tensor | None
    place: int
    examples: Tensor | None = None


class DegreeCache:
    """The running degrees of one attention layer, so that decoding can continue after the last query, or
    after an earlier one when the cache is cropped.

    The norms of the values are kept as well: cross-attention's stay the same, self-attention's grow by those
    of new tokens.

    The degrees after each of the last :data:`ROWS` queries are kept: ``4 h (ROWS + 1)`` bytes for each value,
    compared with ``4 d`` (in half precision) for each head of keys and values. Of earlier queries, only the
    last one of a call with several (such as a prompt) is kept, and none of single steps, whose lengths are
    added to the call after them. Until the next call, a call with several queries keeps its last
    :data:`REACH`, since assisted decoding removes rejected candidates from the cache. When the batch changes,
    as after each step of beam search, only the degrees after the last query are kept.
    """

    ROWS, REACH = 32, 64

    def __init__(self):
        self.calls: list[_Call] = []
        self.norms: list[Tensor] = []  # of the values, (b, h, m), once they are known
        self.values = 0  # how many there were
        self.probe: tuple[int, Tensor] | None = None  # the place of one of them, and its features (b, h, d)
        self.start: int | None = None  # as for norms_of, when these were kept
        self.metric: Tensor | None = None  # the same
        self._old = 0  # how many of the calls lie before the last ROWS queries
        self._examples: Tensor | None = None  # for norms and probe, as in a call

    @property
    def length(self) -> int:
        """Number of queries so far, including padded ones."""
        return sum(call.length for call in self.calls)

    def past(self, values: int, start: int = 0) -> PastDegree | None:
        """The degrees left by all queries so far, on ``values`` values from number ``start`` on, zero for new
        ones; None before the first."""
        if not self.calls:
            return None
        last = self.calls[-1]
        last.settle()
        total = last.totals[:, :, -1, start - last.start :]  # without those that a sliding window dropped
        if total.shape[-1] != values:
            total = torch.nn.functional.pad(total, (0, values - total.shape[-1]))
        return PastDegree(total, last.queries[:, -1])

    def append(self, graph: AttentionGraph | AttentionScores, start: int = 0) -> None:
        """Add a graph's queries; the graph's own ``past_degree`` must be :meth:`past`. Of scores the weights
        must be known."""
        b, _, n, _, _ = graph.shape
        valid, past, early = graph.query_mask, graph.past_degree, max(0, n - self.REACH)
        span = graph.span if isinstance(graph, AttentionGraph) else None
        if isinstance(graph, AttentionScores):
            weight = graph.weight().detach()
            totals = widen(weight) if n == 1 and past is not None else widen(weight[:, :, early:]).cumsum(2)
            if early:
                totals += widen(weight[:, :, :early]).sum(2, keepdim=True)
            if past is not None:
                totals = totals + past.total[:, :, None]
        elif span is not None:
            totals = graph.last_value_degrees(n - early).detach().clone()
        else:
            before, weight = graph.split_degree(early)
            totals = widen(weight).cumsum(2) + before[:, :, None]
        if self.calls and self.calls[-1].totals.shape[2] > self.ROWS:
            self.calls[-1].cut(slice(-self.ROWS, None))
        if n == 1 and valid is None and past is not None:
            queries = past.queries[:, None] + 1
        else:
            rows = torch.ones(b, n, dtype=torch.bool, device=graph.value.device) if valid is None else valid
            queries = queries_counted(rows, True, past, span)[:, early:]
        self._append(_Call(totals, queries, n, start, n > 1))

    def _append(self, call: _Call) -> None:
        self.calls.append(call)
        while sum(call.length for call in self.calls[self._old + 1 :]) >= self.ROWS - 1:
            self._forget(self._old)

    def norms_of(self, value: Tensor, start: int | None = None, metric: Tensor | None = None) -> KeptNorms:
        """Kept norms of values ``(b, h, m, d)``: those of the last step's values, if they are the first of
        these. One value is compared, since a cache treats all values in the same way.

        Args:
            value: the values.
            start: for self-attention, the number of tokens whose values have left a sliding window.
            metric: the metric of the norms; norms in another metric are discarded.
        """
        self._settle_norms()
        m = value.shape[2]
        left = 0 if start is None or self.start is None else start - self.start
        norms = [x[..., left : left + m] for x in self.norms]
        if self.probe is not None:
            place, features = self.probe[0] - left, self.probe[1]
            if not 0 <= place < m or not torch.equal(features, value[:, :, place]):
                norms = []
        if not _same(metric, self.metric):
            norms = []
        self.norms, self.start, self.values, self.metric = norms, start, m, metric
        self.probe = (m // 2, value[:, :, m // 2].clone(memory_format=torch.contiguous_format)) if m else None
        return KeptNorms(value, self.norms)

    def found(self, values: int, start: int | None, metric: Tensor | None) -> Kept | None:
        """State for a decoding step, for its values and metric; None before the first query. Arguments as for
        :meth:`norms_of`."""
        if not self.calls:
            return None
        last, norms, place, probe = self.calls[-1], None, 0, None
        if last.examples is not self._examples:
            last.settle()
            self._settle_norms()
        totals, queries, gone = last.totals, last.queries, max(0, (start or 0) - last.start)
        if totals.shape[2] > 1 or gone or totals.shape[3] > values:  # else no view: layers are many
            totals, queries = totals[:, :, -1:, gone : gone + values], queries[:, -1:]
        if self.probe is not None and self.norms and metric is self.metric:
            left = 0 if start is None or self.start is None else start - self.start
            place, probe, norms = self.probe[0] - left, self.probe[1], self.norms[0]
            if not 0 <= place < values:
                norms = None
            elif left or norms.shape[2] > values:
                norms = norms[..., left : left + values]
        return Kept(totals, queries, norms, probe, place, last.examples)

    def leave(self, kept: Kept, start: int | None, metric: Tensor | None) -> None:
        """Keep what a step of decoding leaves. Arguments as for :meth:`found`."""
        self._append(_Call(kept.totals, kept.queries, 1, start or 0, False))
        self.norms = [] if kept.norms is None else [kept.norms]
        self.probe = None if kept.probe is None else (kept.place, kept.probe)
        self._examples = None
        self.values, self.start, self.metric = kept.totals.shape[3], start, metric

    def _settle_norms(self) -> None:
        """As :meth:`_Call.settle`."""
        if self._examples is not None:
            self.norms = [_picked(x, self._examples) for x in self.norms]
            if self.probe is not None:
                self.probe = self.probe[0], _picked(self.probe[1], self._examples)
            self._examples = None

    def crop(self, removed: int) -> None:
        """Forget the last ``removed`` queries.

        Raises:
            UserError: the cache then ends at a query whose degrees are not kept any more.
        """
        if self.start is not None:  # self-attention's values go with the queries
            self.values = max(0, self.values - removed)
            self.norms = [x[..., : self.values] for x in self.norms]
            if self.probe is not None and self.probe[0] >= self.values:
                self.probe = None
        left = removed
        while left > 0 and self.calls:
            call = self.calls[-1]
            if call.length <= left:
                left -= self.calls.pop().length
            elif left >= call.totals.shape[2]:
                raise UserError(
                    f"the key/value cache is cropped by {removed} tokens, to one whose degrees the attention "
                    f"graph has forgotten: of long texts it keeps those of the last {self.ROWS} tokens, of "
                    f"the last {self.REACH} right after a longer forward pass, and where each of these "
                    "ended, but none from before beams were reordered. Crop it there, or start from an empty "
                    f"cache; with generate use at most {self.REACH - 1} candidates "
                    f"(num_assistant_tokens, prompt_lookup_num_tokens), or {self.ROWS - 1} from an assistant "
                    "that has graph adapters itself"
                )
            else:
                call.cut(slice(None, -left))
                call.length -= left
                left = 0
        self._old = min(self._old, len(self.calls))

    def _forget(self, k: int) -> None:
        """Keep of a call the degrees after it; and nothing of what came before it, unless that was the end of
        a call of several."""
        call, before = self.calls[k], self.calls[k - 1] if k else None
        if call.totals.shape[2] > 1:
            call.cut(slice(-1, None))
        if before is None or before.end:
            self._old += 1
        else:
            call.length += before.length
            del self.calls[k - 1]

    def numbers(self) -> Tensor:
        """The number of each example, int64 ``(b,)``."""
        last = self.calls[-1]
        held = last.totals if last.examples is None else last.examples
        return torch.arange(len(held), device=held.device)

    def change_batch(self, examples: Tensor) -> None:
        """Pick examples of what the next query needs, as soon as that is asked for, and forget the rest.

        Args:
            examples: their numbers, int64 ``(b,)``.
        """
        before = self._examples
        self._examples = _picked_again(before, examples)
        if self.calls:
            last, length = self.calls[-1], self.length
            if last.totals.shape[2] > 1:
                last.cut(slice(-1, None))
            picked = self._examples if last.examples is before else _picked_again(last.examples, examples)
            call = _Call(last.totals, last.queries, length, last.start, last.end, picked)
            self.calls, self._old = [call], 0


def _picked(x: Tensor, examples: Tensor | None) -> Tensor:
    return x if examples is None else x.index_select(0, examples)


def _picked_again(before: Tensor | None, examples: Tensor) -> Tensor:
    """The numbers of examples that are picked twice."""
    return examples if before is None else before.index_select(0, examples)


def _same(x: Tensor | None, y: Tensor | None) -> bool:
    return x is y or (x is not None and y is not None and torch.equal(x, y))


_Base: Any = object  # any class of cache layers, which is known at run time only


class _KeepsDegrees(_Base):
    """Mixin for a cache layer's class: every operation on keys and values is applied to the degrees too."""

    degrees: dict[str, DegreeCache]

    def reorder_cache(self, beam_idx):
        super().reorder_cache(beam_idx)
        examples = beam_idx.to(torch.int64, copy=True).contiguous()
        self._change(lambda cache: examples.to(cache.calls[-1].totals.device))

    def batch_repeat_interleave(self, repeats):
        super().batch_repeat_interleave(repeats)
        self._change(lambda cache: cache.numbers().repeat_interleave(repeats))

    def batch_select_indices(self, indices):
        super().batch_select_indices(indices)
        self._change(lambda cache: cache.numbers()[indices])

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

    def _change(self, examples: Callable[[DegreeCache], Tensor]) -> None:
        for cache in self.degrees.values():
            if cache.calls:
                cache.change_batch(examples(cache))


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
    """Index in a key/value cache at which a layer's degrees can be kept.

    Usually it is the layer's index. If the keys of its self-attention are at another index, it is that one,
    since a layer that runs several times in a pass, or is part of a model several times, has several
    (HRM-Text, Zamba 2). If the layer stores no keys and values because it uses those of an earlier layer
    (Gemma 3n), it is the last earlier one that stores some. None if the module does not know its index and
    its keys are not found.

    Args:
        cache: the model's cache.
        layer: the layer's index, if the module knows it.
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
            "a static key/value cache has empty slots, which an attention graph would treat as values: use a "
            "DynamicCache"
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
    kept = _layer_of(cache, layer)
    if not isinstance(kept, _KeepsDegrees):
        check_grows(cache, layer)
        kept = _self_attention(cache).layers[layer] = _with_degrees(kept)
    degrees = kept.degrees.get(name)
    if degrees is None:
        degrees = kept.degrees[name] = DegreeCache()
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
