"""The interface of a method: it says what of a model is trained, and how that is saved and loaded."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor, nn

from experiments.models.generation import generate_text

Vision = Literal["frozen", "trained", "zero"]


class Tuned(ABC):
    """A model that a method has been put on.

    Attributes:
        vision: ``frozen`` image states can be computed once and cached; ``trained`` ones change with every step;
            ``zero`` hides the image.
    """

    vision: Vision = "frozen"

    @abstractmethod
    def parameters(self) -> list[nn.Parameter]:
        """What is trained; empty for a method without training."""

    def optimizer_groups(self, learning_rate: float, weight_decay: float) -> list[dict]:
        """Groups with their peak learning rates. Matrices are decayed; biases and LayerNorms are not."""
        parameters = self.parameters()
        return [
            {
                "params": [p for p in parameters if p.dim() > 1],
                "lr": learning_rate,
                "weight_decay": weight_decay,
            },
            {"params": [p for p in parameters if p.dim() <= 1], "lr": learning_rate, "weight_decay": 0.0},
        ]

    @abstractmethod
    def state_dict(self) -> dict[str, Tensor]:
        """The trained tensors by name."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Copy trained tensors in."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the trained weights as safetensors into a run's folder."""

    def observe(self, targets: Sequence[str]) -> None:
        """Look at the training answers before training; most methods have no use for it."""

    def generate(
        self, model, tokenizer, states: Tensor, prompts: Sequence[str], max_new_tokens: int, num_beams: int
    ) -> list[str]:
        """One text per prompt."""
        return generate_text(model, tokenizer, states, prompts, max_new_tokens, num_beams)

    def learned(self) -> dict[str, float]:
        """Scalars worth reading after training, such as the learned p of each layer."""
        return {}


@dataclass(frozen=True)
class Method(ABC):
    """A way to adapt a model."""

    @abstractmethod
    def put_on(self, model: nn.Module) -> Tuned:
        """Prepare a freshly loaded model for training; changes it in place."""
