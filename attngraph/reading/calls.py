"""One attention call of a running model: what it computed, and the graph it is.

The weights come from the model's own eager function, called without dropout, so whatever that function knows (grouped
heads, position bias, soft caps, sinks) is in them; dropout follows as the model would draw it.
"""

from __future__ import annotations

import inspect
import sys
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from transformers.cache_utils import EncoderDecoderCache

from attngraph.errors import UserError
from attngraph.graph import AttentionGraph
from attngraph.reading.degree_cache import degree_cache_of
from attngraph.reading.projection import Projections
from attngraph.scores import AttentionScores

try:  # where transformers (5.24) notes what a model was asked to return
    from transformers.utils.output_capturing import _active_collector
except ImportError:
    _active_collector = None

if TYPE_CHECKING:
    from attngraph.reading.instrument import Site, _Shared

HIDDEN = (
    -9e3
)  # an additive mask at or below this hides an edge: models use -1e4, -1e9, the smallest number and -inf


@dataclass(eq=False)
class Call:
    """What one attention call computed.

    Weights and context are computed when somebody reads them first.

    Attributes:
        site: the attention layer.
        kind: ``"self"`` or ``"cross"``.
        causal: whether the queries are ordered in time. A cross-attention follows the self-attention before it.
        query ``(b, h, n, d)``, key and value ``(b, h, m, d)``: as the model compares them, after rotary embedding and
            with grouped heads repeated.
        weight: ``(b, h, n, m)`` before dropout.
        dropped: after it; the same tensor where there is none.
        context: ``(b, h, n, d)``, ``dropped @ value``; what the model goes on with. A listener may set it.
        visible: bool ``(b, n, m)``, or None when nothing is masked.
        query_mask: bool ``(b, n)``, which queries are valid: those that self-attention lets see themselves.
        source: the states that cross-attention attends to, where the module was given them.
        cache, layer_idx: the model's key/value cache, and the place in it of the layer, or, for cross-attention whose own
            place holds the other side (Mllama's), of the self-attention before it.
        dropout: probability; 0 in evaluation.
        sides: modalities of queries and values, as far as a family tells them (see :class:`AttentionGraph`).
        whole: whether every query is valid and sees something.
        eager: the model's eager attention of this call, without dropout: to context ``(b, n, h, d)`` and weights.
        scale: the factor of the scores where the model told it.
        plain: tells whether scale and mask are all that the scores are made of; None where the mask is more than that.
        unrotated: finds the queries before rotary embedding; see :func:`attngraph.reading.projection.unrotated`.
    """

    site: Site
    kind: str
    causal: bool
    query: Tensor
    key: Tensor
    value: Tensor
    visible: Tensor | None
    query_mask: Tensor | None
    source: Tensor | None
    cache: object | None
    layer_idx: int | None
    dropout: float
    sides: tuple[str | Tensor | None, str | Tensor | None]
    whole: bool
    eager: Callable[[], tuple[Tensor, Tensor]]
    scale: float | None
    plain: Callable[[], bool] | None
    unrotated: Callable[[], tuple[Tensor | None, bool]]

    @cached_property
    def _found(self) -> tuple[Tensor, bool]:
        found, rotated = self.unrotated()
        return self.query if found is None else found.expand_as(self.query), rotated

    @property
    def feature(self) -> Tensor:
        """The query nodes' features, ``(b, h, n, d)``: the projected queries before rotary embedding. The same tensor as
        :attr:`query` where there is none, or where it could not be undone (:attr:`rotated`)."""
        return self._found[0]

    @property
    def rotated(self) -> bool:
        """Whether :attr:`feature` carries rotary positions: the module rotates, and no output of its own query projection or
        query norm fits the queries."""
        return self._found[1]

    @cached_property
    def _eager(self) -> tuple[Tensor, Tensor]:
        return self.eager()

    @property
    def weight(self) -> Tensor:
        return self._eager[1]

    @cached_property
    def dropped(self) -> Tensor:
        return (
            nn.functional.dropout(self.weight, p=self.dropout, training=True) if self.dropout else self.weight
        )

    @cached_property
    def context(self) -> Tensor:
        return self.dropped @ self.value if self.dropout else self._eager[0].transpose(1, 2)

    def recorded(self, weight: str = "dropped") -> Tensor | None:
        """Weights (``"dropped"`` or ``"weight"``) for the model to return: None if they were not needed so far and nobody
        asked the model for attentions. Those that nothing else needed carry no gradient."""
        if "_eager" in self.__dict__:
            return getattr(self, weight)
        if self.site.module.attngraph.wanted or attentions_wanted():
            with (
                torch.no_grad()
            ):  # so that checkpointing, which runs a layer again unasked, finds the same computation
                return self.eager()[1]
        return None

    def scores(self, metric: Tensor | None = None) -> AttentionScores | None:
        """The call before its weights are computed, or None where only they tell the graph: under dropout, with a
        key/value cache in a causal layer (which keeps degrees; not when the cache was empty and gradients are wanted, since
        nobody decodes on from there), or if the model's eager attention is more than a softmax of scaled and masked
        scores, which is tried out.

        Args:
            metric: see :meth:`Site.metric`.
        """
        keeps = self.causal and self.cache is not None
        if keeps and torch.is_grad_enabled() and self.tokens == self.query.shape[2]:
            keeps = False
        if (
            self.plain is None
            or self.dropout
            or keeps
            or self.query.shape[-1] != self.value.shape[-1]
            or not self.plain()
        ):
            return None
        mask = None if self.visible is None else self.visible[:, None]
        return AttentionScores(
            self.query,
            self.key,
            self.value,
            self.scale,
            mask,
            self.query_mask,
            causal=self.causal,
            metric=metric,
            feature=None if self.feature is self.query else self.feature,
        )

    def graph(self, dropped: bool = False, metric: Tensor | None = None, **more) -> AttentionGraph:
        """The call as a graph, without what a cache holds from earlier queries (see :meth:`remember`).

        Args:
            dropped: take the weights after dropout.
            metric: see :meth:`Site.metric`.
            more: further fields of :class:`AttentionGraph`.

        Raises:
            UserError: query and value features of different widths.
        """
        if self.query.shape[-1] != self.value.shape[-1]:
            raise UserError(
                f"{self.site.name}: queries have {self.query.shape[-1]} features per head and values "
                f"{self.value.shape[-1]}; a graph needs both in one space: leave the layer out "
                "(layers=...; for adapters exclude=...)"
            )
        return AttentionGraph(
            self.feature,
            self.value,
            self.dropped if dropped else self.weight,
            query_mask=self.query_mask,
            value_mask=self.visible,
            causal=self.causal,
            metric=metric,
            kind=self.kind,
            rotated=self.rotated,
            **more,
        )

    def remember(self, graph: AttentionGraph, owner: str) -> AttentionGraph:
        """The graph with the degrees that earlier queries left in the key/value cache, where its own are then added.

        Args:
            graph: this call's graph, in whatever form (sparse, some heads) it has in every step.
            owner: who keeps degrees; every owner has its own.
        """
        if not graph.causal or self.cache is None or self.layer_idx is None:
            return graph
        name = f"{owner} {self.kind} {self.site.name}"
        degrees = degree_cache_of(self.cache, self.layer_idx, name, self.query.shape[2])
        start = self.tokens - graph.shape[3] if self.kind == "self" else 0
        graph = replace(graph, past_degree=degrees.past(graph.shape[3], start))
        degrees.append(graph, start)
        return graph

    @property
    def tokens(self) -> int:
        """How many tokens self-attention has seen, those included whose values a cache has dropped again."""
        if self.cache is None or self.layer_idx is None:
            return self.value.shape[2]
        return int(self.cache.get_seq_length(self.layer_idx))


class Mask(NamedTuple):
    """What an attention mask says. ``order`` is "causal" if all later values are hidden, "none" if none of them,
    "mixed" if some, and None if there are none. ``pure``: it hides edges or leaves them as they are, for all heads.
    ``sees``: every query sees something. ``valid``: every query is valid."""

    visible: Tensor | None  # b n m, bool
    queries: Tensor | None  # b n, bool
    order: str | None
    pure: bool = True
    sees: bool = True
    valid: bool = True


def read_mask(mask: Tensor | None, shape: tuple[int, int, int, int]) -> Mask:
    """An additive or bool mask, broadcastable to ``(b, h, n, m)``. Where heads differ, it is enough that one sees."""
    if mask is None:
        return Mask(None, None, None)
    b, _, n, m = shape
    visible = mask if mask.dtype == torch.bool else mask > HIDDEN
    while visible.dim() < 4:
        visible = visible[None]
    pure = visible.shape[1] == 1 and (
        mask.dtype == torch.bool or not bool(((mask > HIDDEN) & (mask != 0)).any())
    )
    visible = visible[..., :m].any(1).expand(b, n, m)
    sees = bool(visible.any(-1).all())
    if m < n:
        return Mask(visible, None, None, pure, sees)
    queries = visible.diagonal(m - n, -2, -1)
    seen = visible & queries[..., None]
    later = torch.ones(n, m, dtype=torch.bool, device=mask.device).triu(m - n + 1)
    later = later & queries[..., None] & seen.any(1, keepdim=True)
    shown, possible = int((seen & later).sum()), int(later.sum())
    order = None if possible == 0 else "causal" if shown == 0 else "none" if shown == possible else "mixed"
    return Mask(visible, queries, order, pure, sees, bool(queries.all()))


class Before(NamedTuple):
    """What a self-attention call tells the cross-attention after it."""

    causal: bool = False
    queries: Tensor | None = None
    valid: bool = True
    layer_idx: int | None = None


class Flow:
    """What the calls of one model tell each other: a mask is read once, and cross-attention follows the self-attention
    call before it over as many queries in the same part (``home``, the innermost transformers model)."""

    KEPT = 8  # numbers of queries whose last self-attention is remembered

    def __init__(self):
        self._masks: list[tuple] = []
        self._last: dict[tuple[object, int, int], Before] = {}

    def __reduce__(self):
        return Flow, ()

    def mask(self, mask: Tensor | None, shape: tuple[int, int, int, int]) -> Mask:
        """:func:`read_mask`, shared by layers that get the same tensor."""
        for kept, key, read in self._masks:
            if mask is not None and kept() is mask and key == (shape[0], *shape[2:], mask._version):
                return read
        read = read_mask(mask, shape)
        if mask is not None and not mask.is_inference():
            self._masks = [entry for entry in self._masks if entry[0]() is not None][-self.KEPT :]
            self._masks.append((weakref.ref(mask), (shape[0], *shape[2:], mask._version), read))
        return read

    def note(self, home: object, b: int, n: int, before: Before) -> None:
        self._last.pop((home, b, n), None)
        self._last[home, b, n] = before
        while len(self._last) > self.KEPT:
            del self._last[next(iter(self._last))]

    def before(self, home: object, b: int, n: int) -> Before:
        return self._last.get((home, b, n), Before())


class Hub:
    """What an attention module carries while it is instrumented, as ``module.attngraph``.

    Attributes:
        site: its first description; several handles may have their own.
        listeners: called with each :class:`Call`.
        shared: what the modules of a model have in common, with their :class:`Flow`.
        source, cache: from the arguments of the forward pass that is running.
        home: the innermost transformers model that holds the module.
        wanted: whether the module was asked for its weights (``output_attentions``).
        plain: what was found by :meth:`Call.scores` for the settings that the module runs with.
        notes: what a family's hooks leave for its attention modules.
        projections: what its query projection put out.
    """

    def __init__(self, site: Site, shared: _Shared, home: object):
        self.site, self.shared, self.home = site, shared, home
        self.listeners: list[Callable[[Call], None]] = []
        self.source: Tensor | None = None
        self.cache = None
        self.wanted = False
        self.plain: dict[tuple, bool] = {}
        self.notes: dict = {}
        self.projections = Projections()


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    eager: Callable,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    query_mask: Tensor | None = None,
    sides: tuple = (None, None),
    **kwargs,
) -> Call:
    """Run an attention call and tell the module's listeners.

    Args:
        module: an instrumented attention module.
        query ``(b, h, n, d)``, key and value ``(b, g, m, d)`` with ``g`` dividing ``h``.
        attention_mask: added to the scores (or bool).
        eager: the model's eager attention, ``(module, query, key, value, attention_mask, dropout=, ...)`` to context
            ``(b, n, h, d)`` and weights.
        dropout: probability while training.
        is_causal: whether self-attention's queries are ordered in time, if the model or a family says so; see
            :func:`_ordered`.
        query_mask, sides: told by a family, see :class:`Call`.
        kwargs: what else the model passes; its eager attention gets it.
    """
    hub: Hub = module.attngraph
    b, h = max(query.shape[0], key.shape[0]), query.shape[1]
    n, m = query.shape[2], key.shape[2]
    masked = attention_mask
    if masked is not None and masked.dtype == torch.bool:  # eager attention would add it
        masked = torch.zeros_like(masked, dtype=query.dtype).masked_fill(
            ~masked, torch.finfo(query.dtype).min
        )
    run = partial(eager, module, dropout=0.0, **kwargs)
    compute = partial(run, query, key, value, masked)
    tried = partial(
        _is_plain, hub, run, (h, key.shape[1], query.shape[-1], value.shape[-1]), kwargs, query.device
    )
    unrotated = hub.projections.of(query)
    query, key, value = query.expand(b, -1, -1, -1), _heads(key, b, h), _heads(value, b, h)
    mask = hub.shared.flow.mask(attention_mask, (b, h, n, m))
    cross = hub.source is not None or (hub.cache is None and n != m) or "Cross" in type(module).__name__
    layer_idx = getattr(module, "layer_idx", None)
    if cross:
        before = hub.shared.flow.before(hub.home, b, n)
        if before.layer_idx is not None and not isinstance(hub.cache, EncoderDecoderCache):
            layer_idx = before.layer_idx
    else:
        word, masked = getattr(module, "is_causal", None), attention_mask is not None
        causal = _ordered(is_causal, word, masked, mask.order, n, hub.cache)
        before = Before(causal, mask.queries, mask.valid, layer_idx)
        hub.shared.flow.note(hub.home, b, n, before)
    call = Call(
        hub.site,
        "cross" if cross else "self",
        before.causal,
        query,
        key,
        value,
        mask.visible,
        before.queries if query_mask is None else query_mask,
        hub.source,
        hub.cache,
        layer_idx,
        dropout if module.training else 0.0,
        sides,
        mask.sees and before.valid and query_mask is None,
        compute,
        kwargs.get("scaling"),
        tried if mask.pure else None,
        unrotated,
    )
    for listener in tuple(hub.listeners):
        listener(call)
    return call


@torch.no_grad()
def _is_plain(
    hub: Hub, run: Callable, sizes: tuple[int, int, int, int], kwargs: dict, device: torch.device
) -> bool:
    """Whether a module's eager attention is a softmax of scaled and masked scores: tried out once for the settings that it
    runs with, on made-up queries and keys with scores of all sizes, so that neither the data nor their precision decide."""
    if any(isinstance(x, Tensor) and x.is_floating_point() for x in kwargs.values()):
        return False  # a bias, say, whose shape fits these numbers only
    key = tuple(sorted((name, x) for name, x in kwargs.items() if isinstance(x, (int, float, str))))
    if key not in hub.plain:
        heads, groups, features, wide = sizes
        scale = kwargs.get("scaling") or features**-0.5
        random = torch.Generator().manual_seed(0)
        spread = (4 / (abs(scale) * features**0.5)) ** 0.5  # scores of about 4
        query, keys, value = (
            torch.randn(1, *shape, generator=random).to(device) * spread
            for shape in ((heads, 5, features), (groups, 17, features), (groups, 17, wide))
        )
        hidden = torch.rand(1, 1, 5, 17, generator=random).to(device) < 0.2
        mask = torch.zeros_like(hidden, dtype=query.dtype).masked_fill(hidden, torch.finfo(query.dtype).min)
        with torch.autocast(device.type, enabled=False):
            try:
                weight = run(query, keys, value, mask)[1]
            except Exception:  # it needs the numbers of a real call
                hub.plain[key] = False
            else:
                expected = (query @ _heads(keys, 1, heads).transpose(-1, -2) * scale + mask).softmax(-1)
                hub.plain[key] = weight.shape == expected.shape and bool(
                    (weight - expected).abs().max() < 1e-4
                )
    return hub.plain[key]


def _heads(x: Tensor, b: int, h: int) -> Tensor:
    """Grouped keys or values, one per head of the query."""
    return (x if x.shape[1] == h else x.repeat_interleave(h // x.shape[1], 1)).expand(b, -1, -1, -1)


def _ordered(told: bool | None, module: bool | None, masked: bool, order: str | None, n: int, cache) -> bool:
    """Whether self-attention's queries are ordered in time. Eager attention hides what its mask hides and nothing else:
    so several queries without a mask are not, whatever the module says of itself (transformers' SDPA would go by that
    word), and a mask that hides all later values or none of them decides. Where it hides some, the word counts
    (``told`` with this call, or the module's own); a single query is ordered if it goes on from a cache.
    """
    word = module if told is None else told
    if order in ("causal", "none"):
        return order == "causal"
    if not masked or (word is None and order is None):
        return n == 1 and cache is not None and word is not False
    return bool(word)


def arguments(module: nn.Module, args: tuple, kwargs: dict) -> dict:
    """What a forward pass is given, by name."""
    given = _signature(type(module)).bind_partial(module, *args, **kwargs).arguments
    return given | given.pop("kwargs", {})


@cache
def _signature(kind: type) -> inspect.Signature:
    return inspect.signature(kind.forward)


def eager_of(module: nn.Module) -> Callable:
    """The eager attention function of the file that defines the module's class.

    Raises:
        UserError: there is none.
    """
    for kind in type(module).__mro__:
        names = vars(sys.modules.get(kind.__module__, object))
        found = names.get("eager_attention_forward") or next(
            (names[name] for name in names if name.endswith("eager_attention_forward")), None
        )
        if found is not None:
            return found
    raise UserError(
        f"{type(module).__name__}: the file that defines it has no eager_attention_forward, so that its "
        "attention cannot be read: give it one, or leave the layer out"
    )


def graph_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    **kwargs,
) -> tuple[Tensor, Tensor]:
    """What transformers' ``AttentionInterface`` calls in an instrumented model: eager attention, with listeners.

    Returns:
        context ``(b, n, h, d)`` and weights after dropout, as eager attention returns them.
    """
    eager = eager_of(module)
    if (
        "attngraph" not in module.__dict__
    ):  # of another model, with which an instrumented one shares its configuration
        return eager(module, query, key, value, attention_mask, **kwargs)
    call = attend(module, query, key, value, attention_mask, eager, **kwargs)
    return call.context.transpose(1, 2).contiguous(), call.recorded()


def attentions_wanted() -> bool:
    """Whether the model that runs was asked for attentions (``output_attentions``); True where it cannot be told."""
    if _active_collector is None:
        return True
    collected = _active_collector.get()
    return collected is not None and any("attentions" in name for name in collected)


def split_heads(x: Tensor, features: int) -> Tensor:
    """``(b, n, h·d)`` to ``(b, h, n, d)``."""
    return x.view(*x.shape[:-1], -1, features).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """``(b, h, n, d)`` to ``(b, n, h·d)``."""
    return x.transpose(1, 2).flatten(2)
