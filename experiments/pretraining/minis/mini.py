"""What a model that is pre-trained here consists of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from experiments.pretraining.recipe import Recipe
from experiments.pretraining.steps import Arrange
from experiments.pretraining.tokenizer import build_tokenizer
from experiments.scenes.words import all_words
from experiments.shipped import CHECKPOINTS, SHIPPED


class Mini(ABC):
    """A small model and how it reads pre-training texts.

    Attributes:
        name: of the shipped checkpoint, see :mod:`experiments.shipped`.
        recipe: by which the shipped checkpoint was trained.
        prompts_captions: whether captions have a prompt.
    """

    name: str
    recipe: Recipe
    prompts_captions: bool

    @property
    def title(self) -> str:
        """In messages and on the card."""
        return SHIPPED[self.name]

    @property
    def checkpoint(self) -> Path:
        """The folder of the shipped checkpoint."""
        return CHECKPOINTS / self.name

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of all words of the scenes."""
        return build_tokenizer(all_words())

    @abstractmethod
    def build(self, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
        """The model, freshly initialised."""

    @abstractmethod
    def arrange(self, tokenizer: PreTrainedTokenizerBase, recipe: Recipe) -> Arrange:
        """What makes tensors of the texts about some images."""

    @abstractmethod
    def read(
        self, model: PreTrainedModel, states: Tensor, batch: dict[str, Tensor]
    ) -> list[tuple[Tensor, dict[str, Tensor]]]:
        """A batch's texts as the model reads them.

        Args:
            model: from :meth:`build`.
            states: ``(images, nodes, width)``, from the image encoder.
            batch: from :meth:`arrange`.

        Returns:
            Logits and labels, as :func:`~experiments.pretraining.losses.text_loss` takes them.
        """

    @abstractmethod
    def about(self, model: PreTrainedModel) -> str:
        """The parts of the model and what they read, for the card."""
