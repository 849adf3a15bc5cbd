"""BLIP: captioners (``BlipForConditionalGeneration``), the mini-BLIP among them, and question answering
(``BlipForQuestionAnswering``).

A captioner's text is ``[DEC] prompt answer [SEP]`` in the text decoder: the prompt is its prefix, the loss
covers the answer and the end token. For questions there is an encoder: ``[ENC] question [SEP]`` looks at the
image by cross-attention, and the answer ``[DEC] answer [SEP]`` looks at the question's states. transformers
(5.24) ignores the question's padding there; here it is masked, as in BLIP's own code, which masks it in its
loss and in ranking. When BLIP writes answers it does not, and so it is here where a
:class:`~experiments.models.family.Decoding` asks for that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Self

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    BlipForConditionalGeneration,
    BlipForQuestionAnswering,
    BlipImageProcessor,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from attngraph.errors import UserError
from attngraph.reading.instrument import instrument
from experiments.models.batch import Batch, Sample, Text
from experiments.models.family import Checkpoint, Decoding, ModelFamily, register
from experiments.models.generation import (
    decoder_logits,
    decoder_openings,
    encode_images,
    frozen_image_states,
    generate_text,
    prompt_ids,
    released_texts,
    right_padded,
    sequence_batch,
)
from experiments.models.images import (
    IMAGE_MEAN,
    IMAGE_STD,
    Pictures,
    interpolate_positions,
    preprocess,
    rows_of,
)
from experiments.models.mini_blip import DESCRIBE, blip_base
from experiments.models.ranking import Opening
from experiments.models.weights import load_weights

MINI = "mini_blip"  # what tasks call checkpoints of `attngraph pretrain`, the shipped one among them
SMALL = 10_000  # words; BLIP knows 30,524, those checkpoints only the words of scenes
DECODER_START, ENCODER_START = "[DEC]", "[ENC]"


class BlipLike(ModelFamily):
    """What BLIP's two families and mPLUG share: an image encoder whose states can be cached, and BERT's
    decoder, which looks at these or at states that have looked at them.

    Attributes:
        kind: the model's class.
        mean, std: of each colour, by which pixels are normalised; as the checkpoint's processor says, if
            there is one.
    """

    caches_features = True
    kind: ClassVar[type[PreTrainedModel]]
    mean: tuple[float, ...] = IMAGE_MEAN
    std: tuple[float, ...] = IMAGE_STD
    tokenizer: PreTrainedTokenizerBase

    @property
    def longest(self) -> int:
        """How many tokens a text may have."""
        return self.tokenizer.model_max_length

    @classmethod
    def accepts(cls, config: PretrainedConfig) -> bool:
        return cls.kind.__name__ in (config.architectures or ()) and isinstance(config, cls.kind.config_class)

    @classmethod
    def load(cls, checkpoint: Checkpoint) -> Self:
        model = load_weights(cls.kind, checkpoint, attn_implementation="eager")
        tokenizer = AutoTokenizer.from_pretrained(checkpoint.place, **checkpoint.options)
        family = cls(model, cls.prepared(tokenizer, model.config))
        try:
            found, _ = BlipImageProcessor.get_image_processor_dict(checkpoint.place, **checkpoint.options)
        except OSError:  # there is no processor
            return family
        family.mean = tuple(found.get("image_mean") or IMAGE_MEAN)
        family.std = tuple(found.get("image_std") or IMAGE_STD)
        return family

    @classmethod
    def prepared(
        cls, tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig
    ) -> PreTrainedTokenizerBase:
        """The tokenizer with the model's start token and length.

        Raises:
            UserError: the tokenizer's start or end token is not the model's.
        """
        raise NotImplementedError

    # ---- images ------------------------------------------------------------------------------------------

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
        :func:`experiments.models.images.interpolate_positions`.
        """
        vision, embeddings = self.model.config.vision_config, self.model.vision_model.embeddings
        rows = rows_of(side, vision.patch_size)
        old = embeddings.position_embedding
        new = interpolate_positions(old.detach(), rows)
        embeddings.position_embedding = nn.Parameter(new, old.requires_grad)
        self.resized(side, rows)

    def resized(self, side: int, rows: int) -> None:
        """Note the new side, and so many rows of patches."""
        embeddings = self.model.vision_model.embeddings
        embeddings.num_patches, embeddings.num_positions = rows * rows, rows * rows + 1
        for config in (self.model.config.vision_config, embeddings):
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

    # ---- texts -------------------------------------------------------------------------------------------

    def prefixes(self, samples: Sequence[Sample]) -> list[str]:
        """How the decoder's texts begin: with nothing, where questions have an encoder of their own."""
        return [""] * len(samples)

    def question_inputs(self, samples: Sequence[Sample], training: bool = False) -> dict[str, Tensor]:
        """``question_ids`` and ``question_mask`` ``(b, n)`` of an encoder of questions."""
        return {}

    def looked_at(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """What the decoder looks at, ``(b, n, width)``, and ``(b, n)``, 0 at its padding."""
        return self.image_states(inputs), None

    def training_inputs(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        answers = [sample.answer or "" for sample in samples]
        sequences = sequence_batch(self.tokenizer, self.prefixes(samples), answers)
        return {**sequences, **self.question_inputs(samples, training=True), **self.image_inputs(samples)}

    def logits(self, inputs: dict[str, Tensor]) -> Tensor:
        states, mask = self.looked_at(inputs)
        return decoder_logits(self.model, states, inputs, mask)

    @torch.no_grad()
    def generate(self, samples: Sequence[Sample], decoding: Decoding) -> list[str]:
        if decoding.as_released:
            parts = self._openings(samples, [""], masked=False)
            return released_texts(parts, self.tokenizer, *decoding.limits)
        states, mask = self._seen(samples)
        return generate_text(self.model, self.tokenizer, states, self.prefixes(samples), decoding, mask)

    def openings(self, samples: Sequence[Sample], answers: Sequence[str]) -> Iterator[Opening]:
        return self._openings(samples, answers)

    def _openings(
        self, samples: Sequence[Sample], answers: Sequence[str], masked: bool = True
    ) -> Iterator[Opening]:
        states, mask = self._seen(samples)
        prompts = self.prefixes(samples)
        return decoder_openings(
            self.model, self.tokenizer, states, prompts, answers, mask if masked else None
        )

    def _seen(self, samples: Sequence[Sample]) -> tuple[Tensor, Tensor | None]:
        return self.looked_at(self.to_device({**self.question_inputs(samples), **self.image_inputs(samples)}))


@register
class BlipCaptioner(BlipLike):
    """``[DEC] prompt answer [SEP]`` in the text decoder, which looks at the image by cross-attention."""

    name = "blip"
    kind = BlipForConditionalGeneration
    writes_as_released = True
    shortlist = 32  # p-Adapter's k_test, whose VQA model is a captioner

    def __init__(self, model: nn.Module, tokenizer: PreTrainedTokenizerBase, opening: str = ""):
        self.model, self.tokenizer = model, tokenizer
        self.opening = opening  # the prompt for a description of the model's own

    @classmethod
    def load(cls, checkpoint: Checkpoint) -> BlipCaptioner:
        family = super().load(checkpoint)
        words, text = family.tokenizer, family.model.config.text_config
        text.eos_token_id = text.sep_token_id  # hub configurations name another
        family.opening = DESCRIBE if checkpoint.name is None else ""
        if len(words) < SMALL and words.unk_token_id not in words(DESCRIBE)["input_ids"]:
            family.name = MINI  # it was pre-trained with another prompt than BLIP
        return family

    @classmethod
    def prepared(
        cls, tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig
    ) -> PreTrainedTokenizerBase:
        return _with_starts(tokenizer, config.text_config)

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
                answers = generate_text(self.model, self.tokenizer, states, prompts, Decoding())
        sequences = sequence_batch(self.tokenizer, prompts, answers)
        ids, mask = sequences["input_ids"], sequences["attention_mask"]
        prefixes = prompt_ids(self.tokenizer, prompts, [1] * len(prompts))
        begins = torch.tensor([len(prefix) for prefix in prefixes])
        text = Text.of(self.tokenizer, ids, mask, begins.clamp(max=self.longest))
        inputs = {"pixel_values": pixels, "input_ids": ids, "attention_mask": mask}
        return Batch(list(samples), inputs, text, pictures=pictures)

    def prefixes(self, samples: Sequence[Sample]) -> list[str]:
        return [sample.prompt for sample in samples]


@register
class BlipAnswerer(BlipLike):
    """A question that looks at the image, and an answer that looks at the question."""

    name = "blip_vqa"
    kind = BlipForQuestionAnswering
    writes_as_released = True

    def __init__(self, model: nn.Module, tokenizer: PreTrainedTokenizerBase, title: str = "BLIP VQA"):
        self.model, self.tokenizer, self.title = model, tokenizer, title
        self._start = ENCODER_START if ENCODER_START in tokenizer.get_vocab() else tokenizer.cls_token
        self._reading = instrument(model)  # for its cross-attention, which heeds masks

    @classmethod
    def prepared(
        cls, tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig
    ) -> PreTrainedTokenizerBase:
        """With ``[ENC]``, too, which begins questions where the model has an embedding for it; else ``[CLS]``
        does."""
        return _with_starts(tokenizer, config.text_config, ENCODER_START)

    def language_side(self) -> list[str]:
        return ["text_encoder", "text_decoder"]

    def check(self, samples: Sequence[Sample]) -> None:
        super().check(samples)
        if any(not sample.prompt and sample.answer is None for sample in samples):
            raise UserError(f"{self.title} answers questions: give --texts")

    def batch(self, samples: Sequence[Sample]) -> Batch:
        pixels, pictures = self.shown(samples)
        # Without a prompt both sides read the text, as in every encoder-decoder.
        question, asked = self._question([sample.prompt or sample.answer or "" for sample in samples])
        answers = [sample.answer or "" for sample in samples]
        answer = sequence_batch(self.tokenizer, self.prefixes(samples), answers)
        inputs = {
            "pixel_values": pixels,
            "input_ids": question,
            "attention_mask": asked,
            "decoder_input_ids": answer["input_ids"],
            "decoder_attention_mask": answer["attention_mask"],
        }
        begins = torch.ones(len(samples), dtype=torch.long)
        decoder = Text.of(self.tokenizer, answer["input_ids"], answer["attention_mask"], begins)
        return Batch(list(samples), inputs, Text.of(self.tokenizer, question, asked), decoder, pictures)

    def question_inputs(self, samples: Sequence[Sample], training: bool = False) -> dict[str, Tensor]:
        ids, mask = self._question([sample.prompt for sample in samples])
        return {"question_ids": ids, "question_mask": mask}

    def looked_at(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """The question's states after it has looked at the image."""
        states = self.model.text_encoder(
            input_ids=inputs["question_ids"],
            attention_mask=inputs["question_mask"],
            encoder_hidden_states=self.image_states(inputs),
        )[0]
        return states, inputs["question_mask"]

    def _question(self, questions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """``[ENC] question [SEP]``, padded on the right."""
        options = dict(add_special_tokens=False, truncation=True, max_length=self.longest - 2, verbose=False)
        rows = self.tokenizer(list(questions), **options)["input_ids"]
        begin, end = self.tokenizer.convert_tokens_to_ids(self._start), self.tokenizer.sep_token_id
        return right_padded([[begin, *row, end] for row in rows], self.tokenizer.pad_token_id)


def _with_starts(
    tokenizer: PreTrainedTokenizerBase, text: PretrainedConfig, *others: str
) -> PreTrainedTokenizerBase:
    """A tokenizer with ``[DEC]`` and, where the model has embeddings for them, other tokens: those on the hub
    do not know them.

    Raises:
        UserError: the tokenizer's tokens are not the model's.
    """
    if tokenizer.bos_token is None:
        tokenizer.add_special_tokens({"bos_token": DECODER_START})
    more = [token for token in others if token not in tokenizer.get_vocab()]
    if more and len(tokenizer) < text.vocab_size:
        tokenizer.add_special_tokens({"additional_special_tokens": more})
    ends = tokenizer.bos_token_id, tokenizer.sep_token_id
    if ends != (text.bos_token_id, text.sep_token_id) or len(tokenizer) > text.vocab_size:
        raise UserError(
            "the tokenizer's start or end token is not the model's, or it has more tokens: save the "
            "tokenizer that belongs to it"
        )
    tokenizer.model_max_length = min(tokenizer.model_max_length, text.max_position_embeddings)
    return tokenizer


def blip_base_without_weights(side: int = 224) -> BlipCaptioner:
    """A captioner of BLIP-base's size whose parameters have shapes and no values: its parameters can be
    counted, and it takes no memory. It has no tokenizer, and answers nothing.
    """
    with torch.device("meta"):
        model = BlipForConditionalGeneration(blip_base(side))
    family = BlipCaptioner(model.eval(), PreTrainedTokenizerBase())
    family.title = "BLIP-base"
    return family
