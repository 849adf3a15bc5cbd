"""mini-mPLUG's pre-training."""

from __future__ import annotations

from functools import partial

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from experiments.models.generation import decoder_logits
from experiments.models.mplug.modeling import build_mini
from experiments.pretraining.minis.mini import Mini
from experiments.pretraining.recipe import Recipe
from experiments.pretraining.rows import group, rows
from experiments.pretraining.steps import Arrange

ABOUT = """\
mPLUG (Li et al., 2022) in a small configuration, trained from scratch on drawn scenes. The model is
`MPlugForConditionalGeneration` of this package (`experiments.models.mplug`), since transformers has none.

- Image encoder, CLIP's: {vision.num_hidden_layers} layers, width {vision.hidden_size},
  {vision.num_attention_heads} heads, {vision.image_size} x {vision.image_size} pixels in patches of
  {vision.patch_size}.
- Text encoder: {text.num_hidden_layers} layers, {text.vocab_size} tokens (words, and characters for anything
  else), {text.max_position_embeddings} positions.
- Fusion: {fuser.num_hidden_layers} layers. In {joined} of them, every {stride} layers after the first, image
  and question attend to each other in one sequence; in the others the question attends to itself and to the
  image.
- Text decoder: {decoder.num_hidden_layers} layers, causal self-attention and cross-attention to the states of
  image and question.
- {parameters:,} parameters, stored in float16 (`model.safetensors`).
- A question is `[CLS] question` in the text encoder, its answer `[CLS] answer [SEP]` in the decoder. A
  caption has no question: the decoder looks at the image's states directly."""


class MiniMPlug(Mini):
    """Questions and captions in rows of their own, which share the states of their image."""

    name = "mini-mplug"
    recipe = Recipe(texts=5, row_length=None)
    prompts_captions = False

    def tokenizer(self) -> PreTrainedTokenizerBase:
        tokenizer = super().tokenizer()
        tokenizer.bos_token = tokenizer.cls_token
        return tokenizer

    def build(self, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
        return build_mini(tokenizer)

    def arrange(self, tokenizer: PreTrainedTokenizerBase, recipe: Recipe) -> Arrange:
        return partial(rows, tokenizer)

    def read(
        self, model: PreTrainedModel, states: Tensor, batch: dict[str, Tensor]
    ) -> list[tuple[Tensor, dict[str, Tensor]]]:
        read = []
        for part in filter(None, (group(batch, name) for name in ("caption", "question"))):
            own = states.index_select(0, part["image"])
            seen = model.looked_at(own, part.get("question_ids"), part.get("question_mask"))
            logits = decoder_logits(model, seen.last_hidden_state, part, seen.attention_mask)
            read.append((logits, part))
        return read

    def about(self, model: PreTrainedModel) -> str:
        config = model.config
        return ABOUT.format(
            vision=config.vision_config,
            text=config.text_config,
            fuser=config.fuser_config,
            decoder=config.decoder_config,
            stride=config.stride,
            joined=sum(map(config.joins, range(config.fuser_config.num_hidden_layers))),
            parameters=model.num_parameters(),
        )
