"""Interface of model families.

A family loads checkpoints of one type and makes their inputs: for training (with labels), for generation, for
ranking candidates, and for the analysis commands. All other parts of :mod:`attngraph.experiments` access a
model only through this interface. A family is one file: subclass :class:`ModelFamily` and decorate the class
with :func:`register`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel

from attngraph.errors import UserError
from attngraph.experiments.base.shipped import shipped_folder
from attngraph.experiments.models.batch import Batch, Picture, Sample
from attngraph.experiments.models.ranking import Opening, Ranked, Ranking, rank_from_cache, rank_one_by_one

BLIP = "blip"
LENGTH, GNMT = "length", "gnmt"
FAMILIES: dict[str, type[ModelFamily]] = {}


class Gnmt(float):
    """The exponent of a length in transformers that corresponds to the penalty ``gnmt``."""

    def __rpow__(self, length: float, modulus: None = None) -> float:
        return ((5 + length) / 6) ** float(self)


def register(family: type[ModelFamily]) -> type[ModelFamily]:
    """Class decorator: make a family known. Families are tried in reverse order of registration."""
    FAMILIES[family.name] = family
    return family


@dataclass(frozen=True)
class Decoding:
    r"""Options of text generation.

    Of finished texts, with :math:`t` tokens (including the end token) and log probability :math:`\log P`, the
    best one has the highest

    .. math:: \log P / t \quad (\texttt{length}), \qquad
              \log P / \left(\frac{5 + t}{6}\right)^{0.6} \quad (\texttt{gnmt}).

    The first is that of transformers, the second that of Wu et al., 2016 (arXiv:1609.08144, eq. 14), which
    mPLUG uses (``models/predictor.py`` of github.com/X-PLUG/mPLUG). One difference between the searches
    remains: mPLUG continues finished texts after their end token, whereas transformers replaces them by
    another beam.

    Args:
        max_new_tokens: upper limit, end token included.
        num_beams: 1 for greedy decoding.
        min_new_tokens: lower limit; the prompt does not count.
        length_penalty: comparison of beams of different lengths: ``length`` or ``gnmt``.
        as_released: released code to reproduce, ``blip`` or ``p_adapter``: models of BLIP's type then search
            as under transformers 4.15, and both limits count the prompt (see
            :func:`attngraph.experiments.models.generation.released_texts`); captions have that code's prompt,
            in training, too; and answers attend to the padding of the questions of their batch. None
            otherwise.
    """

    max_new_tokens: int = 20
    num_beams: int = 1
    min_new_tokens: int = 0
    length_penalty: str = LENGTH
    as_released: str | None = None

    def __post_init__(self):
        if self.min_new_tokens > self.max_new_tokens:
            raise UserError(
                f"min_new_tokens must be at most max_new_tokens ({self.max_new_tokens}), got "
                f"{self.min_new_tokens}"
            )
        if self.as_released and self.length_penalty != LENGTH:
            raise UserError(
                f"as_released {self.as_released} compares beams by their length: remove length_penalty "
                f"{self.length_penalty}"
            )

    def settings(self, end: int | list[int], padding: int, **more: Any) -> GenerationConfig:
        """The ``generation_config`` for transformers' ``generate``, with the ids of the end and padding
        tokens and further settings. Those that change the scores of tokens, or how a search ends, have their
        neutral values here: transformers would use the checkpoint's if they were not set.
        """
        by_gnmt = self.length_penalty == GNMT and self.num_beams > 1
        return GenerationConfig(
            max_new_tokens=self.max_new_tokens,
            min_new_tokens=self.min_new_tokens,
            num_beams=self.num_beams,
            length_penalty=Gnmt(0.6) if by_gnmt else 1.0,
            early_stopping=False,
            do_sample=False,
            repetition_penalty=1.0,
            no_repeat_ngram_size=0,
            encoder_repetition_penalty=1.0,
            encoder_no_repeat_ngram_size=0,
            eos_token_id=end,
            pad_token_id=padding,
            **more,
        )


Answering = Decoding | Ranking  # how answers come about


@dataclass(frozen=True)
class Checkpoint:
    """Source of a model: a folder or hub name, None for the shipped mini-BLIP; and the model itself if it is
    in memory already.
    """

    name: str | None
    config: PretrainedConfig
    download: bool = False
    model: PreTrainedModel | None = None

    @property
    def place(self) -> str:
        """The folder or hub name."""
        return self.name or str(shipped_folder(None))

    @property
    def options(self) -> dict[str, bool]:
        """Options for ``from_pretrained``."""
        return {"local_files_only": not self.download}


class ModelFamily(ABC):
    """A loaded model of one family.

    Attributes:
        name: name of the family; tasks may have a prompt for it.
        model: in evaluation mode, in float32. Adapters are added in place.
        title: name of the model, for figures and messages.
        takes_images, takes_text: whether it has image input, and whether it has text input.
        unadapted: a context in which its adapters are switched off.
        learned: ids below 0, of learned tokens that begin each text; set by prompt tuning
            (:mod:`attngraph.experiments.methods.prompt`), and None if the family does not support them.
        caches_features: whether :meth:`encode_images` exists, so that a frozen image encoder needs to run
            only once.
        shortlist: number of answers of a list that are scored in full, unless a ``Ranking`` sets it:
            ``k_test`` of the authors (128 in BLIP and mPLUG).
        max_tokens: maximum number of tokens of a text; None if it is unknown.
        generates_as_released: whether :meth:`generate` supports ``Decoding.as_released``.
    """

    name: str
    model: PreTrainedModel
    title: str = "mini-BLIP"
    takes_images: bool = True
    takes_text: bool = True
    caches_features: bool = False
    shortlist: int = 128
    max_tokens: int | None = None
    generates_as_released: bool = False
    unadapted: Callable[[], AbstractContextManager] = nullcontext
    learned: tuple[int, ...] | None = None

    @property
    def max_text_tokens(self) -> int | None:
        """Maximum number of tokens of a text besides :attr:`learned` ones; None if it is unknown."""
        return None if self.max_tokens is None else self.max_tokens - len(self.learned or ())

    # ---- loading -----------------------------------------------------------------------------------------

    @classmethod
    @abstractmethod
    def accepts(cls, config: PretrainedConfig) -> bool:
        """Whether a checkpoint with this configuration belongs to the family."""

    @classmethod
    @abstractmethod
    def load(cls, checkpoint: Checkpoint) -> ModelFamily:
        """Load a checkpoint. All exceptions are turned into one-line errors."""

    # ---- inputs ------------------------------------------------------------------------------------------

    @abstractmethod
    def check(self, samples: Sequence[Sample]) -> None:
        """Raise :class:`~attngraph.UserError` if the samples lack required input."""

    def check_prompts(self, samples: Sequence[Sample]) -> None:
        """Raise UserError if a prompt has more tokens than the model reads. In datasets such prompts are
        truncated.
        """
        tokenizer = getattr(self, "tokenizer", None)
        if tokenizer is None or self.max_text_tokens is None:
            return
        for sample in samples:
            count = len(tokenizer(sample.prompt, verbose=False)["input_ids"])
            if count > self.max_text_tokens:
                raise UserError(
                    f"the text of {sample.name} has {count} tokens, and {self.title} reads at most "
                    f"{self.max_text_tokens}: use a shorter text"
                )

    @abstractmethod
    def batch(self, samples: Sequence[Sample]) -> Batch:
        """Inputs of the whole model for prompts and answers, for the analysis of its graphs."""

    @property
    def trains(self) -> bool:
        """Whether it can be trained on a task, that is, implements :meth:`training_inputs`."""
        return type(self).training_inputs is not ModelFamily.training_inputs

    def training_inputs(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """Inputs of :meth:`logits` for prompts and answers, on the CPU.

        Returns:
            Tensors whose first axis is the batch (or its distinct images), including ``labels`` ``(b, n)``:
            the ids of the answer and of the end token at their own positions, ``IGNORED`` elsewhere.
        """
        raise UserError(f"{self.title} does not generate text, so it cannot be trained on a task")

    def logits(self, inputs: dict[str, Tensor]) -> Tensor:
        """Next-token logits ``(b, n, vocabulary)`` at the positions of ``labels``, which is not part of the
        inputs.
        """
        return self.model(**inputs, use_cache=False).logits

    # ---- answers -----------------------------------------------------------------------------------------

    def generate(self, samples: Sequence[Sample], decoding: Decoding) -> list[str]:
        """The model's answer to each sample's prompt, as plain text."""
        raise UserError(f"{self.title} does not generate text")

    def openings(self, samples: Sequence[Sample], answers: Sequence[str]) -> Iterator[Opening] | None:
        """The samples' prompts, from whose key/value cache each of the answers can be scored; None if the
        model cannot continue from a cache. A prompt that is too long for the longest answer is truncated.
        """
        return None

    def rank(self, samples: Sequence[Sample], ranking: Ranking) -> Ranked:
        """The most likely answers of a list for each sample; see :mod:`attngraph.experiments.models.ranking`.
        Without :meth:`openings` each answer needs a separate pass.
        """
        count, k = len(samples), ranking.k or self.shortlist
        with torch.no_grad():
            openings = self.openings(samples, ranking.answers)
            if openings is None:
                return rank_one_by_one(self, samples, ranking.answers, k, ranking.label_smoothing)
            return rank_from_cache(openings, count, k, ranking.label_smoothing)

    def answer(self, samples: Sequence[Sample], way: Answering) -> list[str]:
        """The answer to each sample's prompt: generated, or the best of a list."""
        if isinstance(way, Ranking):
            return [way.answers[place] for place in self.rank(samples, way).best.tolist()]
        self.check_decoding(way)
        return self.generate(samples, way)

    def check_decoding(self, way: Answering) -> None:
        """Raise UserError if answers are to be generated in a way that the model does not support: with more
        tokens than it has positions for, or as by released code for other models.
        """
        if not isinstance(way, Decoding):
            return
        if self.max_text_tokens is not None and way.max_new_tokens > self.max_text_tokens:
            beside = f" besides {len(self.learned)} learned tokens" if self.learned else ""
            raise UserError(
                f"max_new_tokens is {way.max_new_tokens}, and {self.title} has {self.max_text_tokens} "
                f"positions{beside}: use at most this number"
            )
        if way.as_released and not self.generates_as_released:
            raise UserError(
                f"as_released {way.as_released} applies to BLIP's models, not to {self.title}: remove it"
            )

    # ---- parts of the model ------------------------------------------------------------------------------

    @abstractmethod
    def language_side(self) -> list[str]:
        """Names of the modules that read and write text; the others are the image encoder. ``[""]`` is the
        whole model.
        """

    def on_language_side(self, names: Iterable[str]) -> list[str]:
        """Those of the names of modules or parameters that are on the language side."""
        sides = tuple(f"{side}." if side else "" for side in self.language_side())
        return [name for name in names if name.startswith(sides)]

    def word_embeddings(self) -> list[nn.Module]:
        """The embeddings of the texts that begin with :attr:`learned` tokens."""
        return [self.model.get_input_embeddings()]

    def encode_images(self, images: Sequence[Path | Image.Image]) -> Tensor:
        """The image encoder's features ``(b, nodes, width)``, if :attr:`caches_features`."""
        raise NotImplementedError

    def image_encoder(self) -> nn.Module:
        """The module whose weights determine :meth:`encode_images`."""
        raise NotImplementedError

    def trains_image_encoder(self) -> bool:
        """Whether a parameter of the image encoder is trained, so that :meth:`encode_images` changes."""
        return self.caches_features and any(p.requires_grad for p in self.image_encoder().parameters())

    @property
    def image_settings(self) -> str:
        """Settings of image preprocessing for :meth:`encode_images`, which affect the features."""
        return ""

    @property
    def image_side(self) -> int | None:
        """The side of the square model input, in pixels; None if it depends on the image."""
        return None

    def resize(self, side: int) -> None:
        """Change the side of the square model input, in pixels: positions are interpolated; a UserError if
        this is not supported.
        """
        raise UserError(
            f"side {side}: {self.title} has a processor that determines the size of images: remove side"
        )

    def blank_image(self) -> Picture:
        """Image input for a model without access to the image: zero features, or an image in one colour."""
        return Image.new("RGB", (64, 64), (128, 128, 128))

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return next(self.model.parameters()).device

    def to_device(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """The inputs on the model's device."""
        return {name: tensor.to(self.device) for name, tensor in inputs.items()}
