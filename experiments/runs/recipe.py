"""How a run trains: steps, learning rate, regularisation."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from attngraph.errors import UserError

SCHEDULES = ("linear", "cosine")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
ADDED = (
    "augment",
    "schedule",
    "precision",
    "checkpointing",
    "compile",
    "validate_every",
    "patience",
)


class Diverged(UserError):
    """The loss of a run is not finite."""


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Args:
        learning_rate: peak of the schedule (warm-up, then down to 0).
        steps: optimiser steps.
        batch_size: examples per step, over all processes.
        accumulation: forward and backward passes that a step is divided into.
        warmup: share of the steps to warm up.
        weight_decay: AdamW's, on matrices only.
        label_smoothing: of the cross-entropy.
        clip: limit of the gradient norm.
        augment: whether pictures are changed in training, see :mod:`experiments.models.images`.
        schedule: how the learning rate goes down: :data:`SCHEDULES`.
        precision: of the forward and backward pass; weights stay float32. ``auto`` is bfloat16 where it pays.
        checkpointing: whether activations are computed again in the backward pass, to save memory.
        compile: whether the model is compiled by ``torch.compile``.
        validate_every: steps between scores on validation data, after which the best state so far is kept,
            by the column that the task names; None for the state after the last step.
        patience: how many validations without a better score end the training; None for never.
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
    schedule: str = "linear"
    precision: str = "auto"
    checkpointing: bool = False
    compile: bool = False
    validate_every: int | None = None
    patience: int | None = None

    def __post_init__(self):
        for name in ("learning_rate", "steps", "batch_size", "accumulation", "validate_every", "patience"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"{name} must be above 0, got {value}")
        for name, known in (("schedule", SCHEDULES), ("precision", PRECISIONS)):
            if getattr(self, name) not in known:
                raise UserError(f"unknown {name} {getattr(self, name)!r}: choose from {', '.join(known)}")
        if self.patience is not None and self.validate_every is None:
            raise UserError("patience counts validations: give validate_every too")

    def description(self) -> dict[str, Any]:
        """What decides a run's result, as plain values. What was added later is left out at its default:
        runs that were made before there was such a thing are the same runs still.
        """
        defaults = {field.name: field.default for field in fields(self)}
        content = asdict(self)
        return {
            name: value for name, value in content.items() if name not in ADDED or value != defaults[name]
        }

    def factor(self, step: int) -> float:
        r"""The share of its peak that a learning rate has in a step, counted from 0: a linear warm-up, then

        .. math:: 1 - t \quad\text{or}\quad (1 + \cos \pi t) / 2, \qquad t \in [0, 1].
        """
        warm = max(1, round(self.warmup * self.steps))
        left = (self.steps - step) / max(1, self.steps - warm)
        if self.schedule == "cosine" and step >= warm:
            left = (1 - math.cos(math.pi * left)) / 2
        return min((step + 1) / warm, left)

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
