"""Models of transformers, with their processor, tokenizer or image processor.

:class:`ProcessorFamily` makes the inputs for the analysis commands, for text models, image models, dual
encoders and encoder-decoders. So does the family of image encoders with a text decoder that attends to them
by cross-attention (TrOCR, Donut, ...).

Image-text-to-text models also generate answers. They read image and text in one sequence and continue it:
LLaVA, SmolVLM, Qwen2-VL, BLIP-2, GIT and others. The prompt is formatted by the processor (as the user's turn
of a chat template, or as text after the image placeholder); the answer's tokens and the end token follow.
Training and generation have the same prompt tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import replace
from functools import cached_property

import torch
import transformers
from PIL import Image
from torch import Tensor, nn
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoProcessor,
    PretrainedConfig,
    PreTrainedTokenizerBase,
    TrOCRProcessor,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from attngraph.adapters.peft.places import OTHER_SIDES
from attngraph.errors import UserError
from attngraph.experiments.models.batch import BYTES, IGNORED, Batch, Sample, Text, pieces_of
from attngraph.experiments.models.family import Checkpoint, Decoding, ModelFamily, register
from attngraph.experiments.models.images import Pictures, open_image, seen
from attngraph.experiments.models.ranking import Opening
from attngraph.experiments.models.vilt_order import in_order
from attngraph.experiments.models.weights import load_weights

UNLIMITED = 1_000_000  # tokenizers without a limit name a number above
#: Types for analysis only: their answers need token types, or a row of tiles for each token.
READ_ONLY = ("paligemma", "mllama")


@register
class ProcessorFamily(ModelFamily):
    """A model with a processor (or a tokenizer, or an image processor) in the same folder."""

    name = "processor"
    generates = False  # whether it generates answers, for which all weights are needed

    def __init__(self, model: nn.Module, processor):
        self.model, self.processor = model, processor
        is_tokenizer = isinstance(processor, PreTrainedTokenizerBase)
        self.tokenizer = processor if is_tokenizer else getattr(processor, "tokenizer", None)
        alone = None if is_tokenizer or self.tokenizer else processor
        self.image_processor = getattr(processor, "image_processor", alone)
        self.takes_images, self.takes_text = self.image_processor is not None, self.tokenizer is not None
        if self.tokenizer is not None:
            self.tokenizer.padding_side = "right"
            if self.tokenizer.pad_token is None:
                self.tokenizer.pad_token = self.tokenizer.eos_token

    # ---- loading -----------------------------------------------------------------------------------------

    @classmethod
    def accepts(cls, config: PretrainedConfig) -> bool:
        return True

    @classmethod
    def load(cls, checkpoint: Checkpoint) -> ProcessorFamily:
        """The model of the class in its configuration."""
        kind = getattr(transformers, (checkpoint.config.architectures or [""])[0], AutoModel)
        model = in_order(load_weights(kind, checkpoint, complete=cls.generates))
        return cls(model, cls.load_processor(checkpoint))

    @classmethod
    def load_processor(cls, checkpoint: Checkpoint):
        """The processor of the model."""
        return AutoProcessor.from_pretrained(checkpoint.name, **checkpoint.options)

    # ---- inputs ------------------------------------------------------------------------------------------

    def check(self, samples: Sequence[Sample]) -> None:
        name = type(self.model).__name__
        if self.image_processor is None and hasattr(self.processor, "feature_extractor"):
            raise UserError(
                f"{name}: audio input is not supported: capture its graphs with attngraph.capture"
            )
        if self.image_processor is not None and samples[0].image is None:
            raise UserError(f"{name} needs images: add --images")
        if self.tokenizer is not None and any(sample.answer is None for sample in samples):
            raise UserError(f"{name} needs texts: add --texts")

    def batch(self, samples: Sequence[Sample]) -> Batch:
        samples = list(samples)
        images = None if self.image_processor is None else [open_image(sample.image) for sample in samples]
        if self.tokenizer is None:
            inputs = dict(self.processor(images=images, return_tensors="pt"))
            return Batch(samples, inputs, pictures=self.seen(inputs, images))
        return self.text_batch(samples, images)

    def text_batch(self, samples: list[Sample], images: list[Image.Image] | None) -> Batch:
        """:meth:`batch` for a model with text input."""
        decodes = self.writes_apart  # then the decoder has the answer
        texts = [
            self.full_text(replace(s, answer="") if decodes and s.prompt else s, images is not None)
            for s in samples
        ]
        inputs = self.process(texts, images)
        pictures = self.seen(inputs, images)
        self.check_length(samples, inputs)
        text, decoder = Text.of(self.tokenizer, inputs["input_ids"], inputs.get("attention_mask")), None
        if decodes:
            decoder = self.decoder_text(inputs, [s.answer for s in samples], [""] * len(samples))
        elif all(sample.prompt for sample in samples):
            ends = (~text.padding).int().cumsum(1).argmax(1) + 1  # after the last that is no padding
            lengths = torch.tensor(self.answer_lengths(samples, texts, images is not None))
            text = replace(text, prompt=(ends - lengths).clamp(min=1))
        return Batch(samples, inputs, text, decoder, pictures)

    def process(self, texts: list[str], images: list[Image.Image] | None) -> dict[str, Tensor]:
        """The processor's tensors, padded on the right."""
        options = self.options(texts, images is not None)
        if images is None:
            return dict(self.processor(texts, **options))
        if self.places_in_text:  # a text could hold several
            images = [[image] for image in images]
        return dict(self.processor(images=images, text=texts, **options))

    def options(self, texts: list[str], with_image: bool) -> dict:
        """Options of the processor: padding, truncation if no image placeholder can be cut off, and no second
        start token.
        """
        # Models without a mask read padding, always as much of it (SigLIP).
        masked = "attention_mask" in self.tokenizer.model_input_names
        padding = True if masked or self.max_tokens is None else "max_length"
        options = {"return_tensors": "pt", "padding": padding, "padding_side": "right"}
        if not (with_image and self.places_in_text):
            options |= {"truncation": True, "max_length": self.max_text_tokens}
        start = self.tokenizer.bos_token
        if start and all(text.startswith(start) for text in texts):  # a chat template wrote it
            options["add_special_tokens"] = False
        return options

    def full_text(self, sample: Sample, with_image: bool) -> str:
        """Prompt and answer, after the image placeholder if the model reads both in one sequence."""
        if with_image and getattr(self.processor, "chat_template", None):
            return self.chat(sample.prompt or sample.answer, sample.answer if sample.prompt else None)
        text = f"{sample.prompt} {sample.answer}".strip()
        return self.with_image_place(text) if with_image else text

    def chat(self, prompt: str, answer: str | None = None, **options: bool) -> str:
        """A conversation: the user shows the image and asks, the assistant answers."""
        question = [{"type": "image"}, {"type": "text", "text": prompt}]
        turns = [{"role": "user", "content": question}]
        if answer is not None:
            turns.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
        return self.processor.apply_chat_template(turns, tokenize=False, **options)

    def with_image_place(self, text: str) -> str:
        """The text after the image placeholder, unless the processor inserts it."""
        token = getattr(self.processor, "image_token", None)
        return f"{token} {text}" if isinstance(token, str) and not self._adds_image_place else text

    def seen(self, inputs: dict[str, Tensor], images: list[Image.Image] | None) -> Pictures | None:
        """The images as model input."""
        return images and seen(inputs, images, self.model.config, self.image_processor)

    # ---- what kind of model it is ------------------------------------------------------------------------

    def language_side(self) -> list[str]:
        return _without(OTHER_SIDES, self.model) or [""]

    @property
    def image_side(self) -> int | None:
        size = dict(getattr(self.image_processor, "size", None) or {})
        height, width = (size.get(name) or size.get("shortest_edge") for name in ("height", "width"))
        return height if height == width else None

    @property
    def writes_apart(self) -> bool:
        """Whether a decoder generates a separate text, after an encoder that reads one."""
        return _writes_apart(self.model.config)

    @property
    def max_tokens(self) -> int | None:
        """Maximum number of tokens of a text; None if it is unknown."""
        config = self.model.config.get_text_config()
        limits = self.tokenizer.model_max_length, getattr(config, "max_position_embeddings", None)
        return min((limit for limit in limits if limit is not None and limit < UNLIMITED), default=None)

    @property
    def places_in_text(self) -> bool:
        """Whether the text contains image placeholders."""
        return any(getattr(self.processor, name, None) for name in ("image_token", "chat_template"))

    @cached_property
    def _adds_image_place(self) -> bool:
        """Whether the processor inserts the image placeholder into a text without one."""
        token = getattr(self.processor, "image_token_id", None)
        try:
            tensors = self.processor(images=[[Image.new("RGB", (64, 64))]], text=["a"], return_tensors="pt")
        except Exception:  # some insist on it, each with errors of its own
            return False
        return token is not None and bool((tensors["input_ids"] == token).any())

    def check_length(self, samples: Sequence[Sample], inputs: dict[str, Tensor]) -> None:
        """Raise UserError if a text with an image placeholder is too long, since it cannot be truncated."""
        lengths = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"])).sum(1)
        if self.max_tokens is not None and int(lengths.max()) > self.max_tokens:
            longest = samples[int(lengths.argmax())].name
            raise UserError(
                f"the text of {longest} has {int(lengths.max())} tokens with its image, and "
                f"{type(self.model).__name__} reads at most {self.max_tokens}: use a shorter text"
            )

    def answer_ids(self, answers: Sequence[str], before: str) -> list[list[int]]:
        """The tokens of each answer in the context of a preceding text, and an end token."""
        # Vocabularies of bytes (GPT-2, Qwen) hold the space between two words in the second one's token.
        follows_word = bool(before) and not before[-1].isspace()
        follows_word &= not before.endswith(tuple(self.tokenizer.all_special_tokens))
        space = " " if follows_word and pieces_of(self.tokenizer) == BYTES else ""
        spaced = [space * bool(answer) + answer for answer in answers]
        ids = self.tokenizer(spaced, add_special_tokens=False)["input_ids"]
        return [[*tokens, self.end] for tokens in ids]

    # ---- where answers begin -----------------------------------------------------------------------------

    def decoder_text(self, inputs: dict[str, Tensor], texts: list[str], prompts: list[str]) -> Text:
        """Add the decoder's texts to the inputs, beginning with a start token, and return them."""
        options = dict(padding=True, padding_side="right", truncation=True, max_length=self.max_tokens)
        encoded = self.tokenizer(texts, return_tensors="pt", return_attention_mask=True, **options)
        ids, mask = encoded["input_ids"], encoded["attention_mask"]
        shift = getattr(self.model, "prepare_decoder_input_ids_from_labels", None)
        if shift is not None:
            ids = shift(labels=ids)  # as many of them: a start token comes in, and each text's last goes out
        inputs |= {"decoder_input_ids": ids, "decoder_attention_mask": mask}
        text = Text.of(self.tokenizer, ids, mask)
        unknown = self.tokenizer.unk_token_id  # None where there is no such token
        opening = text.special if unknown is None else text.special & (ids != unknown)
        before = opening.long().cumprod(1).sum(1) + torch.tensor(
            [len(self.tokenizer.tokenize(text)) for text in prompts]
        )
        return replace(text, prompt=torch.minimum(before, mask.sum(1)).clamp(min=1))

    def answer_lengths(self, samples: Sequence[Sample], texts: list[str], with_image: bool) -> list[int]:
        """Number of tokens after the common beginning of a complete text and its prompt (an image placeholder
        counts as one token in both)."""
        prompts = [self.full_text(replace(sample, answer=""), with_image) for sample in samples]
        options = self.options(texts, with_image) | {"return_tensors": None, "padding": False}
        whole_ids, prompt_ids = (self.tokenizer(part, **options)["input_ids"] for part in (texts, prompts))
        lengths = []
        for whole, prompt in zip(whole_ids, prompt_ids):
            pairs = enumerate(zip(whole, prompt))
            shared = next((k for k, (one, other) in pairs if one != other), min(len(whole), len(prompt)))
            lengths.append(len(whole) - shared)
        return lengths


def _without(names: Set[str], module: nn.Module, path: str = "") -> list[str]:
    """Paths of the largest parts of a module that neither are nor hold a part with one of the names."""
    if not any(names & set(name.split(".")) for name, _ in module.named_modules()):
        return [path]
    children = [(name, child) for name, child in module.named_children() if name not in names]
    return [part for name, child in children for part in _without(names, child, f"{path}.{name}".lstrip("."))]


@register
class ImageTextFamily(ProcessorFamily):
    """A decoder whose sequence contains the image's features and the text."""

    name = "image_text"
    generates = True
    learned = ()

    @classmethod
    def accepts(cls, config: PretrainedConfig) -> bool:
        architecture = (config.architectures or [""])[0]
        known = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.get(config.model_type)
        return architecture == known and not _writes_apart(config) and config.model_type not in READ_ONLY

    # ---- training ----------------------------------------------------------------------------------------

    def training_inputs(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        inputs = self._prompts(samples)
        answers = [self.answer_ids([s.answer or ""], self._asked(s))[0] for s in samples]
        begins = inputs["attention_mask"].sum(1).tolist()
        self._widen(inputs, max(begin + len(answer) for begin, answer in zip(begins, answers)))
        labels = torch.full_like(inputs["input_ids"], IGNORED)
        for row, (begin, answer) in enumerate(zip(begins, answers)):
            places = slice(begin, begin + len(answer))
            inputs["input_ids"][row, places] = labels[row, places] = torch.tensor(answer)
            inputs["attention_mask"][row, places] = 1
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
        if hasattr(self.model, "qformer") or self.model.config.model_type == "git":
            return None  # its forward method takes no cache, or its cache holds more than its positions say
        return self._one_by_one(samples, answers)

    def _one_by_one(self, samples: Sequence[Sample], answers: Sequence[str]) -> Iterator[Opening]:
        """One sample at a time, since Qwen2-VL stores the image's position in the last prompt."""
        for place, sample in enumerate(samples):
            ends, inputs = self.answer_ids(answers, self._asked(sample)), self._prompts([sample])
            length = int(inputs["attention_mask"].sum())
            self._widen(inputs, length)
            longest = torch.ones(1, length + max(map(len, ends)))
            self.check_length([sample], {"input_ids": longest, "attention_mask": longest})
            inputs = self.to_device(inputs)
            ids = inputs.pop("input_ids")
            inputs.pop("attention_mask")
            yield Opening([place], ids, ends, self.model, {}, inputs)

    # ---- tokens ------------------------------------------------------------------------------------------

    @property
    def ends(self) -> list[int]:
        """The ids at which generation stops: chat models have several, for a turn and for a text."""
        known = getattr(getattr(self.model, "generation_config", None), "eos_token_id", None)
        if isinstance(known, list):
            return known
        ids = (known, self.tokenizer.eos_token_id, self.tokenizer.sep_token_id)
        if ids == (None, None, None):
            raise UserError(
                f"{self.title}: neither the model nor its tokenizer defines an end token: set one in "
                "config.json"
            )
        return [next(number for number in ids if number is not None)]

    @property
    def end(self) -> int:
        """The id of the end token of an answer."""
        return self.ends[0]

    def _prompts(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """Inputs of the prompts only, after learned tokens, padded on the right, without an end token."""
        images = [open_image(sample.image) for sample in samples]
        inputs = self.process([self._asked(sample) for sample in samples], images)
        inputs.setdefault("attention_mask", torch.ones_like(inputs["input_ids"]))
        last = inputs["attention_mask"].sum(1, keepdim=True) - 1
        ends = inputs["input_ids"].gather(1, last) == self.end
        if bool(ends.all()):  # tokenizers of encoders put one there
            inputs["attention_mask"].scatter_(1, last, 0)
            inputs["input_ids"].scatter_(1, last, self.tokenizer.pad_token_id)
        count, mask = len(self.learned), inputs["attention_mask"]
        for name in self._token_wise(inputs):
            inputs[name] = nn.functional.pad(inputs[name], (count, 0), value=int(inputs[name] is mask))
        inputs["input_ids"][:, :count] = torch.tensor(self.learned)
        return inputs

    def _asked(self, sample: Sample) -> str:
        if getattr(self.processor, "chat_template", None):
            return self.chat(sample.prompt, add_generation_prompt=True)
        return self.with_image_place(sample.prompt)

    def _token_wise(self, inputs: dict[str, Tensor]) -> list[str]:
        """Names of the inputs with a value for each token."""
        shape = inputs["input_ids"].shape
        return [name for name, value in inputs.items() if isinstance(value, Tensor) and value.shape == shape]

    def _widen(self, inputs: dict[str, Tensor], length: int) -> None:
        """Pad (or truncate) the inputs of :meth:`_token_wise` to a length, on the right."""
        for name in self._token_wise(inputs):
            empty = self.tokenizer.pad_token_id if name == "input_ids" else 0
            more = (0, length - inputs[name].shape[1])
            inputs[name] = nn.functional.pad(inputs[name], more, value=empty)


@register
class VisionEncoderDecoderFamily(ProcessorFamily):
    """An image encoder and a text decoder, for analysis only."""

    name = "vision_encoder_decoder"

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
        return ["decoder"]

    def text_batch(self, samples: list[Sample], images: list[Image.Image] | None) -> Batch:
        texts = [self.full_text(sample, images is not None) for sample in samples]
        inputs = self.process(texts, images)
        for name in ("input_ids", "attention_mask", "labels"):  # the decoder's text, taken for an encoder's
            inputs.pop(name, None)
        written = [f"{sample.prompt} {sample.answer}".strip() for sample in samples]
        text = self.decoder_text(inputs, written, [sample.prompt for sample in samples])
        return Batch(samples, inputs, None, text, self.seen(inputs, images))


def _writes_apart(config: PretrainedConfig) -> bool:
    parts = (config, config.get_text_config())
    return any(getattr(part, "is_encoder_decoder", False) for part in parts)
