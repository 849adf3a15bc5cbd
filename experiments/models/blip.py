"""BLIP: captioners (``BlipForConditionalGeneration``), the mini-BLIP among them, and question answering
(``BlipForQuestionAnswering``).

A captioner's text is ``[DEC] prompt answer [SEP]`` in the text decoder: the prompt is its prefix, the loss
covers the answer and the end token. For questions there is an encoder: ``[ENC] question [SEP]`` attends to
the image by cross-attention, and the answer ``[DEC] answer [SEP]`` attends to the question's states.
transformers (5.24) does not mask the question's padding there; here it is masked, as in BLIP's code for the
loss and for ranking. BLIP's code does not mask it in generation, which can be reproduced by an option of
:class:`~attngraph.experiments.models.family.Decoding`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Self

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipForQuestionAnswering,
    BlipImageProcessor,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from attngraph.errors import UserError
from attngraph.experiments.base.shipped import CHECKPOINTS, DEFAULT
from attngraph.experiments.models.batch import Batch, Sample, Text
from attngraph.experiments.models.family import Checkpoint, Decoding, ModelFamily, register
from attngraph.experiments.models.generation import (
    answer_ids,
    decoder_logits,
    encode_images,
    frozen_image_states,
    generate_text,
    padded,
    prompt_ids,
    released_texts,
    sequence_batch,
)
from attngraph.experiments.models.images import (
    IMAGE_MEAN,
    IMAGE_STD,
    Pictures,
    interpolate_positions,
    open_image,
    preprocess,
    rows_of,
)
from attngraph.experiments.models.ranking import Opening, openings
from attngraph.experiments.models.weights import load_weights
from attngraph.reading.instrument import instrument
from attngraph.reading.pictures import project_once, states_of_examples

CHECKPOINT = CHECKPOINTS / DEFAULT
DESCRIBE = "what does the image describe ?"  # the prompt of captions in pre-training
WORDS = 30_524  # of BLIP: BERT's, [DEC] and [ENC]
MINI = "mini_blip"  # what tasks call checkpoints of `attngraph pretrain`, the shipped one among them
SMALL = 10_000  # words; BLIP knows 30,524, those checkpoints only the words of scenes
DECODER_START, ENCODER_START = "[DEC]", "[ENC]"
KEYS_AND_VALUES = ("crossattention.self.key", "crossattention.self.value")  # of what text looks at


class BlipLike(ModelFamily):
    """Common base of BLIP's two families and mPLUG: an image encoder whose features can be cached, and BERT's
    decoder, which attends to these or to states derived from them.

    Attributes:
        kind: the model's class.
        mean, std: of each colour channel, for normalisation; from the checkpoint's processor, if there is
            one.
        opening: the prompt for a generated description; None for the sample's.
        decoder: prefix of the names of the decoder's inputs in the model's class.
        others: special tokens of the model in addition to the start token.
    """

    caches_features = True
    kind: ClassVar[type[PreTrainedModel]]
    mean: tuple[float, ...] = IMAGE_MEAN
    std: tuple[float, ...] = IMAGE_STD
    opening: str | None = None
    decoder: ClassVar[str] = "decoder_"
    others: ClassVar[tuple[str, ...]] = ()
    learned = ()

    def __init__(self, model: nn.Module, tokenizer: PreTrainedTokenizerBase):
        self.model, self.tokenizer = model, tokenizer
        for name, module in model.named_modules():
            if name.endswith(KEYS_AND_VALUES):
                project_once(module)

    @property
    def max_tokens(self) -> int:
        """Maximum number of tokens of a text."""
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
        """The tokenizer with the model's length, start token and, if the model has embeddings for them, its
        other special tokens, which tokenizers on the hub do not have.
        """
        text = config.text_config
        if tokenizer.bos_token is None:
            tokenizer.add_special_tokens({"bos_token": DECODER_START})
        more = [token for token in cls.others if token not in tokenizer.get_vocab()]
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

    # ---- images ------------------------------------------------------------------------------------------

    def pixels(self, images: Sequence[Path | Image.Image]) -> Tensor:
        """Images as input of the image encoder: ``(b, 3, side, side)``."""
        return preprocess(images, self.image_side, self.mean, self.std)

    def check(self, samples: Sequence[Sample]) -> None:
        if samples[0].image is None:
            raise UserError(f"{self.title} needs images: add --images")

    def image_encoder(self) -> nn.Module:
        return self.model.vision_model

    @property
    def image_settings(self) -> str:
        return f"{self.image_side} {self.mean} {self.std}"

    @property
    def image_side(self) -> int:
        return self.model.config.vision_config.image_size

    def resize(self, side: int) -> None:
        vision, embeddings = self.model.config.vision_config, self.model.vision_model.embeddings
        rows = rows_of(side, vision.patch_size)
        self.interpolate(embeddings, rows)
        embeddings.num_patches, embeddings.num_positions = rows * rows, rows * rows + 1
        vision.image_size = embeddings.image_size = side

    def interpolate(self, embeddings: nn.Module, rows: int) -> None:
        """Interpolate the image encoder's positions as in BLIP."""
        old = embeddings.position_embedding
        new = interpolate_positions(old.detach(), rows)
        embeddings.position_embedding = nn.Parameter(new, old.requires_grad)

    def encode_images(self, images: Sequence[Path | Image.Image]) -> Tensor:
        return frozen_image_states(self.model, self.pixels(images).to(self.device))

    def blank_image(self) -> Tensor:
        vision = self.model.config.vision_config
        return torch.zeros((vision.image_size // vision.patch_size) ** 2 + 1, vision.hidden_size)

    def image_inputs(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """``image_states`` ``(u, nodes, width)`` of the distinct images, if samples contain features, or
        ``pixel_values``; and the index of each sample's image, ``image_index`` ``(b,)``."""
        images = [sample.image for sample in samples]
        keys = [image if isinstance(image, Path) else id(image) for image in images]
        different = dict(zip(keys, images))
        place = {key: k for k, key in enumerate(different)}
        index = torch.tensor([place[key] for key in keys])
        if isinstance(images[0], Tensor):
            return {"image_states": torch.stack(list(different.values())), "image_index": index}
        return {"pixel_values": self.pixels(list(different.values())), "image_index": index}

    def image_states(self, inputs: dict[str, Tensor]) -> Tensor:
        """Features ``(b, nodes, width)`` of :meth:`image_inputs`: with gradients if the image encoder is
        trained, else exactly the features that :meth:`encode_images` returns for the cache.
        """
        distinct = inputs.get("image_states")
        if distinct is None:
            distinct = self._encoded(inputs["pixel_values"])
        return states_of_examples(distinct, inputs["image_index"])

    def _encoded(self, pixels: Tensor) -> Tensor:
        if self.trains_image_encoder():
            return encode_images(self.model, pixels)
        self.image_encoder().eval()  # a frozen encoder has no dropout, whatever mode the model is in
        with torch.autocast(pixels.device.type, enabled=False):
            return frozen_image_states(self.model, pixels)

    def batch(self, samples: Sequence[Sample]) -> Batch:
        read = list(samples)
        if any(sample.answer is None for sample in read):
            if self.opening is not None:
                read = [replace(sample, prompt=self.opening) for sample in read]
            with self.unadapted():  # so that all states of an adapted model read the same
                answers = self.generate(read, Decoding())
            read = [replace(sample, answer=answer) for sample, answer in zip(read, answers)]
        written = sequence_batch(self.tokenizer, self.prefixes(read), [sample.answer for sample in read])
        ids, mask = written["input_ids"], written["attention_mask"]
        starts = prompt_ids(self.tokenizer, self.prefixes(read), [1] * len(read))
        begins = torch.tensor([len(start) for start in starts]).clamp(max=self.max_tokens)
        text = Text.of(self.tokenizer, ids, mask, begins)
        size = (self.image_side, self.image_side)
        images = [open_image(sample.image).resize(size, Image.Resampling.BICUBIC) for sample in read]
        rows = self.image_side // self.model.config.vision_config.patch_size
        pictures = Pictures(images, [(rows, rows)] * len(images), whole=True)
        inputs = {"pixel_values": self.pixels(images)}
        inputs |= {f"{self.decoder}input_ids": ids, f"{self.decoder}attention_mask": mask}
        with self.unadapted():
            question = self.question_inputs(read)
        if not question:
            return Batch(list(samples), inputs, text, pictures=pictures)
        asked, padding = question["question_ids"], question["question_mask"]
        inputs |= {"input_ids": asked, "attention_mask": padding}
        return Batch(list(samples), inputs, Text.of(self.tokenizer, asked, padding), text, pictures)

    # ---- texts -------------------------------------------------------------------------------------------

    def word_embeddings(self) -> list[nn.Module]:
        """The decoder's, and those of a separate encoder."""
        parts = [getattr(self.model, name, None) for name in ("text_encoder", "text_decoder")]
        return [part.get_input_embeddings() for part in parts if part is not None]

    def prefixes(self, samples: Sequence[Sample]) -> list[str]:
        """The beginning of the decoder's texts; empty if questions have a separate encoder."""
        return [""] * len(samples)

    def question_inputs(self, samples: Sequence[Sample], training: bool = False) -> dict[str, Tensor]:
        """``question_ids`` and ``question_mask`` ``(b, n)`` of a question encoder."""
        return {}

    def encoder_states(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """The states that the decoder attends to, ``(b, n, width)``, and their mask ``(b, n)``."""
        return self.image_states(inputs), None

    def training_inputs(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        answers = [sample.answer or "" for sample in samples]
        sequences = sequence_batch(self.tokenizer, self.prefixes(samples), answers, self.learned)
        return {**sequences, **self.question_inputs(samples, training=True), **self.image_inputs(samples)}

    def logits(self, inputs: dict[str, Tensor]) -> Tensor:
        states, mask = self.encoder_states(inputs)
        return decoder_logits(self.model, states, inputs, mask)

    @torch.no_grad()
    def generate(self, samples: Sequence[Sample], decoding: Decoding) -> list[str]:
        if decoding.as_released:
            limits = decoding.num_beams, decoding.min_new_tokens, decoding.max_new_tokens
            return released_texts(self.openings(samples, [""], masked=False), self.tokenizer, *limits)
        states, mask = self._seen(samples)
        prompts = self.prefixes(samples)
        return generate_text(self.model, self.tokenizer, states, prompts, decoding, mask, self.learned)

    def openings(
        self, samples: Sequence[Sample], answers: Sequence[str], masked: bool = True
    ) -> Iterator[Opening]:
        """``[DEC] prompt``, then ``answer [SEP]``. Unless ``masked``, the decoder also attends to padding."""
        states, mask = self._seen(samples)
        ends = answer_ids(self.tokenizer, answers, self.learned)
        reserved = [max(map(len, ends))] * len(samples)
        starts = prompt_ids(self.tokenizer, self.prefixes(samples), reserved, self.learned)
        encoder_inputs = {"encoder_hidden_states": states}
        if masked and mask is not None:
            encoder_inputs["encoder_attention_mask"] = mask
        return openings(self.model.text_decoder, starts, ends, encoder_inputs, states.device)

    def _seen(self, samples: Sequence[Sample]) -> tuple[Tensor, Tensor | None]:
        inputs = {**self.question_inputs(samples), **self.image_inputs(samples)}
        return self.encoder_states(self.to_device(inputs))


@register
class BlipCaptioner(BlipLike):
    """``[DEC] prompt answer [SEP]`` in the text decoder, which attends to the image by cross-attention."""

    name = "blip"
    kind = BlipForConditionalGeneration
    generates_as_released = True
    shortlist = 32  # p-Adapter's k_test, whose VQA model is a captioner
    opening = ""
    decoder = ""

    @classmethod
    def load(cls, checkpoint: Checkpoint) -> BlipCaptioner:
        family = super().load(checkpoint)
        words, text = family.tokenizer, family.model.config.text_config
        text.eos_token_id = text.sep_token_id  # hub configurations name another
        family.opening = DESCRIBE if checkpoint.name is None else ""
        if len(words) < SMALL and words.unk_token_id not in words(DESCRIBE)["input_ids"]:
            family.name = MINI  # it was pre-trained with another prompt than BLIP
        return family

    def language_side(self) -> list[str]:
        return ["text_decoder"]

    def prefixes(self, samples: Sequence[Sample]) -> list[str]:
        return [sample.prompt for sample in samples]


@register
class BlipAnswerer(BlipLike):
    """A question encoder that attends to the image, and an answer decoder that attends to the question."""

    name = "blip_vqa"
    kind = BlipForQuestionAnswering
    title = "BLIP VQA"
    others = (ENCODER_START,)  # begins questions where the model has an embedding for it; else [CLS] does
    generates_as_released = True

    def __init__(self, model: nn.Module, tokenizer: PreTrainedTokenizerBase):
        super().__init__(model, tokenizer)
        self._start = ENCODER_START if ENCODER_START in tokenizer.get_vocab() else tokenizer.cls_token
        self._reading = instrument(model)  # for its cross-attention, which heeds masks

    def language_side(self) -> list[str]:
        return ["text_encoder", "text_decoder"]

    def check(self, samples: Sequence[Sample]) -> None:
        super().check(samples)
        if any(not sample.prompt and sample.answer is None for sample in samples):
            raise UserError(f"{self.title} needs questions: add --texts")

    def batch(self, samples: Sequence[Sample]) -> Batch:
        """Without a prompt both sides read the text, as in all encoder-decoders."""
        return super().batch([replace(s, prompt=s.prompt or s.answer or "") for s in samples])

    def question_inputs(self, samples: Sequence[Sample], training: bool = False) -> dict[str, Tensor]:
        """``[ENC] question [SEP]``, after :attr:`learned` tokens, padded on the right."""
        questions = [sample.prompt for sample in samples]
        limit = self.max_text_tokens - 2
        options = dict(add_special_tokens=False, truncation=True, max_length=limit, verbose=False)
        rows = self.tokenizer(questions, **options)["input_ids"]
        begin, end = self.tokenizer.convert_tokens_to_ids(self._start), self.tokenizer.sep_token_id
        ids, mask = padded([[*self.learned, begin, *row, end] for row in rows], self.tokenizer.pad_token_id)
        return {"question_ids": ids, "question_mask": mask}

    def encoder_states(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """The question's states after attention to the image."""
        states = self.model.text_encoder(
            input_ids=inputs["question_ids"],
            attention_mask=inputs["question_mask"],
            encoder_hidden_states=self.image_states(inputs),
        )[0]
        return states, inputs["question_mask"]


# ---- sizes: the mini-BLIP's, and those of BLIP-base, to count with --------------------------------------


def build_model(
    tokenizer: PreTrainedTokenizerBase,
    width: int = 128,
    vision_layers: int = 4,
    text_layers: int = 4,
    heads: int = 4,
) -> BlipForConditionalGeneration:
    """A newly initialised mini-BLIP for 64x64 images in patches of 8 (65 image features), with a tokenizer's
    vocabulary, start and end tokens.
    """
    shared = dict(
        hidden_size=width, intermediate_size=4 * width, num_attention_heads=heads, projection_dim=width
    )
    text = shared | mini_text(tokenizer)
    text |= dict(
        encoder_hidden_size=width, num_hidden_layers=text_layers, sep_token_id=tokenizer.sep_token_id
    )
    # initializer_range: BLIP's default of 1e-10 is for weights that are loaded; nothing is learnt from it.
    vision = shared | dict(
        num_hidden_layers=vision_layers, image_size=64, patch_size=8, initializer_range=0.02
    )
    config = BlipConfig(
        text_config=text,
        vision_config=vision,
        projection_dim=width,
        image_text_hidden_size=width,
        attn_implementation="eager",
    )
    model = BlipForConditionalGeneration(config)
    with torch.no_grad():
        positions = model.vision_model.embeddings.position_embedding
        positions[0, 1:] = grid_positions(64 // 8, width)
    return model


def mini_text(tokenizer: PreTrainedTokenizerBase) -> dict[str, float]:
    """Fields of a text configuration that are determined by a tokenizer, without dropout."""
    return dict(
        vocab_size=len(tokenizer),
        max_position_embeddings=tokenizer.model_max_length,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.sep_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def grid_positions(side: int, width: int) -> Tensor:
    """Sines and cosines of a patch's row and column: initial values of the position embeddings.

    With BLIP's initialisation (noise of 0.02) a model of this size did not learn to distinguish left from
    right: its patch embeddings dominate the positions before these become useful.

    Row ``r`` and column ``c`` each have ``width / 4`` sines and cosines, of ``r / 10000^(4k / width)``
    for ``k`` in ``0 .. width / 4 - 1`` (Vaswani et al. 2017, for two dimensions): ``(side * side, width)``,
    patches row by row.
    """
    rates = 10000.0 ** -(torch.arange(width // 4) * 4 / width)
    angles = torch.arange(side)[:, None] * rates
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)  # (side, width / 2)
    rows, columns = waves.repeat_interleave(side, 0), waves.repeat(side, 1)
    return torch.cat([rows, columns], dim=1)


def blip_base_without_weights() -> BlipCaptioner:
    """A captioner of BLIP-base's size (ViT-B/16, a text decoder of 12 layers, like BLIP CapFilt-L) whose
    parameters have shapes but no values, so that they can be counted without using memory. It does not have a
    tokenizer and cannot answer.
    """
    layers = dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
    config = BlipConfig(
        text_config=layers | dict(encoder_hidden_size=768, projection_dim=768, vocab_size=WORDS),
        vision_config=layers | dict(image_size=224, patch_size=16),
    )
    with torch.device("meta"):
        model = BlipForConditionalGeneration(config)
    family = BlipCaptioner(model.eval(), PreTrainedTokenizerBase())
    family.title = "BLIP-base"
    return family
