"""What a layout of original checkpoints is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from transformers import ImageProcessingMixin, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from experiments.models.family import ModelFamily
from experiments.models.original.rules import Rule


@dataclass(frozen=True)
class Arrangement:
    """One of the models that can be made of a checkpoint.

    Args:
        name: at the prompt.
        about: what it is made of, as a phrase.
        model: transformers' class.
        family: that makes its inputs.
        rules: for every tensor of the layout's checkpoints.
    """

    name: str
    about: str
    model: type[PreTrainedModel]
    family: type[ModelFamily]
    rules: Sequence[Rule]


class Layout(ABC):
    """The checkpoints of one model's authors.

    Attributes:
        name: at the prompt.
        title: in messages.
        arrangements: by name.
        depths: beginnings of the layers' names → how many layers the authors' checkpoints have there.
    """

    name: str
    title: str
    depths: Mapping[str, Sequence[int]]
    arrangements: Mapping[str, Arrangement]

    @abstractmethod
    def accepts(self, tensors: Mapping[str, Tensor]) -> bool:
        """Whether a checkpoint with these tensors is of this layout."""

    @abstractmethod
    def choose(self, tensors: Mapping[str, Tensor], asked: str | None, file: Path) -> Arrangement:
        """The arrangement that was asked for; None for what the tensors say.

        Raises:
            UserError: it cannot be made of this checkpoint.
        """

    @abstractmethod
    def tokenizer(
        self, words: dict[str, int], tensors: Mapping[str, Tensor], file: Path, vocabulary: Path
    ) -> PreTrainedTokenizerBase:
        """The tokenizer that the checkpoint was trained with.

        Args:
            words: BERT's vocabulary.
            tensors: of the checkpoint.
            file, vocabulary: where the two were read, for messages.

        Raises:
            UserError: the vocabulary is not the checkpoint's.
        """

    @abstractmethod
    def config(
        self, tensors: Mapping[str, Tensor], tokenizer: PreTrainedTokenizerBase, file: Path
    ) -> PretrainedConfig:
        """The configuration, as the tensors' shapes tell it.

        Raises:
            UserError: they tell none.
        """

    @abstractmethod
    def image_processor(self, side: int) -> ImageProcessingMixin:
        """What makes pictures of this side, in pixels, into what the image encoder takes."""
