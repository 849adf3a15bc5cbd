"""mPLUG, which is not part of transformers: questions about images, and captions. The model is in
:mod:`attngraph.experiments.models.mplug.modeling`, with the structure of transformers' models.

A question is ``[CLS] question``, without an end token, as in mPLUG's tokenizer; further parts, such as words
read in the image, follow after ``[SEP]`` in the text: "what is it [SEP] stop [SEP] sign". The answer is
``[CLS] answer [SEP]``. If a sample does not have a prompt, the decoder attends to the image directly and
generates a caption.

Sources: vqa_mplug.py, caption_mplug.py and dataset/vqa_dataset.py of github.com/X-PLUG/mPLUG.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from attngraph.errors import UserError
from attngraph.experiments.models.batch import Sample
from attngraph.experiments.models.blip import BlipLike
from attngraph.experiments.models.family import register
from attngraph.experiments.models.generation import padded
from attngraph.experiments.models.images import interpolate_positions
from attngraph.experiments.models.mplug.modeling import MPlugConfig, MPlugForConditionalGeneration

__all__ = ["MPlug", "MPlugConfig", "MPlugForConditionalGeneration", "question_batch"]

QUESTION, QUESTION_IN_PARTS = 25, 80  # tokens in training, without and with further parts


@register
class MPlug(BlipLike):
    """Fusion of a question and an image, and an answer decoder that attends to both; or a caption decoder."""

    name = "mplug"
    kind = MPlugForConditionalGeneration
    title = "mPLUG"

    @classmethod
    def prepared(
        cls, tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig
    ) -> PreTrainedTokenizerBase:
        """BERT's tokenizer, which begins texts with ``[CLS]`` and ends them with ``[SEP]``."""
        decoder = config.decoder_config
        tokenizer.bos_token = tokenizer.cls_token
        if (tokenizer.bos_token_id, tokenizer.sep_token_id) != (decoder.bos_token_id, decoder.eos_token_id):
            raise UserError(
                "the tokenizer's start or end token differs from the model's: save the model's tokenizer"
            )
        places = min(part.max_position_embeddings for part in (config.text_config, decoder))
        tokenizer.model_max_length = min(tokenizer.model_max_length, places)
        return tokenizer

    def language_side(self) -> list[str]:
        return ["text_encoder", "fusion_encoder", "text_decoder"]

    def interpolate(self, embeddings: nn.Module, rows: int) -> None:
        """Bilinear interpolation of positions, as in mPLUG."""
        old = embeddings.position_embedding.weight
        new = interpolate_positions(old.detach()[None], rows, "bilinear")[0]
        table = nn.Embedding(*new.shape, _weight=new.clone())
        table.weight.requires_grad = old.requires_grad
        embeddings.position_embedding = table
        embeddings.position_ids = torch.arange(len(new), device=new.device)[None]

    def blank_image(self) -> Tensor:
        """Image features projected to the texts' width."""
        return torch.zeros(len(super().blank_image()), self.model.config.text_config.hidden_size)

    def question_inputs(self, samples: Sequence[Sample], training: bool = False) -> dict[str, Tensor]:
        """``question_ids`` and ``question_mask`` ``(b, n)``, padded on the right; nothing for captions."""
        prompts = [sample.prompt.strip() for sample in samples]
        if not any(prompts):
            return {}
        if not all(prompts):
            name = samples[prompts.index("")].name
            raise UserError(
                f"{name}: no question, although other examples have one: {self.title} supports questions and "
                "captions, but only one of them in a batch"
            )
        return question_batch(self.tokenizer, prompts, training, self.learned)

    def encoder_states(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """Image and question after fusion; for captions the image."""
        question = inputs.get("question_ids"), inputs.get("question_mask")
        fused = self.model.encoder_states(self.image_states(inputs), *question)
        return fused.last_hidden_state, fused.attention_mask


def question_batch(
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[str],
    training: bool = False,
    learned: Sequence[int] = (),
) -> dict[str, Tensor]:
    """``question_ids`` and ``question_mask`` ``(b, n)`` of ``[CLS] question``, after ``learned`` tokens,
    padded on the right. In training long ones are truncated as in mPLUG.
    """
    rows, start = [], [*learned, tokenizer.cls_token_id]
    for ids in tokenizer(list(questions), add_special_tokens=False, verbose=False)["input_ids"]:
        most = tokenizer.model_max_length - len(start)
        if training:
            most = min(most, (QUESTION_IN_PARTS if tokenizer.sep_token_id in ids else QUESTION) - 1)
        rows.append([*start, *ids[:most]])
    ids, mask = padded(rows, tokenizer.pad_token_id)
    return {"question_ids": ids, "question_mask": mask}
