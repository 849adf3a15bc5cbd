"""The attention of an instrumented model: it computes the same as eager attention, and calls the listeners.

transformers' ``AttentionInterface`` calls :func:`graph_attention`; families that do not use the interface
(:mod:`attngraph.reading.families`) call the function behind it, :func:`attend`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from attngraph.errors import UserError
from attngraph.reading.calls import BIASED, Call
from attngraph.reading.degree_cache import place_of
from attngraph.reading.heads import repeat_heads
from attngraph.reading.masks import Mask, Order
from attngraph.reading.softmax_test import SoftmaxTest
from attngraph.reading.state import LayerState, SelfAttention, find_state, is_causal, state_of
from attngraph.reading.watch import Attended, Fused, Watch
from attngraph.scores import HIDES_BELOW


class Projected(NamedTuple):
    """Inputs of attention: query ``(b, h, n, d)``, key and value ``(b, g, m, d)`` with ``g`` dividing
    ``h``."""

    query: Tensor
    key: Tensor
    value: Tensor


class Known(NamedTuple):
    """Facts about a call that a model or a family states in addition to its tensors.

    Attributes:
        is_causal: whether the queries of self-attention are ordered in time, if stated; see
            :class:`attngraph.reading.masks.Order`.
        query_mask: which queries are valid, bool ``(b, n)``, if the mask of self-attention does not show it.
        sides: modalities of queries and values; see :class:`attngraph.reading.calls.Call`.
        cross: whether it is cross-attention, if stated.
    """

    is_causal: bool | None = None
    query_mask: Tensor | None = None
    sides: tuple[str | Tensor | None, str | Tensor | None] = (None, None)
    cross: bool | None = None


NOTHING = Known()


def attend(
    module: nn.Module,
    projected: Projected,
    attention_mask: Tensor | None,
    eager: Callable[..., tuple[Tensor, Any]],
    dropout: float = 0.0,
    known: Known = NOTHING,
    fused: bool = False,
    **kwargs,
) -> Call:
    """Run an attention call and hand it to the module's listeners.

    Args:
        module: an instrumented attention module.
        projected: queries, keys and values.
        attention_mask: added to the scores, or bool (True = visible).
        eager: the model's eager attention, ``(module, query, key, value, attention_mask, dropout=, ...)`` to
            context ``(b, n, h, d)`` and weights.
        dropout: its probability while training.
        known: what else is known of the call.
        fused: the model has computed the call already, by PyTorch's fused attention.
        kwargs: what else the model passes; its eager attention gets it.

    Raises:
        UserError: the tensors have no numbers.
    """
    state = state_of(module)
    query, key, value = projected
    b, h, n, m = max(query.shape[0], key.shape[0]), query.shape[1], query.shape[2], key.shape[2]
    run = partial(eager, module, dropout=0.0, **kwargs)
    test = SoftmaxTest(run, h, key.shape[1], query.shape[-1], kwargs, query.device)
    _check_real(state, query)
    mask = state.model.mask(attention_mask, (b, h, n, m))
    triangular = fused and kwargs["is_causal"]
    if triangular:
        mask = mask._replace(order="causal")
    call = _call(
        module,
        Projected(query.expand(b, -1, -1, -1), repeat_heads(key, b, h), repeat_heads(value, b, h)),
        mask,
        known,
        key=key,
        dropout=dropout if module.training else 0.0,
        eager=partial(run, query, key, value, _additive(attention_mask, query.dtype, eager)),
        scale=kwargs.get("scaling"),
        is_softmax=partial(test.passed, state.softmax_tests) if mask.only_hides and not fused else None,
        only_hides=mask.only_hides,
        fused=fused,
        triangular=triangular,
        unrotated=state.projections.of(query),
    )
    for listener in tuple(state.listeners):
        listener(call)
    return call


def watch(module: nn.Module, given: dict[str, Any]) -> Watch:
    """Watch for one forward pass of an instrumented module whose attention is not known.

    Args:
        module: the module.
        given: its arguments by name.
    """
    masked = any(isinstance(x, Tensor) and "mask" in name for name, x in given.items())
    several = [x for x in given.values() if isinstance(x, Tensor) and x.is_floating_point() and x.dim() > 2]
    states = given.get("hidden_states", next(iter(several), None))
    shape = states.shape if isinstance(states, Tensor) and states.dim() > 2 else None
    return Watch(module, shape, partial(_attended, module, masked), partial(_fused, module))


def _attended(module: nn.Module, masked: bool, seen: Attended) -> Tensor:
    """Pass a call that was seen while the module ran to the module's listeners.

    Args:
        module: an instrumented attention module.
        masked: whether it received a mask.
        seen: the call.

    Returns:
        The context with which the module continues, ``(b, h, n, d)``.
    """
    state = state_of(module)
    _check_real(state, seen.query)
    b, _, n, m = seen.weight.shape
    known = _next_known(state, seen.again)
    shown = (seen.scores > HIDES_BELOW).any(1, keepdim=True)
    if known.query_mask is not None and not known.cross:
        shown = shown & known.query_mask[:, None, :, None]
    visible = shown if masked or not bool(shown.all()) else None
    query, key = (x.to(seen.value.dtype) for x in (seen.query, seen.key))  # GPT-Neo's are float32
    call = _call(
        module,
        Projected(query, key, seen.value),
        state.model.seen(visible, (b, 1, n, m)),
        known,
        key=key,
        dropout=seen.dropout,
        eager=partial(seen.compute, seen.query, seen.key, seen.value, None),
        scale=None,
        is_softmax=None,
        only_hides=False,
        fused=False,
        triangular=False,
        unrotated=state.projections.of(query),
    )
    vars(call).update(_eager=(seen.context.transpose(1, 2), seen.weight))
    call.context, call.dropped = seen.context, seen.dropped
    for listener in tuple(state.listeners):
        listener(call)
    return call.context


def _next_known(state: LayerState, again: bool) -> Known:
    """The note of an outer module about the next call of a watched module; :data:`NOTHING` without such a
    note.

    Raises:
        UserError: there is no note, the layer has listeners, and the call attends to the same keys as an
            earlier call with other queries.
    """
    turns = state.notes["turns"]
    if turns:
        return turns.pop(0)
    if again and state.listeners:
        raise UserError(
            f"{state.site.name} attends to the same keys several times in one pass, each time with other "
            "queries, as in chunked processing: each graph would hold only a part. Let it process all "
            "queries at once, or exclude it (layers=...; for adapters exclude_modules=...)"
        )
    return NOTHING


def _fused(module: nn.Module, seen: Fused) -> Tensor:
    """The same for a call of PyTorch's fused attention, which is computed by its formula if its weights may
    be needed."""
    state = state_of(module)
    known = _next_known(state, seen.again)
    fused = all(handle.fused for handle in state.changes.handles)
    n, m, mask = seen.query.shape[2], seen.key.shape[2], seen.mask
    if seen.is_causal and (n != m or not fused):
        mask = torch.ones(n, m, dtype=torch.bool, device=seen.query.device).tril()
    call = attend(
        module,
        Projected(seen.query, seen.key, seen.value),
        mask,
        _formula,
        dropout=seen.dropout,
        known=known,
        fused=fused,
        scaling=seen.scale,
        is_causal=seen.is_causal and mask is None,
    )
    return seen.compute() if fused else call.context


def _formula(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float = 1.0,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor]:
    r""":math:`\mathrm{softmax}(s Q K^\top + \mathrm{mask})` and its product with V, ``(b, n, h, d)``. As in
    PyTorch, a query all of whose keys are masked by :math:`-\infty` has weights of 0."""
    b, h = max(query.shape[0], key.shape[0]), query.shape[1]
    if is_causal:
        n = query.shape[2]
        attention_mask = torch.ones(n, n, dtype=torch.bool, device=query.device).tril()
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        hidden = torch.zeros_like(attention_mask, dtype=query.dtype)
        attention_mask = hidden.masked_fill_(~attention_mask, -math.inf)
    scores = query @ repeat_heads(key, b, h).transpose(-1, -2) * scaling
    if attention_mask is None:
        weight = scores.softmax(-1)
    else:
        scores = scores + attention_mask
        sees_nothing = (scores == -math.inf).all(-1, keepdim=True)
        weight = scores.masked_fill(sees_nothing, 0.0).softmax(-1).masked_fill(sees_nothing, 0.0)
    weight = nn.functional.dropout(weight, dropout, module.training)
    return (weight @ repeat_heads(value, b, h)).transpose(1, 2), weight


def _check_real(state: LayerState, query: Tensor) -> None:
    """Check that tensors hold data.

    Raises:
        UserError: they do not, as on the device ``meta``.
    """
    if query.is_meta or isinstance(query, FakeTensor):
        raise UserError(
            f"{state.site.name} runs on tensors without numbers (meta or fake ones), from which no graph can "
            "be read: load the model's weights, or disable the adapters to trace or count it"
        )


def _call(
    module: nn.Module, projected: Projected, mask: Mask, known: Known, key: Tensor, **fields: Any
) -> Call:
    """A call, completed from other calls of the model.

    Args:
        module: an instrumented attention module.
        projected: queries, keys and values of all heads.
        mask: what its mask says.
        known: further facts about it.
        key: its keys in the form in which a cache holds them.
        fields: further fields of :class:`attngraph.reading.calls.Call`.
    """
    state = state_of(module)
    given = state.given
    query, keys, value = projected
    b, _, n, _ = query.shape
    m = keys.shape[2]
    apart, source = False, given.source
    if given.origins is not None and not (n == m and mask.order in ("causal", "blocks")):
        apart, source = given.origins.compare(query, key, projected.value)
    cross = apart or _is_cross(state, module, n, m) if known.cross is None else known.cross
    if cross and given.cache is None:
        given.cache = state.notes.take("cache")
    layer_idx = getattr(module, "layer_idx", getattr(module, "layer_id", None))
    if given.cache is not None:
        layer_idx = place_of(given.cache, layer_idx, None if cross else key)
    if cross:
        before = _before_cross(state, module, b, n)
        if before is not None and before.layer_idx is not None:
            layer_idx = before.layer_idx
    else:
        told = state.notes["is_causal"] if known.is_causal is None else known.is_causal
        before = _self_attention(state, module, mask, told, n, layer_idx)
        given.unordered = before is None
        if before is not None:
            state.model.note(state.inner_model, b, n, before)
    before = SelfAttention() if before is None else before
    return Call(
        site=state.site,
        kind="cross" if cross else "self",
        causal=before.causal,
        span=before.span,
        query=query,
        key=keys,
        value=value,
        visible=mask.visible,
        query_mask=before.queries if known.query_mask is None else known.query_mask,
        source=source,
        cache=given.cache,
        layer_idx=layer_idx,
        sides=known.sides,
        every_query_sees=mask.every_query_sees,
        valid=before.valid and known.query_mask is None,
        stored=before.stored,
        output_attentions=given.output_attentions,
        **fields,
    )


def _is_cross(state: LayerState, module: nn.Module, n: int, m: int) -> bool:
    """Whether the values are other nodes than the queries. Where there are fewer than the module was given
    states, and as many queries, they are the queries' own, pooled (SegFormer)."""
    given = state.given
    if given.source is not None or "Cross" in type(module).__name__:
        return True
    return n != m and given.cache is None and given.states != n


def _before_cross(state: LayerState, module: nn.Module, b: int, n: int) -> SelfAttention | None:
    """Information from self-attention about the queries of cross-attention: from the mask that an outer
    module received for it (noted by a family), or from the previous call in this forward pass. None if there
    is neither.

    Raises:
        UserError: the layer has listeners, and there is neither in a model that may order its queries in
            time.
    """
    before, noted = state.model.before(state.inner_model, b, n), state.notes.take("self_attention")
    if noted is not None:
        mask, place = noted
        read = state.model.mask(mask, (b, 1, n, n if mask is None else mask.shape[-1]))
        stored = before is not None and before.layer_idx is not None
        layer_idx = before.layer_idx if before is not None and stored else place
        said = _self_attention(state, module, read, True, n, layer_idx)
        return None if said is None else said._replace(stored=stored)
    if before is None and state.listeners and _may_decode(state, module):
        raise UserError(
            f"{state.site.name} attends to other states before any self-attention over its {n} queries has "
            f"been read in {type(state.inner_model).__name__}, so their order and padding are unknown: "
            "exclude the layer (layers=...; for adapters exclude_modules=...)"
        )
    return before


def _may_decode(state: LayerState, module: nn.Module) -> bool:
    """Whether cross-attention's queries may be ordered in time where no self-attention over them was read."""
    kind, config = type(state.inner_model).__name__, getattr(state.inner_model, "config", None)
    decoder = "Decoder" in kind.replace("MaskDecoder", "")  # such a one (SAM's) decodes the masks of an image
    named = decoder or bool(getattr(config, "is_decoder", False))
    return (
        state.decodes
        or named
        or state.given.cache is not None
        or state.changes.has_unread_beside(module, state.inner_model)
    )


def _self_attention(
    state: LayerState, module: nn.Module, mask: Mask, told: bool | None, n: int, layer_idx: int | None
) -> SelfAttention | None:
    """Information that a self-attention call leaves for the cross-attention after it. None if listeners on
    the layer would raise an error.

    Raises:
        UserError: the layer has listeners, its mask orders the queries in a way that an attention graph
            cannot represent (such as windows that extend further in one direction), and the module does not
            declare them unordered.
    """
    word = is_causal(module)
    config = getattr(state.inner_model, "config", None)
    cached = state.given.cache is not None
    order = Order(
        call=told,
        module=word,
        masked=mask.visible is not None,
        mask=mask.order,
        queries=n,
        cached=cached,
        generates=state.changes.generates and getattr(config, "causal", True),
        decodes=word is None and state.decodes,
    )
    word = word if told is None else told
    if mask.order == "unclear" and (word is not False or cached):
        if not state.listeners:
            return None
        raise UserError(
            f"{state.site.name}: in its mask a query sees a later one that does not see it, so the queries "
            "are neither causal, nor in blocks, nor unordered: exclude the layer (layers=...; for adapters "
            "exclude_modules=...)"
        )
    causal = order.causal
    return SelfAttention(causal, mask.span if causal else None, mask.queries, mask.valid, layer_idx)


def _additive(mask: Tensor | None, dtype: torch.dtype, eager: Callable) -> Tensor | None:
    """A bool mask in the additive form of eager attention: hidden edges have the minimum of the dtype, so
    that a softmax has weights even for queries that see nothing."""
    if mask is None or mask.dtype != torch.bool or eager is _formula:
        return mask
    return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)


def eager_of(module: nn.Module) -> Callable[..., tuple[Tensor, Any]]:
    """The eager attention function of the file that defines the module's class.

    Raises:
        UserError: there is none.
    """
    for kind in type(module).__mro__:
        names = vars(sys.modules.get(kind.__module__, object))
        other = (names[name] for name in names if name.endswith("eager_attention_forward"))
        eager = names.get("eager_attention_forward") or next(other, None)
        if eager is not None:
            return eager
    raise UserError(
        f"{type(module).__name__}: the file that defines it has no eager_attention_forward, so that its "
        "attention cannot be read: pass one, or exclude the layer"
    )


def graph_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    is_causal: bool | None = None,
    modalities: tuple[str | Tensor | None, str | Tensor | None] = (None, None),
    **kwargs,
) -> tuple[Tensor, Tensor | None]:
    """Called by transformers' ``AttentionInterface`` in an instrumented model: eager attention with
    listeners.

    A custom model may declare the modalities of queries and values: its attention passes ``modalities``,
    which other attention functions ignore.

    Returns:
        context ``(b, n, h, d)`` and weights after dropout, as eager attention returns them.
    """
    eager = eager_of(module)
    if find_state(module) is None:  # of another model of the same configuration
        if is_causal is not None:
            kwargs["is_causal"] = is_causal
        return eager(module, query, key, value, attention_mask, **kwargs)
    projected, known = Projected(query, key, value), Known(is_causal, sides=modalities)
    call = attend(module, projected, attention_mask, eager, known=known, **kwargs)
    return call.context.transpose(1, 2).contiguous(), call.recorded()


def fused_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    is_causal: bool | None = None,
    modalities: tuple[str | Tensor | None, str | Tensor | None] = (None, None),
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs,
) -> tuple[Tensor, None]:
    """The same in a model that runs SDPA: what transformers' SDPA returns, and listeners that can compute
    the weights, or sums over them, themselves.

    Raises:
        UserError: the layer has listeners, and adds position biases to its scores.
    """
    given = (query, key, value, attention_mask)
    output = sdpa_attention_forward(
        module, *given, dropout=dropout, scaling=scaling, is_causal=is_causal, **kwargs
    )
    state = find_state(module)
    if state is not None:
        if kwargs.get("position_bias") is not None and state.listeners:
            raise UserError(f"{state.site.name} {BIASED}")
        n, said = query.shape[2], getattr(module, "is_causal", True) if is_causal is None else is_causal
        triangular = n > 1 and attention_mask is None and bool(said)
        if triangular and key.shape[2] > n:  # places without tokens, of a cache of fixed length
            key, value = key[:, :, :n], value[:, :, :n]
        attend(
            module,
            Projected(query, key, value),
            attention_mask,
            _formula,
            dropout=dropout,
            known=Known(is_causal, sides=modalities),
            fused=True,
            scaling=1 / math.sqrt(query.shape[-1]) if scaling is None else scaling,
            is_causal=triangular,
        )
    return output
