"""BLIP captioners (``BlipForConditionalGeneration``), the mini-BLIP among them.

A text is ``[DEC] prompt answer [SEP]`` in the text decoder: the prompt is its prefix, the loss covers the
answer and the end token. The image encoder's states can be computed once and cached.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    BlipImageProcessor,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from attngraph.errors import UserError
from experiments.models.batch import Batch, Sample
from experiments.models.family import Checkpoint, Decoding, ModelFamily, register
from experiments.models.generation import (
    decoder_logits,
    decoder_openings,
    encode_images,
    frozen_image_states,
    generate_text,
    prompt_ids,
    sequence_batch,
)
from experiments.models.mini_blip import CHECKPOINT, DESCRIBE, IMAGE_MEAN, IMAGE_STD, load_model, preprocess
from experiments.models.pictures import Pictures
from experiments.models.positions import interpolate_positions, rows_of
from experiments.models.ranking import Opening
from experiments.models.released import released_texts
from experiments.models.text import Text
from experiments.models.weights import load_weights

MINI = "mini_blip"  # what tasks call checkpoints of `attngraph pretrain`, the shipped one among them
SMALL = 10_000  # words; BLIP knows 30,524, those checkpoints only the words of scenes


class BlipImages(ModelFamily):
    """What BLIP's two families and mPLUG share: the image encoder, its states and pixels.

    Attributes:
        mean, std: of each colour, by which pixels are normalised; as the checkpoint's processor says, if
            there is one.
    """

    caches_features = True
    mean: tuple[float, ...] = IMAGE_MEAN
    std: tuple[float, ...] = IMAGE_STD
    tokenizer: PreTrainedTokenizerBase

    @property
    def longest(self) -> int:
        """How many tokens a text may have."""
        return self.tokenizer.model_max_length

    @classmethod
    def assembled(
        cls, kind: type[PreTrainedModel], checkpoint: Checkpoint, prepare: Callable[[Any, Any], Any]
    ) -> Self:
        """A family of a checkpoint's model, tokenizer and processor.

        Args:
            kind: the model's class.
            checkpoint: where they are.
            prepare: makes the tokenizer that of the model, of both the tokenizer and the configuration.
        """
        model = load_weights(kind, checkpoint, attn_implementation="eager")
        tokenizer = AutoTokenizer.from_pretrained(checkpoint.name, **checkpoint.options)
        family = cls(model, prepare(tokenizer, model.config))
        family.read_processor(checkpoint)
        return family

    def read_processor(self, checkpoint: Checkpoint) -> None:
        """Take over the settings of the processor in a checkpoint."""
        try:
            found, _ = BlipImageProcessor.get_image_processor_dict(
                checkpoint.name or CHECKPOINT, **checkpoint.options
            )
        except OSError:  # there is none
            return
        self.mean = tuple(found.get("image_mean") or IMAGE_MEAN)
        self.std = tuple(found.get("image_std") or IMAGE_STD)

    def pixels(self, images: Sequence[Path | Image.Image]) -> Tensor:
        """Pictures as the image encoder takes them: ``(b, 3, side, side)``."""
        return preprocess(images, self.image_side, self.mean, self.std)

    def check(self, samples: Sequence[Sample]) -> None:
        if samples[0].image is None:
            raise UserError(f"{self.title} looks at images: give --images")

    def image_encoder(self) -> nn.Module:
        return self.model.vision_model

    @property
    def image_settings(self) -> str:
        return f"{self.image_side} {self.mean} {self.std}"

    @property
    def image_side(self) -> int:
        return self.model.config.vision_config.image_size

    def resize(self, side: int) -> None:
        """The image encoder's positions are interpolated as BLIP does it, see
        :func:`experiments.models.positions.interpolate_positions`.
        """
        vision, embeddings = self.model.config.vision_config, self.model.vision_model.embeddings
        rows = rows_of(side, vision.patch_size)
        old = embeddings.position_embedding
        new = interpolate_positions(old.detach(), rows)
        embeddings.position_embedding = nn.Parameter(new, old.requires_grad)
        embeddings.num_patches, embeddings.num_positions = rows * rows, rows * rows + 1
        for config in (vision, embeddings):
            config.image_size = side

    def encode_images(self, images: Sequence[Path | Image.Image]) -> Tensor:
        return frozen_image_states(self.model, self.pixels(images).to(self.device))

    def blank_image(self) -> Tensor:
        vision = self.model.config.vision_config
        return torch.zeros((vision.image_size // vision.patch_size) ** 2 + 1, vision.hidden_size)

    def image_inputs(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """``image_states`` ``(b, nodes, width)`` where samples hold states; else ``pixel_values`` of the
        different pictures and, for each sample, its place among them."""
        images = [sample.image for sample in samples]
        if isinstance(images[0], Tensor):
            return {"image_states": torch.stack(images)}
        keys = [image if isinstance(image, Path) else id(image) for image in images]
        different = dict(zip(keys, images))
        place = {key: k for k, key in enumerate(different)}
        return {
            "pixel_values": self.pixels(list(different.values())),
            "image_index": torch.tensor([place[key] for key in keys]),
        }

    def image_states(self, inputs: dict[str, Tensor]) -> Tensor:
        """States ``(b, nodes, width)`` of :meth:`image_inputs`: with gradients if the image encoder is
        trained, else the very states that :meth:`encode_images` gives to the cache.
        """
        if "image_states" in inputs:
            return inputs["image_states"]
        pixels, encoder = inputs["pixel_values"], self.image_encoder()
        if any(parameter.requires_grad for parameter in encoder.parameters()):
            return encode_images(self.model, pixels)[inputs["image_index"]]
        encoder.eval()  # a frozen encoder has no dropout, whatever mode the model is in
        with torch.autocast(pixels.device.type, enabled=False):
            return frozen_image_states(self.model, pixels)[inputs["image_index"]]

    def shown(self, samples: Sequence[Sample]) -> tuple[Tensor, Pictures]:
        """Pixels of the samples' pictures, and the pictures as the model sees them."""
        images = [sample.image for sample in samples]
        pixels = self.pixels(images)
        side = self.image_side // self.model.config.vision_config.patch_size
        size = (self.image_side, self.image_side)
        resized = [image.convert("RGB").resize(size, Image.Resampling.BICUBIC) for image in images]
        return pixels, Pictures(resized, [(side, side)] * len(images), whole=True)


@register
class BlipCaptioner(BlipImages):
    """``[DEC] prompt answer [SEP]`` in the text decoder, which looks at the image by cross-attention."""

    name = "blip"
    writes_as_released = True
    shortlist = 32  # p-Adapter's k_test, whose VQA model is a captioner

    def __init__(self, model: nn.Module, tokenizer: PreTrainedTokenizerBase, opening: str = ""):
        self.model, self.tokenizer = model, tokenizer
        self.opening = opening  # the prompt for a description of the model's own

    @classmethod
    def accepts(cls, config: PretrainedConfig) -> bool:
        return "BlipForConditionalGeneration" in (config.architectures or ())

    @classmethod
    def load(cls, checkpoint: Checkpoint) -> BlipCaptioner:
        model, tokenizer = load_model(checkpoint.name, checkpoint.download)
        family = cls(model, tokenizer, DESCRIBE if checkpoint.name is None else "")
        family.read_processor(checkpoint)
        if len(tokenizer) < SMALL and tokenizer.unk_token_id not in tokenizer(DESCRIBE)["input_ids"]:
            family.name = MINI  # it was pre-trained with another prompt than BLIP
        return family

    def language_side(self) -> list[str]:
        return ["text_decoder"]

    def batch(self, samples: Sequence[Sample]) -> Batch:
        pixels, pictures = self.shown(samples)
        prompts, answers = [s.prompt for s in samples], [s.answer for s in samples]
        if None in answers:
            # Described without adapters, so that all states of an adapted model read the same.
            prompts = [self.opening] * len(samples)
            with self.unadapted():
                states = frozen_image_states(self.model, pixels.to(self.device))
                answers = generate_text(self.model, self.tokenizer, states, prompts)
        sequences = sequence_batch(self.tokenizer, prompts, answers)
        ids, mask = sequences["input_ids"], sequences["attention_mask"]
        longest = self.tokenizer.model_max_length
        prefixes = prompt_ids(self.tokenizer, prompts, [1] * len(prompts))
        begins = torch.tensor([len(prefix) for prefix in prefixes])
        text = Text.of(self.tokenizer, ids, mask, begins.clamp(max=longest))
        inputs = {"pixel_values": pixels, "input_ids": ids, "attention_mask": mask}
        return Batch(list(samples), inputs, text, pictures=pictures)

    def training_inputs(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        sequences = sequence_batch(
            self.tokenizer, [s.prompt for s in samples], [s.answer or "" for s in samples]
        )
        return {**sequences, **self.image_inputs(samples)}

    def logits(self, inputs: dict[str, Tensor]) -> Tensor:
        return decoder_logits(self.model, self.image_states(inputs), inputs)

    @torch.no_grad()
    def generate(self, samples: Sequence[Sample], decoding: Decoding) -> list[str]:
        if decoding.as_released:
            return released_texts(self.openings(samples, [""]), self.tokenizer, *decoding.limits)
        states = self.image_states(self.to_device(self.image_inputs(samples)))
        prompts = [sample.prompt for sample in samples]
        return generate_text(
            self.model,
            self.tokenizer,
            states,
            prompts,
            decoding.max_new_tokens,
            decoding.num_beams,
            decoding.min_new_tokens,
            length_penalty=decoding.exponent,
        )

    def openings(self, samples: Sequence[Sample], answers: Sequence[str]) -> Iterator[Opening]:
        states = self.image_states(self.to_device(self.image_inputs(samples)))
        return decoder_openings(self.model, self.tokenizer, states, [s.prompt for s in samples], answers)
