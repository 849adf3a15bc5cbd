"""mPLUG with a tokenizer: questions about pictures, and captions.

A question is ``[CLS] question``, without an end token, as mPLUG's own tokenizer has it; further parts, such
as words that were read in the picture, follow after ``[SEP]`` in the text: "what is it [SEP] stop [SEP]
sign". The answer is ``[CLS] answer [SEP]``. Where a sample has no prompt the decoder looks at the picture
directly: a caption.

Sources: vqa_mplug.py, caption_mplug.py and dataset/vqa_dataset.py of github.com/X-PLUG/mPLUG.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from attngraph.errors import UserError
from experiments.models.batch import Batch, Sample
from experiments.models.blip import BlipImages
from experiments.models.family import Checkpoint, Decoding, register
from experiments.models.generation import decoder_logits, decoder_openings, generate_text, sequence_batch
from experiments.models.mplug.fusion import Fused
from experiments.models.mplug.modeling import MPlugForConditionalGeneration
from experiments.models.mplug.questions import question_batch
from experiments.models.positions import interpolate_positions, rows_of
from experiments.models.ranking import Opening
from experiments.models.text import Text


@register
class MPlug(BlipImages):
    """A question and a picture that are fused, and an answer that looks at both; or a caption."""

    name = "mplug"

    def __init__(self, model: nn.Module, tokenizer: PreTrainedTokenizerBase, title: str = "mPLUG"):
        self.model, self.tokenizer, self.title = model, tokenizer, title
        config = model.config
        places = min(part.max_position_embeddings for part in (config.text_config, config.decoder_config))
        tokenizer.model_max_length = min(tokenizer.model_max_length, places)

    @classmethod
    def accepts(cls, config: PretrainedConfig) -> bool:
        return "MPlugForConditionalGeneration" in (config.architectures or ())

    @classmethod
    def load(cls, checkpoint: Checkpoint) -> MPlug:
        return cls.assembled(MPlugForConditionalGeneration, checkpoint, prepare_tokenizer)

    def language_side(self) -> list[str]:
        return ["text_encoder", "fusion_encoder", "text_decoder"]

    def resize(self, side: int) -> None:
        """Positions are interpolated as mPLUG does it, bilinearly."""
        vision, embeddings = self.model.config.vision_config, self.model.vision_model.embeddings
        rows = rows_of(side, vision.patch_size)
        old = embeddings.position_embedding.weight
        new = interpolate_positions(old.detach()[None], rows, "bilinear")[0]
        table = nn.Embedding(*new.shape, _weight=new.clone())
        table.weight.requires_grad = old.requires_grad
        embeddings.position_embedding = table
        embeddings.num_patches, embeddings.num_positions = len(new) - 1, len(new)
        embeddings.position_ids = torch.arange(len(new), device=new.device)[None]
        for config in (vision, embeddings):
            config.image_size = side

    def blank_image(self) -> Tensor:
        vision = self.model.config.vision_config
        return torch.zeros(
            (vision.image_size // vision.patch_size) ** 2 + 1, self.model.config.text_config.hidden_size
        )

    # ---- inputs ------------------------------------------------------------------------------------------

    def batch(self, samples: Sequence[Sample]) -> Batch:
        pixels, pictures = self.shown(samples)
        answers = [sample.answer for sample in samples]
        if None in answers:
            with self.unadapted():  # so that all states of an adapted model read the same
                answers = self.generate(samples, Decoding())
        written = sequence_batch(self.tokenizer, [""] * len(samples), answers)
        ids, mask = written["input_ids"], written["attention_mask"]
        inputs = {"pixel_values": pixels, "decoder_input_ids": ids, "decoder_attention_mask": mask}
        text = Text.of(self.tokenizer, ids, mask, torch.ones(len(samples), dtype=torch.long))
        question = self._question(samples)
        if not question:
            return Batch(list(samples), inputs, text, pictures=pictures)
        asked, padding = question["question_ids"], question["question_mask"]
        inputs |= {"input_ids": asked, "attention_mask": padding}
        return Batch(list(samples), inputs, Text.of(self.tokenizer, asked, padding), text, pictures)

    def training_inputs(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        answers = sequence_batch(
            self.tokenizer, [""] * len(samples), [sample.answer or "" for sample in samples]
        )
        return {**answers, **self._question(samples, training=True), **self.image_inputs(samples)}

    def logits(self, inputs: dict[str, Tensor]) -> Tensor:
        states = self._looked_at(inputs)
        return decoder_logits(self.model, states.last_hidden_state, inputs, states.attention_mask)

    # ---- answers -----------------------------------------------------------------------------------------

    @torch.no_grad()
    def generate(self, samples: Sequence[Sample], decoding: Decoding) -> list[str]:
        states = self._looked_at(self.to_device({**self._question(samples), **self.image_inputs(samples)}))
        return generate_text(
            self.model,
            self.tokenizer,
            states.last_hidden_state,
            [""] * len(samples),
            decoding.max_new_tokens,
            decoding.num_beams,
            decoding.min_new_tokens,
            length_penalty=decoding.exponent,
            states_mask=states.attention_mask,
        )

    def openings(self, samples: Sequence[Sample], answers: Sequence[str]) -> Iterator[Opening]:
        states = self._looked_at(self.to_device({**self._question(samples), **self.image_inputs(samples)}))
        return decoder_openings(
            self.model,
            self.tokenizer,
            states.last_hidden_state,
            [""] * len(samples),
            answers,
            states.attention_mask,
        )

    def _question(self, samples: Sequence[Sample], training: bool = False) -> dict[str, Tensor]:
        """``question_ids`` and ``question_mask`` ``(b, n)``, padded on the right; nothing for captions."""
        prompts = [sample.prompt.strip() for sample in samples]
        if not any(prompts):
            return {}
        if not all(prompts):
            name = samples[prompts.index("")].name
            raise UserError(
                f"{name}: no question, where other examples have one: {self.title} reads questions and "
                "writes captions, but not both in one batch"
            )
        return question_batch(self.tokenizer, prompts, training)

    def _looked_at(self, inputs: dict[str, Tensor]) -> Fused:
        """What the decoder looks at."""
        question = inputs.get("question_ids"), inputs.get("question_mask")
        return self.model.looked_at(self.image_states(inputs), *question)


def prepare_tokenizer(
    tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig
) -> PreTrainedTokenizerBase:
    """BERT's tokenizer, which begins texts with ``[CLS]`` and ends them with ``[SEP]``.

    Raises:
        UserError: its start or end token is not the model's.
    """
    decoder = config.decoder_config
    tokenizer.bos_token = tokenizer.cls_token
    if (tokenizer.bos_token_id, tokenizer.sep_token_id) != (decoder.bos_token_id, decoder.eos_token_id):
        raise UserError(
            "the tokenizer's start or end token is not the model's: save the tokenizer that belongs to it"
        )
    return tokenizer
