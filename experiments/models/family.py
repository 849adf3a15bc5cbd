"""What a model family is.

A family loads checkpoints of one kind and makes their inputs: for training (with labels), for generation, for
ranking candidates, and for the analysis commands. Everything else in :mod:`attngraph.experiments` sees a
model only through this interface. A family is one file: subclass :class:`ModelFamily`, put :func:`register`
above the class.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
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
    """The exponent that transformers raises a length to, so that the penalty ``gnmt`` comes out."""

    def __rpow__(self, length: float, modulus: None = None) -> float:
        return ((5 + length) / 6) ** float(self)


def register(family: type[ModelFamily]) -> type[ModelFamily]:
    """Class decorator: make a family known. Families are asked in reverse order, so a later one comes
    first.
    """
    FAMILIES[family.name] = family
    return family


@dataclass(frozen=True)
class Decoding:
    r"""How answers are generated.

    Of texts that have ended, with :math:`t` tokens (the end token among them) and log probability
    :math:`\log P`, the best is that with the highest

    .. math:: \log P / t \quad (\texttt{length}), \qquad
              \log P / \left(\frac{5 + t}{6}\right)^{0.6} \quad (\texttt{gnmt}).

    The first is transformers' own, the second that of Wu et al., 2016 (arXiv:1609.08144, eq. 14), which mPLUG
    takes (``models/predictor.py`` of github.com/X-PLUG/mPLUG). Their searches differ in one thing that
    remains: mPLUG goes on from texts that have ended, with the end token among their words; transformers puts
    another beam in their place.

    Args:
        max_new_tokens: upper limit, end token included.
        num_beams: 1 for greedy decoding.
        min_new_tokens: lower limit; the prompt does not count.
        length_penalty: how beams of different lengths are compared: ``length`` or ``gnmt``.
        as_released: whose released code is followed, ``blip`` or ``p_adapter``: models of BLIP's
            type then search as under transformers 4.15, and both limits count the prompt (see
            :func:`attngraph.experiments.models.generation.released_texts`); captions have that code's prompt,
            in training too; and an answer sees the padding of the questions that are answered together. None
            for none.
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
                f"as_released {self.as_released} compares beams by their length: leave out length_penalty "
                f"{self.length_penalty}"
            )

    def settings(self, end: int | list[int], padding: int, **more: Any) -> GenerationConfig:
        """What transformers' ``generate`` takes as ``generation_config``, of the ids of end and padding and
        further settings.
        """
        by_gnmt = self.length_penalty == GNMT and self.num_beams > 1
        return GenerationConfig(
            max_new_tokens=self.max_new_tokens,
            min_new_tokens=self.min_new_tokens or None,
            num_beams=self.num_beams,
            length_penalty=Gnmt(0.6) if by_gnmt else 1.0,
            do_sample=False,
            eos_token_id=end,
            pad_token_id=padding,
            **more,
        )


Answering = Decoding | Ranking  # how answers come about


@dataclass(frozen=True)
class Checkpoint:
    """Where a model comes from: a folder or hub name, None for the mini-BLIP that ships with the package; and
    the model itself where it is in memory already.
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
        """For ``from_pretrained``."""
        return {"local_files_only": not self.download}


class ModelFamily(ABC):
    """A loaded model of one family.

    Attributes:
        name: of the family; tasks may have a prompt for it.
        model: in evaluation mode, in float32. Adapters are put into it in place.
        title: of the model, for figures and messages.
        sees, reads: whether it looks at images, and whether it reads texts.
        unadapted: a context in which its adapters are switched off.
        caches_features: whether :meth:`encode_images` exists, so that a frozen image encoder need run only
            once.
        shortlist: how many answers of a list are scored in full where a ``Ranking`` does not say:
            ``k_test`` of the authors (128 is that of BLIP and mPLUG).
        longest: how many tokens a text may have; None where that is unknown.
        writes_as_released: whether :meth:`generate` heeds ``Decoding.as_released``.
    """

    name: str
    model: PreTrainedModel
    title: str = "mini-BLIP"
    sees: bool = True
    reads: bool = True
    caches_features: bool = False
    shortlist: int = 128
    longest: int | None = None
    writes_as_released: bool = False
    unadapted: Callable[[], AbstractContextManager] = nullcontext

    # ---- loading -----------------------------------------------------------------------------------------

    @classmethod
    @abstractmethod
    def accepts(cls, config: PretrainedConfig) -> bool:
        """Whether a checkpoint with this configuration is of the family."""

    @classmethod
    @abstractmethod
    def load(cls, checkpoint: Checkpoint) -> ModelFamily:
        """Load a checkpoint. Whatever is raised becomes one line."""

    # ---- inputs ------------------------------------------------------------------------------------------

    @abstractmethod
    def check(self, samples: Sequence[Sample]) -> None:
        """Raise :class:`~attngraph.UserError` where the samples lack what the model needs."""

    @abstractmethod
    def batch(self, samples: Sequence[Sample]) -> Batch:
        """Inputs of the whole model for prompts and answers, as the analysis of its graphs needs them."""

    @property
    def trains(self) -> bool:
        """Whether it can be trained on a task: whether it makes :meth:`training_inputs`."""
        return type(self).training_inputs is not ModelFamily.training_inputs

    def training_inputs(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """Inputs of :meth:`logits` for prompts and answers, on the CPU.

        Returns:
            Tensors whose first axis is the batch (or its different pictures), among them ``labels`` ``(b,
            n)``: the ids of the answer and of the end token at their own places, ``IGNORED`` elsewhere.
        """
        raise UserError(f"{self.title} writes no answers, so it can't be trained on a task")

    def logits(self, inputs: dict[str, Tensor]) -> Tensor:
        """Next-token logits ``(b, n, vocabulary)`` at the places of ``labels``, which is not among the
        inputs.
        """
        return self.model(**inputs, use_cache=False).logits

    # ---- answers -----------------------------------------------------------------------------------------

    def generate(self, samples: Sequence[Sample], decoding: Decoding) -> list[str]:
        """The model's answer to each sample's prompt, as plain text."""
        raise UserError(f"{self.title} writes no answers")

    def openings(self, samples: Sequence[Sample], answers: Sequence[str]) -> Iterator[Opening] | None:
        """The samples' prompts, from whose key/value cache each of the answers can be scored; None where the
        model can't go on from a cache. A prompt that is too long for the longest answer is cut.
        """
        return None

    def rank(self, samples: Sequence[Sample], ranking: Ranking) -> Ranked:
        """The answers of a list that are the most likely for each sample; see
        :mod:`attngraph.experiments.models.ranking`. Without :meth:`openings` each answer has a pass of its
        own.
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
        self.check_released(way)
        return self.generate(samples, way)

    def check_released(self, decoding: Decoding) -> None:
        """Raise UserError where answers are to be written as code does that is not of this model."""
        if decoding.as_released and not self.writes_as_released:
            raise UserError(
                f"as_released {decoding.as_released} is how BLIP's models write, and {self.title} is none: "
                "leave it out"
            )

    # ---- parts of the model ------------------------------------------------------------------------------

    @abstractmethod
    def language_side(self) -> list[str]:
        """Names of the modules that read and write text: the rest is the image encoder. ``[""]`` is all of
        it.
        """

    def encode_images(self, images: Sequence[Path | Image.Image]) -> Tensor:
        """The image encoder's states ``(b, nodes, width)``, where :attr:`caches_features`."""
        raise NotImplementedError

    def image_encoder(self) -> nn.Module:
        """The module whose weights decide :meth:`encode_images`."""
        raise NotImplementedError

    @property
    def image_settings(self) -> str:
        """How :meth:`encode_images` prepares pictures: other settings give other states."""
        return ""

    @property
    def image_side(self) -> int | None:
        """The side of the square that the model sees, in pixels; None where it depends on the picture."""
        return None

    def resize(self, side: int) -> None:
        """Let the model see squares of another side, in pixels: its positions are interpolated; a UserError
        where that cannot be.
        """
        raise UserError(
            f"side {side}: {self.title} sees pictures as its own processor makes them: leave the side out"
        )

    def blank_image(self) -> Picture:
        """What a model sees that must not see: zero states, or a picture in one colour."""
        return Image.new("RGB", (64, 64), (128, 128, 128))

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def to_device(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """The inputs on the model's device."""
        return {name: tensor.to(self.device) for name, tensor in inputs.items()}
