"""How a run trains: steps, learning rate, regularisation."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from attngraph.errors import UserError


class Diverged(UserError):
    """The loss of a run is not finite."""


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Args:
        learning_rate: peak of a linear schedule (warm-up, then down to 0).
        steps: optimiser steps.
        batch_size: examples per step, over all processes.
        accumulation: forward and backward passes that a step is divided into.
        warmup: share of the steps to warm up.
        weight_decay: AdamW's, on matrices only.
        label_smoothing: of the cross-entropy.
        clip: limit of the gradient norm.
        augment: whether pictures are changed in training, see :mod:`experiments.models.transforms`.
    """

    learning_rate: float
    steps: int
    batch_size: int = 64
    accumulation: int = 1
    warmup: float = 0.06
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    clip: float = 1.0
    augment: bool = False

    def __post_init__(self):
        for name in ("learning_rate", "steps", "batch_size", "accumulation"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} must be above 0, got {getattr(self, name)}")

    def description(self) -> dict[str, Any]:
        """What decides a run's result, as plain values. ``augment`` is left out where it is off: runs that
        were made before there was such a thing are the same runs still.
        """
        content = asdict(self)
        if not self.augment:
            del content["augment"]
        return content

    def factor(self, step: int) -> float:
        """The share of its peak that a learning rate has in a step, counted from 0."""
        warm = max(1, round(self.warmup * self.steps))
        return min((step + 1) / warm, (self.steps - step) / max(1, self.steps - warm))

    def per_process(self, processes: int, examples: int) -> int:
        """Examples in one forward pass of one process.

        Raises:
            UserError: the batch cannot be divided evenly.
        """
        parts = processes * self.accumulation
        size = min(self.batch_size, examples)
        if size % parts:
            raise UserError(
                f"a batch of {size} examples can't be divided among {processes} processes and "
                f"{self.accumulation} passes of each: choose a multiple"
            )
        return size // parts
