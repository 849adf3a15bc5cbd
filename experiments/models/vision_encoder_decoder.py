"""``VisionEncoderDecoder``: an image encoder, and a text decoder that looks at it by cross-attention (TrOCR,
Donut, ...).

The prompt is the decoder's prefix: start token, prompt, answer, end token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from PIL import Image
from torch import Tensor
from transformers import (
    AutoImageProcessor,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedTokenizerBase,
    TrOCRProcessor,
)

from experiments.models.batch import Batch, Sample
from experiments.models.family import Checkpoint, Decoding, register
from experiments.models.images import open_image
from experiments.models.losses import IGNORED
from experiments.models.processor import ProcessorFamily
from experiments.models.ranking import Opening, openings


@register
class VisionEncoderDecoderFamily(ProcessorFamily):
    """An image encoder and a text decoder."""

    name = "vision_encoder_decoder"
    writes = True

    @classmethod
    def accepts(cls, config: PretrainedConfig) -> bool:
        return config.model_type == "vision-encoder-decoder"

    @classmethod
    def load_processor(cls, checkpoint: Checkpoint):
        processor = super().load_processor(checkpoint)
        if isinstance(processor, PreTrainedTokenizerBase):  # the two were saved apart
            images = AutoImageProcessor.from_pretrained(checkpoint.name, **checkpoint.options)
            return TrOCRProcessor(images, processor)
        return processor

    def language_side(self) -> list[str]:
        return ["decoder", *(["enc_to_dec_proj"] if hasattr(self.model, "enc_to_dec_proj") else [])]

    def text_batch(self, samples: list[Sample], images: list[Image.Image] | None) -> Batch:
        texts = [self.full_text(sample, images is not None) for sample in samples]
        inputs = self.process(texts, images)
        for name in ("input_ids", "attention_mask", "labels"):  # the decoder's text, taken for an encoder's
            inputs.pop(name, None)
        written = [f"{sample.prompt} {sample.answer}".strip() for sample in samples]
        text = self.decoder_text(inputs, written, [sample.prompt for sample in samples])
        return Batch(samples, inputs, None, text, None if images is None else self.pictures(inputs, images))

    def training_inputs(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        answers = [self._fitting([*self.answer_ids(s.answer or "", s.prompt), self.end]) for s in samples]
        rows = [(self._prefix(sample.prompt), answer) for sample, answer in zip(samples, answers)]
        room = self.longest or max(len(prefix) + len(answer) for prefix, answer in rows)
        rows = [(prefix[: max(1, room - len(answer))], answer) for prefix, answer in rows]
        length = max(len(prefix) + len(answer) for prefix, answer in rows)
        ids = torch.full((len(rows), length), self.tokenizer.pad_token_id)
        mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED)
        for row, (prefix, answer) in enumerate(rows):
            end = len(prefix) + len(answer)
            ids[row, :end] = torch.tensor(prefix + answer)
            mask[row, :end] = 1
            labels[row, len(prefix) : end] = torch.tensor(answer)
        decoder = {"decoder_input_ids": ids, "decoder_attention_mask": mask}
        return {**self._pixels(samples), **decoder, "labels": labels}

    @torch.no_grad()
    def generate(self, samples: Sequence[Sample], decoding: Decoding) -> list[str]:
        # Decoders count positions from the first column, padding or not: prompts of one length go together.
        prefixes = [self._prefix(sample.prompt) for sample in samples]
        answers = [""] * len(samples)
        for length in sorted(set(map(len, prefixes))):
            group = [k for k, prefix in enumerate(prefixes) if len(prefix) == length]
            ids = torch.tensor([prefixes[k] for k in group])
            inputs = self._pixels([samples[k] for k in group]) | {"decoder_input_ids": ids}
            settings = GenerationConfig(
                max_new_tokens=decoding.max_new_tokens,
                num_beams=decoding.num_beams,
                length_penalty=decoding.exponent,
                min_new_tokens=decoding.min_new_tokens or None,
                do_sample=False,
                eos_token_id=self.end,
                pad_token_id=self.tokenizer.pad_token_id,
                decoder_start_token_id=self.start,
            )
            output = self.model.generate(**self.to_device(inputs), generation_config=settings)
            for k, text in zip(
                group, self.tokenizer.batch_decode(output[:, length:], skip_special_tokens=True)
            ):
                answers[k] = text.strip()
        return answers

    def openings(self, samples: Sequence[Sample], answers: Sequence[str]) -> Iterator[Opening]:
        inputs = self.to_device(self._pixels(samples))
        states = self.model.get_encoder()(**inputs).last_hidden_state
        if hasattr(self.model, "enc_to_dec_proj"):
            states = self.model.enc_to_dec_proj(states)
        prompts = [sample.prompt for sample in samples]
        after = self.continuations(answers, prompts)
        fitting = {id(ends): list(map(self._fitting, ends)) for ends in after}
        after = [fitting[id(ends)] for ends in after]
        prefixes = [self._prefix(prompt) for prompt in prompts]
        if self.longest is not None:
            rooms = [self.longest - max(map(len, ends)) for ends in after]
            prefixes = [prefix[: max(1, room)] for prefix, room in zip(prefixes, rooms)]
        return openings(self.model.decoder, prefixes, after, {"encoder_hidden_states": states}, states.device)

    @property
    def start(self) -> int:
        """The id of the decoder's start token."""
        name, config, tokenizer = "decoder_start_token_id", self.model.config, self.tokenizer
        parts = (self.model.generation_config, config, config.decoder)
        ids = [getattr(part, name, None) for part in parts]
        return self.known_token("start", *ids, tokenizer.bos_token_id, tokenizer.cls_token_id)

    @property
    def end(self) -> int:
        """The id of the end token."""
        of_decoder = getattr(self.model.config.decoder, "eos_token_id", None)
        return self.known_token("end", self.tokenizer.eos_token_id, self.tokenizer.sep_token_id, of_decoder)

    def _prefix(self, prompt: str) -> list[int]:
        return [
            self.start,
            *(self.tokenizer(prompt, add_special_tokens=False)["input_ids"] if prompt else []),
        ]

    def _fitting(self, answer: list[int]) -> list[int]:
        """An answer with its end token, cut to what the decoder has places for beside the start token."""
        if self.longest is None or len(answer) < self.longest:
            return answer
        return [*answer[: self.longest - 2], answer[-1]]

    def _pixels(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        images = [open_image(sample.image) for sample in samples]
        return {"pixel_values": self.image_processor(images, return_tensors="pt")["pixel_values"]}
