"""mPLUG (Li et al., 2022, arXiv:2205.12005): an image encoder, a text encoder, their fusion, a text decoder.

Questions: image and question are fused, and the answer looks at the states of both. Captions: the decoder
looks at the image's states directly.

Axes: b examples, N image nodes, n words of the question, m of the answer, D width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import BertModel, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithCrossAttentions

from experiments.models.mplug.configuration import MPlugConfig
from experiments.models.mplug.decoder import MPlugTextDecoder
from experiments.models.mplug.fusion import Fused, MPlugFusionModel
from experiments.models.mplug.vision import MPlugVisionModel

_WORDS = "text_decoder.bert.embeddings.word_embeddings.weight"
_HEAD = "text_decoder.cls.predictions"


class MPlugForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """The whole model.

    Args:
        config: its sizes.
    """

    config_class = MPlugConfig
    base_model_prefix = "mplug"
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_attention_backend = True
    _tied_weights_keys = {f"{_HEAD}.decoder.weight": _WORDS, f"{_HEAD}.decoder.bias": f"{_HEAD}.bias"}

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

    def looked_at(
        self,
        image_states: Tensor,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Fused:
        """What the decoder looks at: an image, or an image and a question.

        Args:
            image_states: ``(b, N, D)``, from ``vision_model``.
            input_ids: ``(b, n)``, the question; None for a caption.
            attention_mask: ``(b, n)``, 0 at the question's padding; None without padding.
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
        image_states: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = False,
        **kwargs: Any,
    ) -> CausalLMOutputWithCrossAttentions:
        """Logits ``(b, m, V)`` of the next word of answers or captions, and their mean loss
        where labels are given.

        Args:
            pixel_values: ``(b, 3, side, side)``.
            input_ids, attention_mask: the question, see :meth:`looked_at`.
            decoder_input_ids, decoder_attention_mask: ``(b, m)``, the answer.
            image_states: ``(b, N, D)``, in the place of pixels.
            labels: ``(b, m)``, not shifted, -100 where there is no loss.
            use_cache, kwargs: of the decoder.
        """
        if image_states is None:
            image_states = self.vision_model(pixel_values).last_hidden_state
        states = self.looked_at(image_states, input_ids, attention_mask)
        return self.text_decoder(
            input_ids=decoder_input_ids,
            attention_mask=decoder_attention_mask,
            encoder_hidden_states=states.last_hidden_state,
            encoder_attention_mask=states.attention_mask,
            labels=labels,
            use_cache=use_cache,
            **kwargs,
        )

    @torch.no_grad()
    def generate(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        image_states: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Answers or captions as ids ``(b, m)``, the start token (or ``decoder_input_ids``) first.

        Args:
            pixel_values, input_ids, attention_mask, image_states: see :meth:`forward`.
            decoder_input_ids: ``(b, k)``, how they begin; None for the decoder's start token.
            kwargs: of transformers' ``generate``, such as ``num_beams``.
        """
        if image_states is None:
            image_states = self.vision_model(pixel_values).last_hidden_state
        states = self.looked_at(image_states, input_ids, attention_mask)
        if decoder_input_ids is None:
            start = self.config.decoder_config.bos_token_id
            decoder_input_ids = torch.full((len(image_states), 1), start, device=image_states.device)
        return self.text_decoder.generate(
            input_ids=decoder_input_ids,
            encoder_hidden_states=states.last_hidden_state,
            encoder_attention_mask=states.attention_mask,
            **kwargs,
        )
