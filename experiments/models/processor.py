"""Any other transformers model, through its own processor, tokenizer or image processor.

This family reads: it makes the inputs whose attention graphs the analysis commands look at, for text models,
image models, dual encoders and encoder-decoders alike. Families that also write answers derive from it.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import replace
from functools import cached_property

import torch
import transformers
from PIL import Image
from torch import Tensor, nn
from transformers import AutoModel, AutoProcessor, PretrainedConfig, PreTrainedTokenizerBase

from adapters.peft.places import OTHER_SIDES
from attngraph.errors import UserError
from attngraph.reading.families.vilt_order import in_order
from experiments.models.batch import BYTES, Batch, Sample, Text, pieces_of
from experiments.models.family import Checkpoint, ModelFamily, register
from experiments.models.images import Pictures, open_image, seen
from experiments.models.weights import load_weights

UNLIMITED = 1_000_000  # tokenizers without a limit name a number above


@register
class ProcessorFamily(ModelFamily):
    """A model with a processor (or a tokenizer, or an image processor) in the same folder."""

    name = "processor"
    writes = False  # whether it writes answers, for which all weights are needed

    def __init__(self, model: nn.Module, processor):
        self.model, self.processor = model, processor
        is_tokenizer = isinstance(processor, PreTrainedTokenizerBase)
        self.tokenizer = processor if is_tokenizer else getattr(processor, "tokenizer", None)
        alone = None if is_tokenizer or self.tokenizer else processor
        self.image_processor = getattr(processor, "image_processor", alone)
        self.sees, self.reads = self.image_processor is not None, self.tokenizer is not None
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
        return cls(cls.load_model(checkpoint), cls.load_processor(checkpoint))

    @classmethod
    def load_model(cls, checkpoint: Checkpoint) -> nn.Module:
        """The model of the class that its configuration names."""
        kind = getattr(transformers, (checkpoint.config.architectures or [""])[0], AutoModel)
        return in_order(load_weights(kind, checkpoint, complete=cls.writes))

    @classmethod
    def load_processor(cls, checkpoint: Checkpoint):
        """Its processor."""
        return AutoProcessor.from_pretrained(checkpoint.name, **checkpoint.options)

    # ---- inputs ------------------------------------------------------------------------------------------

    def check(self, samples: Sequence[Sample]) -> None:
        name = type(self.model).__name__
        if self.image_processor is None and hasattr(self.processor, "feature_extractor"):
            raise UserError(
                f"{name} listens to sound, which is not read here: capture its graphs in Python "
                "(attngraph.capture)"
            )
        if self.image_processor is not None and samples[0].image is None:
            raise UserError(f"{name} looks at images: give --images")
        if self.tokenizer is not None and any(sample.answer is None for sample in samples):
            raise UserError(f"{name} reads text: give --texts")

    def batch(self, samples: Sequence[Sample]) -> Batch:
        samples = list(samples)
        images = None if self.image_processor is None else [open_image(sample.image) for sample in samples]
        if self.tokenizer is None:
            inputs = dict(self.processor(images=images, return_tensors="pt"))
            return Batch(samples, inputs, pictures=self.pictures(inputs, images))
        return self.text_batch(samples, images)

    def text_batch(self, samples: list[Sample], images: list[Image.Image] | None) -> Batch:
        """:meth:`batch` of a model that reads texts."""
        decodes = self.writes_apart
        read = [
            replace(s, answer="") if decodes and s.prompt else s for s in samples
        ]  # the decoder has the answer
        texts = [self.full_text(sample, images is not None) for sample in read]
        inputs = self.process(texts, images)
        pictures = None if images is None else self.pictures(inputs, images)
        self.check_length(samples, inputs)
        text = Text.of(self.tokenizer, inputs["input_ids"], inputs.get("attention_mask"))
        if decodes:
            decoder = self.decoder_text(inputs, [s.answer for s in samples], [""] * len(samples))
            return Batch(samples, inputs, text, decoder, pictures)
        return Batch(
            samples, inputs, self._with_answers(text, samples, texts, images is not None), None, pictures
        )

    def process(self, texts: list[str], images: list[Image.Image] | None) -> dict[str, Tensor]:
        """The processor's tensors, padded on the right."""
        options = self.options(texts, images is not None)
        if images is None:
            return dict(self.processor(texts, **options))
        grouped = (
            [[image] for image in images] if self.places_in_text else images
        )  # a text could hold several
        return dict(self.processor(images=grouped, text=texts, **options))

    def options(self, texts: list[str], with_image: bool) -> dict:
        """Of the processor: padding, truncation where no image's place can be cut off, no second start
        token.
        """
        # Models without a mask read padding, always as much of it (SigLIP).
        masked = "attention_mask" in self.tokenizer.model_input_names
        padding = True if masked or self.longest is None else "max_length"
        options = {"return_tensors": "pt", "padding": padding, "padding_side": "right"}
        if not (with_image and self.places_in_text):
            options |= {"truncation": True, "max_length": self.longest}
        start = self.tokenizer.bos_token
        if start and all(text.startswith(start) for text in texts):  # a chat template wrote it
            options["add_special_tokens"] = False
        return options

    def full_text(self, sample: Sample, with_image: bool) -> str:
        """Prompt and answer, after the image's place where the model reads both in one sequence."""
        text = f"{sample.prompt} {sample.answer}".strip()
        if with_image and getattr(self.processor, "chat_template", None):
            return self.processor.apply_chat_template(self.turns(sample), tokenize=False)
        return self.with_image_place(text) if with_image else text

    def turns(self, sample: Sample) -> list[dict]:
        """A conversation: the user shows the image and asks, the assistant answers."""
        question = [{"type": "image"}, {"type": "text", "text": sample.prompt or sample.answer}]
        turns = [{"role": "user", "content": question}]
        if sample.prompt:
            turns.append({"role": "assistant", "content": [{"type": "text", "text": sample.answer}]})
        return turns

    def with_image_place(self, text: str) -> str:
        """The text after the token that keeps the image's place, unless the processor puts it there."""
        token = getattr(self.processor, "image_token", None)
        return f"{token} {text}" if isinstance(token, str) and not self._adds_image_place else text

    def pictures(self, inputs: dict[str, Tensor], images: list[Image.Image]) -> Pictures:
        """What the model sees of the pictures."""
        return seen(inputs, images, self.model.config, self.image_processor)

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
        """Whether a decoder writes a text of its own, after an encoder that reads one."""
        config = self.model.config
        return any(getattr(part, "is_encoder_decoder", False) for part in (config, config.get_text_config()))

    @property
    def longest(self) -> int | None:
        """How many tokens a text may have; None where nothing is said."""
        config = self.model.config.get_text_config()
        limits = self.tokenizer.model_max_length, getattr(config, "max_position_embeddings", None)
        return min((limit for limit in limits if limit is not None and limit < UNLIMITED), default=None)

    @property
    def places_in_text(self) -> bool:
        """Whether the text holds the images' places."""
        return any(getattr(self.processor, name, None) for name in ("image_token", "chat_template"))

    @cached_property
    def _adds_image_place(self) -> bool:
        """Whether the processor itself puts the image's place into a text that has none."""
        token = getattr(self.processor, "image_token_id", None)
        try:
            tensors = self.processor(images=[[Image.new("RGB", (64, 64))]], text=["a"], return_tensors="pt")
        except Exception:  # some insist on it, each with errors of its own
            return False
        return token is not None and bool((tensors["input_ids"] == token).any())

    def check_length(self, samples: Sequence[Sample], inputs: dict[str, Tensor]) -> None:
        """Raise UserError where a text that holds an image's place is too long: it can't be cut."""
        lengths = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"])).sum(1)
        if self.longest is not None and int(lengths.max()) > self.longest:
            longest = samples[int(lengths.argmax())].name
            raise UserError(
                f"the text of {longest} has {int(lengths.max())} tokens with its image, and "
                f"{type(self.model).__name__} reads at most {self.longest}: give a shorter text"
            )

    def known_token(self, kind: str, *ids: int | list[int] | None) -> int:
        """The first id that is known, for a start or end token; of several that a model ends with, the first.

        Raises:
            UserError: none is known.
        """
        known = next((number for number in ids if number is not None), None)
        if known is None:
            raise UserError(
                f"{self.title}: neither the model nor its tokenizer names a {kind} token: name one in "
                "config.json or tokenizer_config.json"
            )
        return known[0] if isinstance(known, list) else known

    def answer_ids(self, answer: str, before: str) -> list[int]:
        """The tokens of an answer as they stand after a text, without special ones."""
        return self.tokenizer(self._space(before) * bool(answer) + answer, add_special_tokens=False)[
            "input_ids"
        ]

    def continuations(self, answers: Sequence[str], texts: Sequence[str]) -> list[list[list[int]]]:
        """The tokens of each answer, and an end token, as they stand after each of the texts; the same object
        where they are the same."""
        spaces = [self._space(text) for text in texts]
        after = {}
        for space in dict.fromkeys(spaces):
            spaced = [space * bool(answer) + answer for answer in answers]
            ids = self.tokenizer(spaced, add_special_tokens=False)["input_ids"]
            after[space] = [[*tokens, self.end] for tokens in ids]
        return [after[space] for space in spaces]

    def _space(self, before: str) -> str:
        """What separates an answer from the text before it: vocabularies of bytes (GPT-2, Qwen) hold the
        space between two words in the second one's token."""
        follows_word = bool(before) and not before[-1].isspace()
        follows_word &= not before.endswith(tuple(self.tokenizer.all_special_tokens))
        return " " if follows_word and pieces_of(self.tokenizer) == BYTES else ""

    # ---- where answers begin -----------------------------------------------------------------------------

    def decoder_text(self, inputs: dict[str, Tensor], texts: list[str], prompts: list[str]) -> Text:
        """Puts the texts into the inputs as the decoder gets them, a start token first, and returns them."""
        options = dict(padding=True, padding_side="right", truncation=True, max_length=self.longest)
        encoded = self.tokenizer(texts, return_tensors="pt", return_attention_mask=True, **options)
        ids, mask = encoded["input_ids"], encoded["attention_mask"]
        shift = getattr(self.model, "prepare_decoder_input_ids_from_labels", None)
        if shift is not None:
            ids = shift(labels=ids)  # as many of them: a start token comes in, and each text's last goes out
        inputs |= {"decoder_input_ids": ids, "decoder_attention_mask": mask}
        text = Text.of(self.tokenizer, ids, mask)
        unknown = self.tokenizer.unk_token_id  # None where there is no such token
        opening = text.special if unknown is None else text.special & (ids != unknown)
        lengths = [self._length(prompt) for prompt in prompts]
        before = opening.long().cumprod(1).sum(1) + torch.tensor(lengths)
        return replace(text, prompt=torch.minimum(before, mask.sum(1)).clamp(min=1))

    def _length(self, prompt: str) -> int:
        return len(self.tokenizer(prompt, add_special_tokens=False)["input_ids"]) if prompt else 0

    def _with_answers(
        self, text: Text, samples: Sequence[Sample], texts: list[str], with_image: bool
    ) -> Text:
        """With the place where each answer begins, if there are prompts."""
        if not all(sample.prompt for sample in samples):
            return text
        ends = (~text.padding).int().cumsum(1).argmax(1) + 1  # after the last that is no padding
        return replace(
            text, prompt=(ends - torch.tensor(self.answer_lengths(samples, texts, with_image))).clamp(min=1)
        )

    def answer_lengths(self, samples: Sequence[Sample], texts: list[str], with_image: bool) -> list[int]:
        """How many tokens follow the beginning that a whole text shares with its prompt alone (an image's
        place counts as one in both)."""
        prompts = [self.full_text(replace(sample, answer=""), with_image) for sample in samples]
        options = self.options(texts, with_image) | {"return_tensors": None, "padding": False}
        lengths = []
        for whole, prompt in zip(
            *(self.tokenizer(part, **options)["input_ids"] for part in (texts, prompts))
        ):
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
