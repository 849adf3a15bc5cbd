"""Images and texts as a model's inputs, for BLIP captioners and for any other transformers model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
import transformers
from PIL import Image
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoProcessor,
    BlipForQuestionAnswering,
    PreTrainedTokenizerBase,
    TrOCRProcessor,
)

from attngraph.errors import UserError
from attngraph.reading.vilt_order import in_order
from experiments.inspect.pictures import Pictures, seen
from experiments.inspect.words import Text
from experiments.models.generation import frozen_image_states, generate_text, prompt_ids, sequence_batch
from experiments.models.mini_blip import load_model, preprocess
from experiments.scenes.scene import Scene
from experiments.tasks import TASKS


@dataclass(frozen=True)
class Item:
    """One example: a prompt and a text that goes on from it (None: the model's own), and an image (or none)."""

    name: str
    prompt: str
    text: str | None
    image: Path | Image.Image | None
    scene: Scene | None = None


@dataclass(frozen=True)
class Encoded:
    """A batch as the model gets it.

    Args:
        inputs: keyword arguments for the model.
        text: what it reads: a decoder's text in BLIP and in models of one stack, the encoder's in encoder-decoders.
        decoder: of encoder-decoders, the decoder's own text.
        pictures: what it sees.
    """

    inputs: dict[str, Tensor]
    text: Text | None = None
    decoder: Text | None = None
    pictures: Pictures | None = None


class Encoder(ABC):
    """Makes a model's inputs.

    Attributes:
        model: which model.
        sees, reads: whether it looks at images, and whether it reads texts.
        unadapted: a context in which its adapters are switched off.
    """

    model: nn.Module
    sees: bool = True
    reads: bool = True
    unadapted: Callable[[], AbstractContextManager] = nullcontext

    @abstractmethod
    def check(self, items: Sequence[Item]) -> None:
        """Raises UserError where the items lack what the model needs."""

    @abstractmethod
    def encode(self, items: Sequence[Item], images: Sequence[Image.Image] | None) -> Encoded:
        """Inputs for the items, whose images are given if they have any."""


def load_with_encoder(name: str | None, download: bool = False) -> tuple[nn.Module, Encoder]:
    """A model and what makes its inputs.

    Args:
        name: folder or hub name of a transformers model; None for the mini-BLIP.
        download: look on the hub for what is not on this machine.

    Raises:
        UserError: it cannot be loaded.
    """
    options = {"local_files_only": not download}
    if (
        name is not None
        and not (Path(name) / "config.json").exists()
        and (Path(name).exists() or "/" not in name.strip("/"))
    ):
        raise UserError(
            f"--model {name}: no folder with a config.json, and no hub name of the form owner/name"
        )
    try:
        config = None if name is None else AutoConfig.from_pretrained(name, **options)
        if config is None or "BlipForConditionalGeneration" in (config.architectures or ()):
            model, tokenizer = load_model(name, download)
            return model, BlipEncoder(model, tokenizer, own=name is None)
        kind = getattr(transformers, (config.architectures or [""])[0], AutoModel)
        model = kind.from_pretrained(name, use_safetensors=True, dtype=torch.float32, **options).eval()
        in_order(model)
        processor = AutoProcessor.from_pretrained(name, **options)
        if config.model_type == "vision-encoder-decoder" and isinstance(
            processor, PreTrainedTokenizerBase
        ):  # saved apart
            processor = TrOCRProcessor(AutoImageProcessor.from_pretrained(name, **options), processor)
        return model, ProcessorEncoder(model, processor)
    except UserError:
        raise
    except Exception as error:  # whatever is wrong with the files means the same to the user
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"--model {name} cannot be loaded ({reason}): give a folder with config.json, model.safetensors and "
            "the tokenizer's or processor's files, or allow the download (--download)"
        ) from None


class BlipEncoder(Encoder):
    """For BLIP captioners: ``[DEC] prompt text [SEP]`` in the text decoder, padded on the right."""

    def __init__(self, model: nn.Module, tokenizer: PreTrainedTokenizerBase, own: bool):
        self.model, self.tokenizer = model, tokenizer
        vision = model.config.vision_config
        self.size, self.grid = vision.image_size, (vision.image_size // vision.patch_size,) * 2
        self.opening = TASKS["caption"].prompt(None) if own else ""  # before a description of its own

    def check(self, items: Sequence[Item]) -> None:
        if items[0].image is None:
            raise UserError("BLIP looks at images: give --images")

    def encode(self, items: Sequence[Item], images: Sequence[Image.Image] | None) -> Encoded:
        pixels = preprocess(images, self.size)
        prompts, texts = [item.prompt for item in items], [item.text for item in items]
        if None in texts:
            device = next(self.model.parameters()).device
            states = frozen_image_states(self.model, pixels.to(device))
            prompts = [self.opening] * len(items)
            with self.unadapted():  # so that all states of an adapted model read the same
                texts = generate_text(self.model, self.tokenizer, states, prompts)
        batch = sequence_batch(self.tokenizer, prompts, texts)
        room = self.tokenizer.model_max_length
        lengths = torch.tensor([len(prompt_ids(self.tokenizer, prompt, 1)) for prompt in prompts]).clamp(
            max=room
        )
        shown = [
            image.convert("RGB").resize((self.size, self.size), Image.Resampling.BICUBIC) for image in images
        ]
        inputs = {
            "pixel_values": pixels,
            "input_ids": batch["input_ids"],
            "attention_mask": batch["attention_mask"],
        }
        text = Text.of(self.tokenizer, batch["input_ids"], batch["attention_mask"], lengths)
        return Encoded(inputs, text, pictures=Pictures(shown, [self.grid] * len(items), whole=True))


class ProcessorEncoder(Encoder):
    """For any other model, through its own processor, tokenizer or image processor."""

    def __init__(self, model: nn.Module, processor):
        self.model, self.processor = model, processor
        is_text = isinstance(processor, PreTrainedTokenizerBase)
        self.tokenizer = processor if is_text else getattr(processor, "tokenizer", None)
        self.vision = getattr(processor, "image_processor", None if is_text or self.tokenizer else processor)
        self.sees, self.reads = self.vision is not None, self.tokenizer is not None
        if self.tokenizer is not None:
            self.tokenizer.padding_side = "right"
            if self.tokenizer.pad_token is None:
                self.tokenizer.pad_token = self.tokenizer.eos_token

    def check(self, items: Sequence[Item]) -> None:
        name = type(self.model).__name__
        if self.vision is None and hasattr(self.processor, "feature_extractor"):
            raise UserError(
                f"{name} listens to sound, which is not read here: capture its graphs in Python (attngraph.capture)"
            )
        if self.vision is not None and items[0].image is None:
            raise UserError(f"{name} looks at images: give --images")
        if self.tokenizer is not None and any(item.text is None for item in items):
            raise UserError(f"{name} reads text: give --texts")

    def encode(self, items: Sequence[Item], images: Sequence[Image.Image] | None) -> Encoded:
        images = None if self.vision is None else list(images)
        if self.tokenizer is None:
            inputs = dict(self.processor(images=images, return_tensors="pt"))
            return Encoded(inputs, pictures=self._pictures(inputs, images))
        decodes = self._decodes
        read = [
            replace(item, text="") if decodes and item.prompt else item for item in items
        ]  # the decoder writes the text
        texts = [self._text(item, images is not None) for item in read]
        options = self._options(texts, images is not None)
        if images is None:
            inputs = dict(self.processor(texts, **options))
        else:  # a list for each text where a text could hold several
            given = [[image] for image in images] if self._holds_images else images
            inputs = dict(self.processor(images=given, text=texts, **options))
        pictures = None if images is None else self._pictures(inputs, images)
        if (
            self.model.config.model_type == "vision-encoder-decoder"
        ):  # the processor takes the decoder's text for more
            for name in ("input_ids", "attention_mask", "labels"):
                inputs.pop(name, None)
            texts, prompts = (
                [f"{item.prompt} {item.text}".strip() for item in items],
                [item.prompt for item in items],
            )
            return Encoded(inputs, None, self._decoder(inputs, texts, prompts), pictures)
        self._check_length(items, inputs)
        text = Text.of(self.tokenizer, inputs["input_ids"], inputs.get("attention_mask"))
        if decodes:
            decoder = self._decoder(inputs, [item.text for item in items], [""] * len(items))
            return Encoded(inputs, text, decoder, pictures)
        return Encoded(inputs, self._prompted(text, items, texts, images is not None), None, pictures)

    def _options(self, texts: list[str], with_image: bool) -> dict:
        """Of the processor: padding, truncation where no image's place can be cut off, and no second start token."""
        masked = (
            "attention_mask" in self.tokenizer.model_input_names
        )  # else padding is read: always as much of it (SigLIP)
        found = {
            "return_tensors": "pt",
            "padding": True if masked or self.longest is None else "max_length",
            "padding_side": "right",
        }  # some processors have a side of their own, and models count from the padding on
        if not (with_image and self._holds_images):
            found |= {"truncation": True, "max_length": self.longest}
        start = self.tokenizer.bos_token
        if start and all(text.startswith(start) for text in texts):  # a chat template wrote it
            found["add_special_tokens"] = False
        return found

    @property
    def _decodes(self) -> bool:
        """Whether a decoder writes a text of its own, after an encoder that reads one."""
        config = self.model.config
        return any(
            getattr(one, "is_encoder_decoder", False) for one in (config, config.get_text_config())
        ) or isinstance(self.model, BlipForQuestionAnswering)

    @cached_property
    def _places_images(self) -> bool:
        """Whether the processor itself puts the image's place into a text that has none."""
        token = getattr(self.processor, "image_token_id", None)
        try:
            made = self.processor(images=[[Image.new("RGB", (64, 64))]], text=["a"], return_tensors="pt")
        except Exception:  # some insist on it, each with errors of its own
            return False
        return token is not None and bool((made["input_ids"] == token).any())

    @property
    def longest(self) -> int | None:
        """How many tokens a text may have; None where nothing is said."""
        config = self.model.config.get_text_config()
        known = self.tokenizer.model_max_length, getattr(config, "max_position_embeddings", None)
        return min((most for most in known if most is not None and most < 1_000_000), default=None)

    @property
    def _holds_images(self) -> bool:
        """Whether the text holds the images' places."""
        return any(getattr(self.processor, name, None) for name in ("image_token", "chat_template"))

    def _check_length(self, items: Sequence[Item], inputs: dict[str, Tensor]) -> None:
        many = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"])).sum(1)
        if self.longest is not None and int(many.max()) > self.longest:
            raise UserError(
                f"the text of {items[int(many.argmax())].name} has {int(many.max())} tokens with its image, and "
                f"{type(self.model).__name__} reads at most {self.longest}: give a shorter text"
            )

    def _decoder(self, inputs: dict[str, Tensor], texts: list[str], prompts: list[str]) -> Text:
        """Puts the texts into the inputs as the decoder gets them, a start token first, and returns them."""
        given = self.tokenizer(
            texts,
            return_tensors="pt",
            padding=True,
            padding_side="right",
            truncation=True,
            max_length=self.longest,
            return_attention_mask=True,
        )
        ids, mask = given["input_ids"], given["attention_mask"]
        shift = getattr(self.model, "prepare_decoder_input_ids_from_labels", None)
        if shift is not None:
            ids = shift(labels=ids)  # as many of them: a start token comes in, and each text's last goes out
        inputs |= {"decoder_input_ids": ids, "decoder_attention_mask": mask}
        text = Text.of(self.tokenizer, ids, mask)
        unknown = self.tokenizer.unk_token_id  # None where there is no such token
        opening = text.special if unknown is None else text.special & (ids != unknown)
        asked = [
            len(self.tokenizer(prompt, add_special_tokens=False)["input_ids"]) if prompt else 0
            for prompt in prompts
        ]
        before = opening.long().cumprod(1).sum(1) + torch.tensor(asked)
        return replace(text, prompt=torch.minimum(before, mask.sum(1)).clamp(min=1))

    def _text(self, item: Item, with_image: bool) -> str:
        """The prompt and the text, after the image's place where the model reads both in one sequence."""
        text = f"{item.prompt} {item.text}".strip()
        if with_image and getattr(self.processor, "chat_template", None):
            asked = [{"type": "image"}, {"type": "text", "text": item.prompt or item.text}]
            turns = [{"role": "user", "content": asked}]
            if item.prompt:
                turns.append({"role": "assistant", "content": [{"type": "text", "text": item.text}]})
            return self.processor.apply_chat_template(turns, tokenize=False)
        token = getattr(self.processor, "image_token", None)
        return (
            f"{token} {text}" if with_image and isinstance(token, str) and not self._places_images else text
        )

    def _pictures(self, inputs: dict[str, Tensor], images: list[Image.Image]) -> Pictures:
        return seen(inputs, images, self.model.config, self.vision)

    def _prompted(self, text: Text, items: Sequence[Item], texts: list[str], with_image: bool) -> Text:
        """With the place where each answer begins, if there are prompts: what follows the beginning that the whole text
        shares with the prompt alone, in tokens (an image's place counts as one in both)."""
        if not all(item.prompt for item in items):
            return text
        asked = [self._text(replace(item, text=""), with_image) for item in items]
        options = self._options(texts, with_image) | {"return_tensors": None, "padding": False}
        ends = (~text.padding).int().cumsum(1).argmax(1) + 1  # after the last that is no padding
        after = []
        for whole, prompt in zip(*(self.tokenizer(some, **options)["input_ids"] for some in (texts, asked))):
            same = next(
                (k for k, (one, other) in enumerate(zip(whole, prompt)) if one != other),
                min(len(whole), len(prompt)),
            )
            after.append(len(whole) - same)
        return replace(text, prompt=(ends - torch.tensor(after)).clamp(min=1))
