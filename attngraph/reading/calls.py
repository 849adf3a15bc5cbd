"""One attention layer of a model, and one of its calls: its tensors, and its graph.

The weights come from the model's own eager function, called without dropout, so they include everything that
this function computes (grouped heads, position bias, soft caps, sinks); dropout follows with the random
numbers that the model would use.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from attngraph.errors import UserError
from attngraph.graph import AttentionGraph
from attngraph.reading.degree_cache import NO_PLACE, DegreeCache, check_grows, degree_cache_of
from attngraph.reading.heads import repeat_heads
from attngraph.reading.outputs import Metric, widths, with_wrappers
from attngraph.reading.pictures import first_of_picture
from attngraph.scores import AttentionScores
from attngraph.streaming import Streamed, scores_of

_active_collector: Any
try:  # where transformers (5.24) notes what a model was asked to return
    from transformers.utils.output_capturing import _active_collector
except ImportError:
    _active_collector = None

BIASED = (
    "adds numbers to its scores (position biases), which are not known where a fused attention is streamed: "
    'set the model to eager attention (model.set_attn_implementation("eager")), read it without stream, or '
    "exclude the layer (layers=...)"
)
NO_GRADIENT = (
    "returned attentions carry no gradient where graph adapters compute a layer's output from its scores (in "
    "training, and with backend='tiled' always): for a loss on attentions use backend='sparse'"
)

Graph = TypeVar("Graph", AttentionGraph, AttentionScores)


@dataclass(eq=False)
class Site:
    """One attention layer of a model.

    Attributes:
        name: the attention module's path in the model.
        module: the attention module.
        output: :math:`W_o`, an ``nn.Linear``, transformers' ``Conv1D`` or a quantised layer, without the
            wrappers of PEFT; None where none was found.
        output_name: its path in the model.
        holder: the module that holds it, wrapped or not, under the last part of this name.
        listeners: called with each :class:`Call` of the module.
    """

    name: str
    module: nn.Module
    output: nn.Module | None
    output_name: str | None
    holder: nn.Module | None
    listeners: list[Callable[[Call], None]]

    def __post_init__(self):
        self._metric = None if self.output is None else Metric(self.output)
        self._adapted = self._metric

    def adapted_output(self) -> nn.Module | None:
        """The output projection as PEFT's other methods (LoRA) change it; with graph adapters, whose graph
        has the frozen :math:`W_o`, the frozen one."""
        if self.holder is None or self.output_name is None:
            return self.output
        return with_wrappers(getattr(self.holder, self.output_name.rpartition(".")[2]))

    def adapted_metric(self, query: Tensor) -> Tensor | None:
        """:meth:`metric` of :meth:`adapted_output`."""
        output = self.adapted_output()
        if output is self.output:
            return self.metric(query)
        assert output is not None  # as there is one without wrappers
        if self._adapted is None or self._adapted.output is not output:
            self._adapted = Metric(output)
        return self._of(self._adapted, query)

    def metric(self, query: Tensor) -> Tensor | None:
        """``(h, d, d)`` for queries ``(b, h, n, d)``; see :class:`attngraph.reading.outputs.Metric`. None
        without an output projection of that width.

        Raises:
            UserError: there is one, and its weight can't be read.
        """
        return self._of(self._metric, query)

    def _of(self, metric: Metric | None, query: Tensor) -> Tensor | None:
        heads, features = query.shape[1::2]
        if metric is None or widths(metric.output)[0] != heads * features:
            return None
        try:
            return metric(heads, query)
        except UserError as error:
            raise UserError(f"{self.name}: {error}") from error


@dataclass(eq=False)
class Call:
    """Inputs and results of one attention call.

    Weights and context are computed when they are read for the first time.

    Attributes:
        site: the attention layer.
        kind: ``"self"`` or ``"cross"``.
        causal: whether the queries are ordered in time. A cross-attention follows the self-attention before
            it.
        span: which queries count in the degrees that each query sees; see :class:`attngraph.AttentionGraph`.
        query: ``(b, h, n, d)``, in the form compared with the keys, after rotary embedding.
        key: ``(b, h, m, d)``, with grouped heads repeated.
        value: ``(b, h, m, d)``, with grouped heads repeated.
        visible: which values each query sees, bool ``(b, n, m)``, or None when nothing is masked.
        query_mask: bool ``(b, n)``, which queries are valid; see :class:`attngraph.reading.masks.Mask`.
        source: the states that cross-attention attends to, if the module received them.
        cache: the model's key/value cache.
        layer_idx: the layer's place in the cache; for cross-attention, whose own place may hold the other
            side (Mllama's), that of the self-attention before it, or of the first one if there is none.
        stored: whether the keys and values of the queries are in the cache there by now.
        dropout: its probability; 0 in evaluation.
        sides: modalities of queries and values, if a family states them (see
            :class:`attngraph.AttentionGraph`).
        every_query_sees: whether every query, including padded ones, sees a value.
        valid: whether every query is known to be valid.
        output_attentions: whether the module was asked for its weights.
        eager: the model's eager attention of this call, without dropout: to context ``(b, n, h, d)`` and
            weights. Its last arguments are query, key, value and additive mask.
        scale: the factor of the scores if the model passed it, else None.
        is_softmax: function that returns whether the weights are a softmax of scaled and masked scores; None
            if the mask does more than that.
        only_hides: whether the mask hides edges and adds nothing to the others' scores.
        fused: the model has computed the call by PyTorch's fused attention: it does not wait for
            :attr:`context`.
        triangular: query i sees values up to i only, without a mask.
        unrotated: finds the queries before rotary embedding; see
            :func:`attngraph.reading.projection.unrotated`.
        no_graph: why the call is not an attention graph; see :meth:`replace_eager`.
        held: whether a listener needs the weights; see :meth:`hold_weights`.
    """

    site: Site
    kind: str
    causal: bool
    span: Tensor | None
    query: Tensor
    key: Tensor
    value: Tensor
    visible: Tensor | None
    query_mask: Tensor | None
    source: Tensor | None
    cache: Any
    layer_idx: int | None
    stored: bool
    dropout: float
    sides: tuple[str | Tensor | None, str | Tensor | None]
    every_query_sees: bool
    valid: bool
    output_attentions: bool
    eager: partial[tuple[Tensor, Tensor]]
    scale: float | None
    is_softmax: Callable[[], bool] | None
    only_hides: bool
    fused: bool
    triangular: bool
    unrotated: Callable[[], tuple[Tensor | None, bool]]
    no_graph: str | None = None
    held: bool = False

    def hold_weights(self) -> None:
        """Compute everything from the attention weights, so that it depends on :attr:`weight`: :meth:`scores`
        returns None. A listener that calls it must come before those that ask for scores."""
        self.held = True

    def replace_eager(self, eager: partial[tuple[Tensor, Tensor]], no_graph: str) -> None:
        """Replace the layer's attention, for instance by one with additional keys and values. The call is
        then not an attention graph: :meth:`graph` raises an error, and :meth:`scores` returns None. A
        listener that calls it must come before those that read weights, and must do so in every call, since
        the added keys and values are not cached.

        Args:
            eager: replaces :attr:`eager`; :attr:`key` and :attr:`value` become its keys and values.
            no_graph: the reason why there is no graph, and the remedy, for the error message.
        """
        for name in ("_eager", "kept", "dropped", "context"):
            self.__dict__.pop(name, None)
        self.eager, self.no_graph = eager, no_graph
        b, h = self.query.shape[:2]
        self.key, self.value = (repeat_heads(x, b, h) for x in eager.args[-3:-1])

    @cached_property
    def _feature(self) -> tuple[Tensor, bool]:
        feature, rotated = self.unrotated()
        return self.query if feature is None else feature.expand_as(self.query), rotated

    @property
    def feature(self) -> Tensor:
        """The query nodes' features, ``(b, h, n, d)``: the projected queries before rotary embedding. The
        same tensor as :attr:`query` where there is none, or where it could not be undone
        (:attr:`rotated`)."""
        return self._feature[0]

    @property
    def rotated(self) -> bool:
        """Whether :attr:`feature` includes rotary positions: the module rotates, and no output of its query
        projection or query norm matches the queries."""
        return self._feature[1]

    @cached_property
    def _eager(self) -> tuple[Tensor, Tensor]:
        return self.eager()

    @property
    def weight(self) -> Tensor:
        """Attention weights before dropout, ``(b, h, n, m)``."""
        return self._eager[1]

    @cached_property
    def kept(self) -> Tensor | None:
        """Which weights dropout keeps, bool ``(b, h, n, m)``, with the model's random numbers; None without
        dropout."""
        if not self.dropout:
            return None
        ones = self.query.new_ones((*self.query.shape[:3], self.key.shape[2]))
        return nn.functional.dropout(ones, p=self.dropout, training=True) > 0

    @cached_property
    def dropped(self) -> Tensor:
        """Attention weights after dropout; the same tensor as :attr:`weight` where there is none."""
        return self._after_dropout(self.weight)

    def _after_dropout(self, weight: Tensor) -> Tensor:
        """Dropout as PyTorch computes it on a CPU, so that the model's numbers there are bitwise
        unchanged."""
        if self.kept is None:
            return weight
        return weight * self.kept.to(weight.dtype).div_(1 - self.dropout or 1.0)  # 1: nothing is kept

    @cached_property
    def context(self) -> Tensor:
        """``dropped @ value``, ``(b, h, n, d)``, with which the model continues. A listener may set it."""
        return self.dropped @ self.value if self.dropout else self._eager[0].transpose(1, 2)

    def without_padded(self, x: Tensor) -> Tensor:
        """``x``, ``(b, h, n, .)``, with 0 in the rows of padded queries and of those that see nothing."""
        rows = None if self.valid else self.query_mask
        if self.visible is not None and not self.every_query_sees:
            sees = self.visible.any(-1)
            rows = sees if rows is None else rows & sees
        return x if rows is None else x.masked_fill(~rows[:, None, :, None], 0)

    def recorded(self, weight: str = "dropped") -> Tensor | None:
        """The weights that the model returns: None if nothing has needed them so far and the model was not
        asked for attentions. Those that nothing else needed carry no gradient.

        Args:
            weight: ``"dropped"`` or ``"weight"``.
        """
        if "_eager" in self.__dict__:
            return getattr(self, weight)
        if self.output_attentions or attentions_wanted():
            asked = self.output_attentions or _active_collector is not None  # else it is unknown
            if asked and torch.is_grad_enabled() and self.query.requires_grad:
                warnings.warn(NO_GRADIENT, stacklevel=2)
            # Without a gradient, so that checkpointing, which runs a layer again, finds the same computation.
            with torch.no_grad():
                given = self.eager()[1]
                return self._after_dropout(given) if weight == "dropped" else given
        return None

    @property
    def leaves_degrees(self) -> bool:
        """Whether decoding may continue after this call with the degrees that its queries leave: in a causal
        layer with a key/value cache, without gradients."""
        return self.causal and self.cache is not None and not torch.is_grad_enabled()

    def scores(
        self, metric: Tensor | None = None, dropped: bool = False, remembered: bool = False
    ) -> AttentionScores | None:
        """The call before its weights are computed, or None where only they give the graph.

        That is so where queries are ordered in blocks, in a causal layer with a key/value cache that was not
        empty (which keeps degrees of earlier queries) where gradients are wanted, or if the model's eager
        attention is more than a softmax of scaled and masked scores, which is tried out.

        Args:
            metric: see :meth:`Site.metric`.
            dropped: let the scores' graph have the weights after dropout. Without it, a call under dropout
                has no scores.
            remembered: where the call :attr:`leaves_degrees`, they are handed to :meth:`remember`, and so
                know the weights, which the model computes anyway. Without it, such a call has no scores.

        Raises:
            UserError: the cache of a causal layer is of fixed length.
        """
        if (
            self.is_softmax is None
            or self.held
            or self.span is not None
            or self.no_graph
            or (self.dropout and not (dropped and self.dropout < 1))
            or self.query.shape[-1] != self.value.shape[-1]
        ):
            return None
        known = None
        if self.leaves_degrees:
            if not remembered:
                return None
        elif self.causal and self.cache is not None:
            if self.tokens != self.query.shape[2]:
                return None
            if self.layer_idx is not None:
                check_grows(self.cache, self.layer_idx)
        if not self.is_softmax():
            return None
        if self.leaves_degrees:
            known = self.dropped
            if self.visible is not None and not self.every_query_sees:
                known = known.masked_fill(~self.visible[:, None], 0)
        return self._scores(
            metric=metric,
            feature=None if self.feature is self.query else self.feature,
            kept=self.kept,
            dropout=self.dropout,
            picture=self._picture(),
            known_weight=known,
        )

    def _scores(self, **fields: Any) -> AttentionScores:
        """Scores of the call with further fields."""
        return AttentionScores(
            self.query,
            self.key,
            self.value,
            1 / math.sqrt(self.query.shape[-1]) if self.scale is None else self.scale,
            mask=None if self.visible is None else self.visible[:, None],
            query_mask=None if self.valid else self.query_mask,
            triangular=self.triangular,
            causal=self.causal,
            **fields,
        )

    def _picture(self) -> Tensor | None:
        """See :class:`attngraph.AttentionScores`. Shared states are verified on the first feature of keys and
        values, since modules around their projections (dropout, an adapter for some examples) may treat
        examples differently."""
        picture = None if self.source is None else first_of_picture(self.source)
        if picture is None or len(picture) != len(self.value):
            return None
        features = torch.stack([self.key[..., 0], self.value[..., 0]])
        return picture if torch.equal(features[:, picture], features) else None

    def streamed(
        self, heads: list[int] | None, top_k: int | None, metric: Tensor | None = None, **fields: Any
    ) -> AttentionGraph:
        """The call as a graph whose weights are never all in memory (:class:`attngraph.streaming.Streamed`),
        unless the model computes them itself, from more than scores and a mask; without degrees of earlier
        queries in a cache.

        Args:
            heads: which heads; None for all.
            top_k: number of edges of each query to keep.
            metric: see :meth:`Site.metric`.
            fields: further fields of :class:`attngraph.AttentionGraph`.

        Raises:
            UserError: as for :meth:`graph`; or a fused attention whose mask adds numbers to the scores.
        """
        self.check_graph()
        chosen = slice(None) if heads is None else heads
        if self.fused and not self.only_hides:
            raise UserError(f"{self.site.name} {BIASED}")
        if not (self.fused or (self.only_hides and self.is_softmax is not None and self.is_softmax())):
            return self.graph(metric=metric, **fields)[:, chosen].detach()
        weight: Any = Streamed.of(scores_of(self._scores(), slice(None), chosen), top_k)
        graph = AttentionGraph(
            self.feature[:, chosen],
            self.value[:, chosen],
            weight,
            query_mask=self.query_mask,
            value_mask=self.visible,
            causal=self.causal,
            span=self.span,
            metric=None if metric is None else metric[chosen],
            kind=self.kind,
            rotated=self.rotated,
            **fields,
        )
        return graph.detach()

    def graph(self, dropped: bool = False, metric: Tensor | None = None, **fields: Any) -> AttentionGraph:
        """The call as a graph, without degrees of earlier queries in a cache (see :meth:`remember`).

        Args:
            dropped: take the weights after dropout.
            metric: see :meth:`Site.metric`.
            fields: further fields of :class:`attngraph.AttentionGraph`.

        Raises:
            UserError: it is not a graph; see :meth:`check_graph`.
        """
        self.check_graph()
        return AttentionGraph(
            self.feature,
            self.value,
            self.dropped if dropped else self.weight,
            query_mask=self.query_mask,
            value_mask=self.visible,
            causal=self.causal,
            span=self.span,
            metric=metric,
            kind=self.kind,
            rotated=self.rotated,
            **fields,
        )

    def check_graph(self) -> None:
        """Make sure that the call is a graph.

        Raises:
            UserError: query and value features of different widths, or replaced attention
                (:meth:`replace_eager`).
        """
        if self.no_graph:
            raise UserError(f"{self.site.name}: {self.no_graph}")
        if self.query.shape[-1] != self.value.shape[-1]:
            raise UserError(
                f"{self.site.name}: queries have {self.query.shape[-1]} features per head and values "
                f"{self.value.shape[-1]}; a graph needs both in one space: exclude the layer "
                "(layers=...; for adapters exclude_modules=...)"
            )

    def remember(self, graph: Graph, owner: str) -> Graph:
        """The graph, or the scores, with the degrees that earlier queries left in the key/value cache, to
        which its own are then added, and with the norms of its values that are kept there.

        Args:
            graph: this call's graph, in the form (sparse, some heads) that it has in every step, or its
                scores.
            owner: name of the owner of the degrees; each owner has separate ones.

        Raises:
            UserError: degrees of earlier queries were not kept.
        """
        if not graph.causal or self.cache is None:
            return graph
        if self.layer_idx is None:
            if self.cache.get_seq_length() > self.query.shape[2]:
                raise UserError(f"{self.site.name}: {NO_PLACE}")
            return graph
        degrees, start = self._degrees(owner, self.layer_idx)
        norms = None
        if not torch.is_grad_enabled():  # kept norms have no gradient
            norms = degrees.norms_of(graph.value, start, graph.metric)
        graph = graph.following(degrees.past(graph.shape[3], start or 0), norms)
        degrees.append(graph, start or 0)
        return graph

    def decoding_step(self, owner: str) -> tuple[DegreeCache, int | None] | None:
        """Where the degrees of earlier queries are kept, and how many values have left a sliding window (None
        for cross-attention), if the call is a step of decoding: a single valid query, whose weights are those
        of a softmax and whose degrees :meth:`remember` would keep. None if it is not.

        Raises:
            UserError: degrees of earlier queries were not kept.
        """
        if (
            self.query.shape[2] != 1
            or not (self.leaves_degrees and self.valid and self.every_query_sees)
            or self.layer_idx is None
            or self.is_softmax is None
            or self.held
            or self.span is not None
            or self.no_graph
            or self.dropout
            or self.query.shape[-1] != self.value.shape[-1]
            or not self.is_softmax()
        ):
            return None
        return self._degrees(owner, self.layer_idx)

    def _degrees(self, owner: str, layer: int) -> tuple[DegreeCache, int | None]:
        """The cache of degrees, and how many values have left a sliding window; see :meth:`decoding_step`."""
        name = f"{owner} {self.kind} {self.site.name}"
        degrees = degree_cache_of(self.cache, layer, name, self.query.shape[2] if self.stored else 0)
        return degrees, self.tokens - self.value.shape[2] if self.kind == "self" else None

    @property
    def tokens(self) -> int:
        """Number of tokens that self-attention has seen, including the present ones and those whose values a
        cache has dropped again."""
        if self.cache is None or self.layer_idx is None:
            return self.value.shape[2]
        return int(self.cache.get_seq_length(self.layer_idx)) + (0 if self.stored else self.query.shape[2])


def attentions_wanted() -> bool:
    """Whether the model that runs was asked for attentions (``output_attentions``), or that is unknown."""
    if _active_collector is None:
        return True
    collected = _active_collector.get()
    return collected is not None and any("attentions" in name for name in collected)
