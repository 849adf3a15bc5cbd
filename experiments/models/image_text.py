"""transformers' own models that see an image and write a text.

Image-text-to-text models read both in one sequence and write on: LLaVA, SmolVLM, Qwen2-VL, BLIP-2, GIT and
the like. The prompt is what the processor makes of it (the user's turn of a chat template, or the text after
the image's place); the answer's tokens and the end token follow. Training and generation see the same prompt,
token by token.

A ``VisionEncoderDecoder`` (TrOCR, Donut, ...) has an image encoder, and a text decoder that looks at it by
cross-attention. The prompt is the decoder's prefix: start token, prompt, answer, end token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor, PretrainedConfig, PreTrainedTokenizerBase, TrOCRProcessor
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from experiments.models.batch import IGNORED, Batch, Sample
from experiments.models.family import Checkpoint, Decoding, register
from experiments.models.generation import right_padded
from experiments.models.images import open_image
from experiments.models.processor import ProcessorFamily
from experiments.models.ranking import Opening, openings

SUFFIX_TYPE = {"paligemma": 1}  # token types of an answer where they are not 0
ROWS = ("cross_attention_mask",)  # inputs with a row for each token: which tiles it sees (Mllama)


class _ImageAndText(Opening):
    """A prompt with its image."""

    def followed(self, rows: Tensor, length: int) -> dict[str, Tensor]:
        last = {name: self.read_once[name][rows, -1:] for name in ROWS if name in self.read_once}
        more = {name: tensor.expand(-1, length, *tensor.shape[2:]) for name, tensor in last.items()}
        if self.decoder.config.model_type == "git":  # its cache holds the image, its positions do not
            more["position_ids"] = (self.ids.shape[1] + torch.arange(length, device=rows.device))[None]
        return more


@register
class ImageTextFamily(ProcessorFamily):
    """A decoder whose sequence holds the image's states and the text."""

    name = "image_text"
    writes = True

    @classmethod
    def accepts(cls, config: PretrainedConfig) -> bool:
        architecture = (config.architectures or [""])[0]
        known = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.get(config.model_type)
        text = config.get_text_config()
        parts = (config, text)
        return architecture == known and not any(getattr(part, "is_encoder_decoder", False) for part in parts)

    # ---- training ----------------------------------------------------------------------------------------

    def training_inputs(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        inputs = self._prompts(samples)
        answers = [[*self.answer_ids(s.answer or "", self._asked(s)), self.end] for s in samples]
        prompts = self._unpadded(inputs)
        length = max(len(prompt) + len(answer) for prompt, answer in zip(prompts, answers))
        self._widen(inputs, length)
        labels = torch.full((len(samples), length), IGNORED)
        for row, (prompt, answer) in enumerate(zip(prompts, answers)):
            places = slice(len(prompt), len(prompt) + len(answer))
            inputs["input_ids"][row, places] = labels[row, places] = torch.tensor(answer)
            inputs["attention_mask"][row, places] = 1
            for name in ROWS:
                if name in inputs:  # answers see what the prompt's last token sees
                    inputs[name][row, places] = inputs[name][row, len(prompt) - 1]
            if "token_type_ids" in inputs:
                inputs["token_type_ids"][row, places] = SUFFIX_TYPE.get(self.model.config.model_type, 0)
        self.check_length(samples, inputs)
        return {**inputs, "labels": labels}

    def logits(self, inputs: dict[str, Tensor]) -> Tensor:
        width = inputs["input_ids"].shape[1]
        return super().logits(inputs)[:, -width:]  # some put the image's states before the text (GIT)

    # ---- answers -----------------------------------------------------------------------------------------

    @torch.no_grad()
    def generate(self, samples: Sequence[Sample], decoding: Decoding) -> list[str]:
        inputs = self._prompts(samples)
        width = inputs["input_ids"].shape[1]
        shifts = width - inputs["attention_mask"].sum(1)
        for name in self._token_wise(inputs):  # padding goes to the left
            rows = [row.roll(int(shift), 0) for row, shift in zip(inputs[name], shifts)]
            inputs[name] = torch.stack(rows)
        settings = decoding.settings(self.ends, self.tokenizer.pad_token_id)
        output = self.model.generate(**self.to_device(inputs), generation_config=settings)
        written = output[:, width:] if output.shape[1] > width else output
        return [text.strip() for text in self.tokenizer.batch_decode(written, skip_special_tokens=True)]

    def openings(self, samples: Sequence[Sample], answers: Sequence[str]) -> Iterator[Opening] | None:
        if hasattr(self.model, "qformer") or self.model.config.model_type in SUFFIX_TYPE:
            return None  # their forward methods take no cache, or read a prompt in both directions
        return self._openings(samples, answers)

    def _openings(self, samples: Sequence[Sample], answers: Sequence[str]) -> Iterator[Opening]:
        """One sample at a time: models remember where the image of the last prompt was (Qwen2-VL)."""
        after = self.continuations(answers, [self._asked(sample) for sample in samples])
        for place, (sample, ends) in enumerate(zip(samples, after)):
            inputs = self._prompts([sample])
            length = int(inputs["attention_mask"].sum())
            self._widen(inputs, length)
            longest = torch.ones(1, length + max(map(len, ends)))
            self.check_length([sample], {"input_ids": longest, "attention_mask": longest})
            inputs = self.to_device(inputs)
            ids = inputs.pop("input_ids")
            inputs.pop("attention_mask")
            yield _ImageAndText([place], ids, ends, self.model, {}, inputs)

    # ---- tokens ------------------------------------------------------------------------------------------

    @property
    def end(self) -> int:
        """The id of the end token."""
        tokenizer = self.tokenizer
        return self.known_token("end", self._models_end, tokenizer.eos_token_id, tokenizer.sep_token_id)

    @property
    def ends(self) -> list[int]:
        """The ids at which generation stops: chat models name several, one of a turn and one of a text."""
        known = self._models_end
        return known if isinstance(known, list) else [self.end]

    @property
    def _models_end(self) -> int | list[int] | None:
        return getattr(getattr(self.model, "generation_config", None), "eos_token_id", None)

    def _prompts(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """Inputs of the prompts alone, padded on the right, without an end token."""
        images = [open_image(sample.image) for sample in samples]
        inputs = self.process([self._asked(sample) for sample in samples], images)
        inputs.setdefault("attention_mask", torch.ones_like(inputs["input_ids"]))
        last = inputs["attention_mask"].sum(1, keepdim=True) - 1
        ends = inputs["input_ids"].gather(1, last) == self.end
        if bool(ends.all()):  # tokenizers of encoders put one there
            inputs["attention_mask"].scatter_(1, last, 0)
            inputs["input_ids"].scatter_(1, last, self.tokenizer.pad_token_id)
        return inputs

    def _asked(self, sample: Sample) -> str:
        if getattr(self.processor, "chat_template", None):
            question = [{"type": "image"}, {"type": "text", "text": sample.prompt}]
            turns = [{"role": "user", "content": question}]
            return self.processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return self.with_image_place(sample.prompt)

    def _unpadded(self, inputs: dict[str, Tensor]) -> list[list[int]]:
        lengths = inputs["attention_mask"].sum(1).tolist()
        return [ids[:length] for ids, length in zip(inputs["input_ids"].tolist(), lengths)]

    def _token_wise(self, inputs: dict[str, Tensor]) -> list[str]:
        """Names of the inputs with a number or a row for each token."""
        shape = inputs["input_ids"].shape
        numbers = [
            name for name, value in inputs.items() if isinstance(value, Tensor) and value.shape == shape
        ]
        return [*numbers, *(name for name in ROWS if name in inputs)]

    def _widen(self, inputs: dict[str, Tensor], length: int) -> None:
        """Bring the inputs of :meth:`_token_wise` to a length, padded (or cut) on the right."""
        for name in self._token_wise(inputs):
            empty = self.tokenizer.pad_token_id if name == "input_ids" else 0
            tensor = inputs[name]
            wide = torch.full((len(tensor), length, *tensor.shape[2:]), empty, dtype=tensor.dtype)
            kept = min(length, tensor.shape[1])
            wide[:, :kept] = tensor[:, :kept]
            inputs[name] = wide


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
        ids, mask = right_padded([prefix + answer for prefix, answer in rows], self.tokenizer.pad_token_id)
        labels = ids.masked_fill(mask == 0, IGNORED)
        for row, (prefix, _) in zip(labels, rows):
            row[: len(prefix)] = IGNORED
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
            padding = self.tokenizer.pad_token_id
            settings = decoding.settings(self.end, padding, decoder_start_token_id=self.start)
            output = self.model.generate(**self.to_device(inputs), generation_config=settings)
            texts = self.tokenizer.batch_decode(output[:, length:], skip_special_tokens=True)
            for k, text in zip(group, texts):
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
