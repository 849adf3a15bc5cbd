"""mini-BLIP's pre-training."""

from __future__ import annotations

from functools import partial

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from experiments.models.generation import decoder_logits
from experiments.models.mini_blip import build_model
from experiments.pretraining.minis.mini import Mini
from experiments.pretraining.packing import block_causal_mask, pack
from experiments.pretraining.recipe import Recipe
from experiments.pretraining.steps import Arrange
from experiments.shipped import DEFAULT

ABOUT = """\
`BlipForConditionalGeneration` of Hugging Face transformers in a small configuration, trained from scratch on
drawn scenes.

- Image encoder: {vision.num_hidden_layers} layers, width {vision.hidden_size}, {vision.num_attention_heads}
  heads, {vision.image_size} x {vision.image_size} pixels in patches of {vision.patch_size}.
- Text decoder: {text.num_hidden_layers} layers, width {text.hidden_size}, {text.num_attention_heads} heads,
  causal self-attention and cross-attention to the image, {text.vocab_size} tokens (words, and characters for
  anything else), {text.max_position_embeddings} positions.
- {parameters:,} parameters, stored in float16 (`model.safetensors`).
- A text is `[DEC] prompt answer [SEP]`: the prompt is given, the answer is generated."""


class MiniBlip(Mini):
    """All texts about an image in one row of the decoder, each with its prompt before it."""

    name = DEFAULT
    recipe = Recipe()
    prompts_captions = True

    def build(self, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
        return build_model(tokenizer)

    def arrange(self, tokenizer: PreTrainedTokenizerBase, recipe: Recipe) -> Arrange:
        return partial(pack, tokenizer, row_length=recipe.row_length)

    def read(
        self, model: PreTrainedModel, states: Tensor, batch: dict[str, Tensor]
    ) -> list[tuple[Tensor, dict[str, Tensor]]]:
        masked = {**batch, "attention_mask": block_causal_mask(batch["segments"])}
        return [(decoder_logits(model, states, masked), batch)]

    def about(self, model: PreTrainedModel) -> str:
        config = model.config
        return ABOUT.format(
            vision=config.vision_config, text=config.text_config, parameters=model.num_parameters()
        )
