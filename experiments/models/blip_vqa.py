"""BLIP with a question encoder and an answer decoder (``BlipForQuestionAnswering``).

The question ``[ENC] question [SEP]`` looks at the image by cross-attention; the answer ``[DEC] answer [SEP]``
looks at the question's states. transformers (5.24) ignores the question's padding there; here it is masked,
as in BLIP's own code, which masks it in its loss and in ranking. When BLIP writes answers it does not, and so
it is here where a :class:`~experiments.models.family.Decoding` asks for that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from transformers import (
    BlipConfig,
    BlipForQuestionAnswering,
    PretrainedConfig,
    PreTrainedTokenizerBase,
)

from attngraph.errors import UserError
from attngraph.reading.instrument import instrument
from experiments.models.batch import Batch, Sample
from experiments.models.blip import BlipImages
from experiments.models.family import Checkpoint, Decoding, register
from experiments.models.generation import decoder_logits, decoder_openings, generate_text, sequence_batch
from experiments.models.ranking import Opening
from experiments.models.released import released_texts
from experiments.models.text import Text

ENCODER_START = "[ENC]"


@register
class BlipAnswerer(BlipImages):
    """A question that looks at the image, and an answer that looks at the question."""

    name = "blip_vqa"
    writes_as_released = True

    def __init__(self, model: nn.Module, tokenizer: PreTrainedTokenizerBase, title: str = "BLIP VQA"):
        self.model, self.tokenizer, self.title = model, tokenizer, title
        places = model.config.text_config.max_position_embeddings
        tokenizer.model_max_length = min(tokenizer.model_max_length, places)
        known = self.tokenizer.get_vocab()
        self._start = ENCODER_START if ENCODER_START in known else tokenizer.cls_token
        self._reading = instrument(model)  # for its cross-attention, which heeds masks

    @classmethod
    def accepts(cls, config: PretrainedConfig) -> bool:
        return "BlipForQuestionAnswering" in (config.architectures or ())

    @classmethod
    def load(cls, checkpoint: Checkpoint) -> BlipAnswerer:
        return cls.assembled(BlipForQuestionAnswering, checkpoint, prepare_tokenizer)

    def language_side(self) -> list[str]:
        return ["text_encoder", "text_decoder"]

    def check(self, samples: Sequence[Sample]) -> None:
        super().check(samples)
        if any(not sample.prompt and sample.answer is None for sample in samples):
            raise UserError(f"{self.title} answers questions: give --texts")

    def batch(self, samples: Sequence[Sample]) -> Batch:
        pixels, pictures = self.shown(samples)
        # Without a prompt both sides read the text, as in every encoder-decoder.
        asked = [sample.prompt or sample.answer or "" for sample in samples]
        answers = [sample.answer or "" for sample in samples]
        question, answer = self._question(asked), sequence_batch(self.tokenizer, [""] * len(samples), answers)
        inputs = {
            "pixel_values": pixels,
            **question,
            "decoder_input_ids": answer["input_ids"],
            "decoder_attention_mask": answer["attention_mask"],
        }
        text = Text.of(self.tokenizer, question["input_ids"], question["attention_mask"])
        begins = torch.ones(len(samples), dtype=torch.long)
        decoder = Text.of(self.tokenizer, answer["input_ids"], answer["attention_mask"], begins)
        return Batch(list(samples), inputs, text, decoder, pictures)

    def training_inputs(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        answers = sequence_batch(
            self.tokenizer, [""] * len(samples), [sample.answer or "" for sample in samples]
        )
        return {**answers, **self._asked(samples), **self.image_inputs(samples)}

    def logits(self, inputs: dict[str, Tensor]) -> Tensor:
        return decoder_logits(self.model, self._question_states(inputs), inputs, inputs["question_mask"])

    @torch.no_grad()
    def generate(self, samples: Sequence[Sample], decoding: Decoding) -> list[str]:
        if decoding.as_released:
            parts = self._openings(samples, [""], masked=False)
            return released_texts(parts, self.tokenizer, *decoding.limits)
        inputs = self.to_device({**self._asked(samples), **self.image_inputs(samples)})
        return generate_text(
            self.model,
            self.tokenizer,
            self._question_states(inputs),
            [""] * len(samples),
            decoding.max_new_tokens,
            decoding.num_beams,
            decoding.min_new_tokens,
            length_penalty=decoding.exponent,
            states_mask=inputs["question_mask"],
        )

    def openings(self, samples: Sequence[Sample], answers: Sequence[str]) -> Iterator[Opening]:
        return self._openings(samples, answers)

    def _openings(
        self, samples: Sequence[Sample], answers: Sequence[str], masked: bool = True
    ) -> Iterator[Opening]:
        inputs = self.to_device({**self._asked(samples), **self.image_inputs(samples)})
        states, mask = self._question_states(inputs), inputs["question_mask"] if masked else None
        return decoder_openings(self.model, self.tokenizer, states, [""] * len(samples), answers, mask)

    def _question(self, questions: Sequence[str]) -> dict[str, Tensor]:
        """``[ENC] question [SEP]``, padded on the right."""
        options = dict(add_special_tokens=False, truncation=True, max_length=self.longest - 2, verbose=False)
        ids = self.tokenizer(list(questions), **options)["input_ids"]
        begin = self.tokenizer.convert_tokens_to_ids(self._start)
        rows = [torch.tensor([begin, *row, self.tokenizer.sep_token_id]) for row in ids]
        padded = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.tokenizer.pad_token_id)
        lengths = torch.tensor([len(row) for row in rows])
        mask = (torch.arange(padded.shape[1]) < lengths[:, None]).long()
        return {"input_ids": padded, "attention_mask": mask}

    def _asked(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        question = self._question([sample.prompt for sample in samples])
        return {"question_ids": question["input_ids"], "question_mask": question["attention_mask"]}

    def _question_states(self, inputs: dict[str, Tensor]) -> Tensor:
        """The question's states after it has looked at the image, ``(b, n, width)``."""
        return self.model.text_encoder(
            input_ids=inputs["question_ids"],
            attention_mask=inputs["question_mask"],
            encoder_hidden_states=self.image_states(inputs),
        )[0]


def prepare_tokenizer(tokenizer: PreTrainedTokenizerBase, config: BlipConfig) -> PreTrainedTokenizerBase:
    """The tokenizer with BLIP's start tokens: ``[DEC]`` before answers and, where the model has an embedding
    for it, ``[ENC]`` before questions (else ``[CLS]``).

    Raises:
        UserError: the tokenizer's start or end token is not the model's.
    """
    text = config.text_config
    if tokenizer.bos_token is None:
        tokenizer.add_special_tokens({"bos_token": "[DEC]"})
    if ENCODER_START not in tokenizer.get_vocab() and len(tokenizer) < text.vocab_size:
        tokenizer.add_special_tokens({"additional_special_tokens": [ENCODER_START]})
    if tokenizer.bos_token_id != text.bos_token_id or tokenizer.sep_token_id != text.sep_token_id:
        raise UserError(
            "the tokenizer's start or end token is not the model's: save the tokenizer that belongs to it"
        )
    return tokenizer
