"""BLIP's text and vision attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from transformers.cache_utils import EncoderDecoderCache
from transformers.models.blip.modeling_blip import BlipAttention
from transformers.models.blip.modeling_blip_text import BlipTextModel, BlipTextSelfAttention

from attngraph.errors import UserError
from attngraph.reading.attend import Known, Projected, attend
from attngraph.reading.heads import merge_heads, split_heads
from attngraph.reading.state import state_of


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
) -> tuple[Tensor, Tensor]:
    r""":math:`\mathrm{softmax}(Q K^\top/\sqrt d + \mathrm{mask})` and its product with V, ``(b, n, h, d)``,
    in BLIP's own order of operations: dividing by the root and multiplying with its inverse differ in the
    last bit."""
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    if attention_mask is not None:
        scores = scores + attention_mask
    weight = nn.functional.dropout(scores.softmax(-1), dropout, module.training)
    return (weight @ value).transpose(1, 2), weight


HARMLESS = """
    cache_position cu_seq_lens_k cu_seq_lens_q is_causal max_length_k max_length_q num_items_in_batch
    output_attentions output_hidden_states output_router_logits position_ids return_dict seq_idx use_cache
""".split()
"""Arguments that models hand down to attention modules whose eager attention ignores them."""


def _check_known(module: nn.Module, others: dict[str, Any]) -> None:
    """Check that a family's forward pass does not ignore an argument of its module.

    Args:
        module: an instrumented attention module.
        others: the arguments that the forward pass does not use.

    Raises:
        UserError: one that is not :data:`HARMLESS`.
    """
    unknown = [name for name, value in others.items() if value is not None and name not in HARMLESS]
    if unknown:
        raise UserError(
            f"{state_of(module).site.name} is given {', '.join(unknown)}, which attngraph does not know and "
            "would ignore: update attngraph, or use an earlier version of transformers"
        )


class GraphBlipTextSelfAttention(BlipTextSelfAttention):
    """Self- and cross-attention of the text model. transformers hands cross-attention's mask over as
    ``attention_mask``, where its own forward (5.24) does not look: padding on the other side is attended to.
    Here it is not."""

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        cache=None,
        past_key_values=None,
        **others,
    ) -> tuple:
        _check_known(self, others)
        cache = past_key_values if cache is None else cache  # the argument's name changed between releases
        cross, features = encoder_hidden_states is not None, self.attention_head_size
        if cross and encoder_attention_mask is not None:
            attention_mask = encoder_attention_mask
        states = encoder_hidden_states if cross else hidden_states
        query = split_heads(self.query(hidden_states), features)

        def project() -> tuple[Tensor, Tensor]:
            return split_heads(self.key(states), features), split_heads(self.value(states), features)

        key, value = _with_cache(self, cache, cross, project)
        known = Known(is_causal=state_of(self).notes["causal"])
        projected = Projected(query, key, value)
        call = attend(self, projected, attention_mask, _attention, self.dropout.p, known)
        return merge_heads(call.context), call.recorded("weight")


def _with_cache(
    module: Any, cache: Any, cross: bool, project: Callable[[], tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """Keys and values ``(b, g, m, d)``, those in the cache included.

    Args:
        module: has the layer's place in the cache as ``layer_idx``.
        cache: the model's, or None.
        cross: cross-attention, whose keys and values stay the same while a text is written: they are
            projected once.
        project: gives the keys and values of the states that this call has.
    """
    both = isinstance(cache, EncoderDecoderCache)
    store = (cache.cross_attention_cache if cross else cache.self_attention_cache) if both else cache
    if cross and both and cache.is_updated.get(module.layer_idx):
        layer = store.layers[module.layer_idx]
        return layer.keys, layer.values
    key, value = project()
    if store is not None:
        key, value = store.update(key, value, module.layer_idx)
        if cross and both:
            cache.is_updated[module.layer_idx] = True
    return key, value


def _scaled_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: None, dropout: float = 0.0
) -> tuple[Tensor, Tensor]:
    weight = (query @ key.transpose(-1, -2) * module.scale).softmax(-1)
    weight = nn.functional.dropout(weight, dropout, module.training)
    return (weight @ value).transpose(1, 2), weight


class GraphBlipAttention(BlipAttention):
    """Self-attention of the vision model."""

    def forward(self, hidden_states: Tensor, **others) -> tuple:
        _check_known(self, others)
        b, n, width = hidden_states.shape
        projected = self.qkv(hidden_states).reshape(b, n, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        call = attend(self, Projected(*projected), None, _scaled_attention, self.dropout.p)
        return self.projection(call.context.transpose(1, 2).reshape(b, n, width)), call.recorded()


def _note_is_decoder(model: BlipTextModel, args: tuple, kwargs: dict) -> None:
    """BLIP's text model is a decoder by an argument of the call, regardless of its configuration."""
    layers: Any = model.encoder.layer
    for layer in layers:
        state_of(layer.attention.self).notes["causal"] = bool(kwargs.get("is_decoder", False))


CLASSES = {BlipTextSelfAttention: GraphBlipTextSelfAttention, BlipAttention: GraphBlipAttention}
HOOKS = {BlipTextModel: _note_is_decoder}
