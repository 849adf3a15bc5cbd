r"""mPLUG (Li et al., 2022, arXiv:2205.12005): an image encoder, a text encoder, their fusion, a text decoder.

Questions: image and question are fused, and the answer attends to the states of both. Captions: the decoder
attends to the image's features directly.

With image features :math:`V` and text states :math:`T`, a fusion layer of the first kind computes (each step
with its residual and layer norm)

.. math:: T \leftarrow \mathrm{FFN}(\mathrm{cross}(\mathrm{self}(T),\, V)),

without changing the image features. Every ``stride`` layers there is one of the second kind,

.. math:: [V'; T'] = \mathrm{FFN}(\mathrm{self}([V; T])), \qquad V \leftarrow V + V', \quad T \leftarrow T',

one self-attention over both in one sequence.
Source: ``FusionLayer`` and ``FusionEncoder`` in models/modeling_mplug.py of github.com/X-PLUG/mPLUG, which
defines more layers and parts of layers than it executes; only those executed are implemented here.

Axes: b examples, N image nodes, n words of the question, m of the answer, D width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    BertConfig,
    BertLMHeadModel,
    BertModel,
    Cache,
    CLIPVisionConfig,
    DynamicCache,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.cache_utils import EncoderDecoderCache
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutputWithCrossAttentions
from transformers.models.bert.modeling_bert import (
    BertAttention,
    BertIntermediate,
    BertOutput,
    BertPreTrainedModel,
)
from transformers.models.clip.modeling_clip import CLIPEncoder, CLIPPreTrainedModel, CLIPVisionEmbeddings
from transformers.utils import ModelOutput

from attngraph.experiments.models.blip import grid_positions, mini_text

DROPOUT = 0.1
STRIDES = {"base": 3, "large": 6}
_EMBEDDINGS = "text_decoder.bert.embeddings.word_embeddings.weight"
_HEAD = "text_decoder.cls.predictions"


class MPlugConfig(PretrainedConfig):
    """The configuration of :class:`attngraph.experiments.models.mplug.MPlugForConditionalGeneration`: CLIP's
    of the image encoder; BERT's of text encoder, fusion (transformers has another use for the name
    ``fusion_config``) and decoder, which are of one width.

    Args:
        stride: interval of fusion layers, except the first, in which image and text attend to each other in
            one sequence.
    """

    model_type = "mplug"
    sub_configs = {
        "vision_config": CLIPVisionConfig,
        "text_config": BertConfig,
        "fuser_config": BertConfig,
        "decoder_config": BertConfig,
    }

    def __init__(
        self,
        vision_config: dict[str, Any] | CLIPVisionConfig | None = None,
        text_config: dict[str, Any] | BertConfig | None = None,
        fuser_config: dict[str, Any] | BertConfig | None = None,
        decoder_config: dict[str, Any] | BertConfig | None = None,
        stride: int = STRIDES["base"],
        **kwargs: Any,
    ):
        self.vision_config = _config(CLIPVisionConfig, vision_config)
        self.text_config = _config(BertConfig, text_config)
        self.fuser_config = _config(BertConfig, fuser_config)
        self.decoder_config = _config(BertConfig, decoder_config)
        self.decoder_config.is_decoder = self.decoder_config.add_cross_attention = True
        self.stride = stride
        kwargs.setdefault("tie_word_embeddings", True)
        super().__init__(**kwargs)

    def joins(self, layer: int) -> bool:
        """Whether this fusion layer is one self-attention over image and text; otherwise the text attends to
        itself and then to the image."""
        return layer > 0 and layer % self.stride == 0


def _config(kind: type[PretrainedConfig], given: dict[str, Any] | PretrainedConfig | None) -> Any:
    return given if isinstance(given, PretrainedConfig) else kind(**(given or {}))


def sizes(
    vision: dict[str, Any], text: dict[str, Any], layers: tuple[int, int, int], stride: int
) -> MPlugConfig:
    """A configuration of mPLUG: sizes of the image encoder, common sizes of text encoder, fusion and decoder,
    and numbers of layers of these three.
    """
    seen = dict(hidden_act="quick_gelu", layer_norm_eps=1e-5, attention_dropout=DROPOUT) | vision
    dropout = dict(hidden_dropout_prob=DROPOUT, attention_probs_dropout_prob=DROPOUT)
    shared = dropout | dict(layer_norm_eps=1e-12, hidden_act="gelu") | text
    parts = [shared | dict(num_hidden_layers=count) for count in layers]
    return MPlugConfig(seen, *parts, stride=stride)


AutoConfig.register(MPlugConfig.model_type, MPlugConfig, exist_ok=True)


class MPlugVisionModel(CLIPPreTrainedModel):
    """CLIP's image encoder, whose last layer norm is applied to all states and not only to the class token's:
    pixels to features ``(b, 1 + patches, width)``, the class token's first. If the texts have another width,
    features are projected by a linear layer and a norm.
    """

    config_class = CLIPVisionConfig
    main_input_name = "pixel_values"

    def __init__(self, config: CLIPVisionConfig, width: int | None = None, dropout: float = 0.0):
        super().__init__(config)
        own = config.hidden_size
        self.embeddings = CLIPVisionEmbeddings(config)
        self.pre_layernorm = nn.LayerNorm(own, eps=config.layer_norm_eps)
        self.encoder = CLIPEncoder(config)
        self.post_layernorm = nn.LayerNorm(own, eps=config.layer_norm_eps)
        self.projection = None if width in (None, own) else Projection(own, width, dropout)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.patch_embedding

    def forward(self, pixel_values: Tensor, **kwargs) -> BaseModelOutput:
        """Features of pixels ``(b, 3, side, side)``."""
        states = self.pre_layernorm(self.embeddings(pixel_values))
        states = self.post_layernorm(self.encoder(inputs_embeds=states, **kwargs).last_hidden_state)
        return BaseModelOutput(
            last_hidden_state=states if self.projection is None else self.projection(states)
        )


class Projection(nn.Module):
    """Projection of image features to the width of the texts."""

    def __init__(self, inputs: int, outputs: int, dropout: float):
        super().__init__()
        self.dense = nn.Linear(inputs, outputs)
        self.norm = nn.LayerNorm(outputs, eps=1e-12)
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor) -> Tensor:
        """``(b, n, inputs)`` to ``(b, n, outputs)``."""
        return self.dropout(self.norm(self.dense(states)))


@dataclass
class Fused(ModelOutput):
    """The states that the decoder attends to.

    Args:
        last_hidden_state: ``(b, N + n, D)``, the image's states and then the text's.
        attention_mask: ``(b, N + n)``, 0 at padding.
        image_nodes: bool ``(b, N + n)``, whether they are the image's.
    """

    last_hidden_state: Tensor | None = None
    attention_mask: Tensor | None = None
    image_nodes: Tensor | None = None


class FusionLayer(GradientCheckpointingLayer):
    """A layer in which the text attends to itself and then to the image."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.attention = BertAttention(config)
        self.crossattention = BertAttention(config, is_cross_attention=True)
        self.intermediate = BertIntermediate(config)
        self.output = BertOutput(config)

    def forward(self, text: Tensor, image: Tensor, mask: Tensor | None) -> Tensor:
        """Text states ``(b, n, D)`` after attention to image states ``(b, N, D)``; ``mask`` is transformers'
        extended mask of the text's padding."""
        states, _ = self.attention(text, mask, modalities=("text", "text"))
        states, _ = self.crossattention(states, encoder_hidden_states=image, modalities=("text", "image"))
        return self.output(self.intermediate(states), states)


class JoinedLayer(GradientCheckpointingLayer):
    """A layer in which image and text attend to each other in one sequence."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.attention = BertAttention(config)
        self.intermediate = BertIntermediate(config)
        self.output = BertOutput(config)

    def forward(self, states: Tensor, mask: Tensor | None, image_nodes: Tensor) -> Tensor:
        """States ``(b, N + n, D)`` to the same; ``mask`` as in :class:`FusionLayer`."""
        states, _ = self.attention(states, mask, modalities=(image_nodes, image_nodes))
        return self.output(self.intermediate(states), states)


class MPlugFusionModel(BertPreTrainedModel):
    """All layers of the fusion."""

    config_class = BertConfig

    def __init__(self, config: MPlugConfig):
        own = cast(BertConfig, config.fuser_config)
        super().__init__(own)
        kinds = [
            JoinedLayer if config.joins(layer) else FusionLayer for layer in range(own.num_hidden_layers)
        ]
        self.layer = nn.ModuleList([kind(own) for kind in kinds])
        self.gradient_checkpointing = False
        self.post_init()

    def forward(self, text: Tensor, image: Tensor, text_mask: Tensor) -> Fused:
        """Text ``(b, n, D)`` and image ``(b, N, D)`` after fusion; ``text_mask`` is 0 at padding."""
        count = image.shape[1]
        whole_mask = torch.cat([text_mask.new_ones(image.shape[:2]), text_mask], 1)
        nodes = (torch.arange(whole_mask.shape[1], device=image.device) < count).expand_as(whole_mask)
        mask = create_bidirectional_mask(self.config, text, text_mask)
        for layer in self.layer:
            if isinstance(layer, JoinedLayer):
                both = torch.cat([image, text], 1)
                both = layer(both, create_bidirectional_mask(self.config, both, whole_mask), nodes)
                image, text = image + both[:, :count], both[:, count:]
            else:
                text = layer(text, image, mask)
        return Fused(torch.cat([image, text], 1), whole_mask, nodes)


class MPlugTextDecoder(BertLMHeadModel):
    """BERT's decoder with causal self-attention, and cross-attention to encoder states.

    ``generate`` accepts ``encoder_hidden_states`` and ``encoder_attention_mask`` in addition to the prompt.
    Their keys and values are computed once.
    """

    def prepare_inputs_for_generation(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """transformers' method, with keys and values of cross-attention in the cache, which it does not
        provide for decoders without an encoder.
        """
        inputs = super().prepare_inputs_for_generation(*args, **kwargs)
        for name in ("cache", "past_key_values"):  # the argument's name changed between releases
            cache = inputs.get(name)
            if isinstance(cache, Cache) and not isinstance(cache, EncoderDecoderCache):
                inputs[name] = EncoderDecoderCache(cache, DynamicCache())
        return inputs


class MPlugForConditionalGeneration(PreTrainedModel):
    """The whole model."""

    config_class = MPlugConfig
    base_model_prefix = "mplug"
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_attention_backend = True
    _tied_weights_keys = {f"{_HEAD}.decoder.weight": _EMBEDDINGS, f"{_HEAD}.decoder.bias": f"{_HEAD}.bias"}

    def __init__(self, config: MPlugConfig):
        super().__init__(config)
        text = config.text_config
        self.vision_model = MPlugVisionModel(config.vision_config, text.hidden_size, text.hidden_dropout_prob)
        self.text_encoder = BertModel(text, add_pooling_layer=False)
        self.fusion_encoder = MPlugFusionModel(config)
        self.text_decoder = MPlugTextDecoder(config.decoder_config)
        self.post_init()

    def get_input_embeddings(self) -> Any:
        return self.text_decoder.get_input_embeddings()

    def set_input_embeddings(self, value: Any) -> None:
        self.text_decoder.set_input_embeddings(value)

    def get_output_embeddings(self) -> Any:
        return self.text_decoder.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: Any) -> None:
        self.text_decoder.set_output_embeddings(new_embeddings)

    def encoder_states(
        self,
        image_states: Tensor,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Fused:
        """The states that the decoder attends to: an image's features ``(b, N, D)`` of ``vision_model``, or
        these fused with a question ``(b, n)`` with a mask of its padding.
        """
        if input_ids is None:
            seen = torch.ones(image_states.shape[:2], dtype=torch.long, device=image_states.device)
            return Fused(image_states, seen, seen.bool())
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        question = self.text_encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return self.fusion_encoder(question, image_states, attention_mask)

    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        use_cache: bool | None = False,
        **kwargs: Any,
    ) -> CausalLMOutputWithCrossAttentions:
        """Logits ``(b, m, V)`` of the next tokens of answers or captions ``(b, m)``, given pixels
        ``(b, 3, side, side)`` and questions, see :meth:`encoder_states`.
        """
        image_states = self.vision_model(pixel_values).last_hidden_state
        states = self.encoder_states(image_states, input_ids, attention_mask)
        return self.text_decoder(
            input_ids=decoder_input_ids,
            attention_mask=decoder_attention_mask,
            encoder_hidden_states=states.last_hidden_state,
            encoder_attention_mask=states.attention_mask,
            use_cache=use_cache,
            **kwargs,
        )


def build_mini(
    tokenizer: PreTrainedTokenizerBase,
    width: int = 128,
    vision_layers: int = 4,
    layers: tuple[int, int, int] = (2, 4, 4),
    heads: int = 4,
) -> MPlugForConditionalGeneration:
    """A newly initialised mini-mPLUG for 64x64 images in patches of 8 (65 image features), without dropout.

    With the stride of mPLUG-base the last of four fusion layers is one attention over image and text. The
    tokenizer, whose texts begin with ``[CLS]``, defines the vocabulary, start and end tokens; ``layers`` are
    the numbers of layers of text encoder, fusion and decoder.
    """
    shared = dict(hidden_size=width, intermediate_size=4 * width, num_attention_heads=heads)
    vision = shared | dict(
        num_hidden_layers=vision_layers, image_size=64, patch_size=8, attention_dropout=0.0
    )
    config = sizes(vision, shared | mini_text(tokenizer), layers, STRIDES["base"])
    config._attn_implementation = "eager"
    model = MPlugForConditionalGeneration(config)
    with torch.no_grad():  # see grid_positions: from noise a model this small learns no left and right
        positions = model.vision_model.embeddings.position_embedding.weight
        positions[1:] = grid_positions(64 // 8, width)
    return model
