"""The recipe of pre-training: sizes, optimiser, schedule; by default mini-BLIP's."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn

from experiments.pretraining.texts import KINDS


@dataclass(frozen=True)
class Recipe:
    """What is drawn in each step and how it is learned; the command's options are the steps only.

    Args:
        steps: optimiser steps.
        images: new images in each step; few, so that there are many steps.
        texts: texts about each image, one of them a caption.
        row_length: tokens in the packed row of an image; None where each text has a row of its own.
        learning_rate: of AdamW, at its highest.
        warmup_steps: of the learning rate, linear; a cosine down to 1 % follows.
        betas: of AdamW.
        weight_decay: on matrices, but not on embeddings.
        clip: norm of the gradient.
        patch_weight: of the auxiliary loss (:func:`~experiments.pretraining.losses.patch_loss`).
    """

    steps: int = 8000
    images: int = 16
    texts: int = 8
    row_length: int | None = 128
    learning_rate: float = 1e-3
    warmup_steps: int = 300
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.05
    clip: float = 1.0
    patch_weight: float = 1.0

    def describe(self) -> str:
        """The recipe in words, without the number of steps."""
        if self.row_length is None:
            arranged = "each a row of its own. The"
        else:
            arranged = f"packed into rows of {self.row_length} tokens. The"
        return (
            f"{self.images} new images in each step, with up to {self.texts} texts each (a caption, and "
            f"questions and\nstatements of {len(KINDS) - 1} kinds in varied wordings), {arranged}\n"
            "loss covers answers and end tokens, and an answer of n tokens "
            "weighs n^(1/2) in all; a linear head on the\nimage states, dropped afterwards, also names the "
            f"shape and the colour that each patch shows (cross-entropy,\nweight {self.patch_weight:g}). "
            f"AdamW, learning rate {self.learning_rate:g} with {self.warmup_steps} steps of warm-up, then a "
            f"cosine to 1 % of it; betas {self.betas[0]} and {self.betas[1]}, weight\ndecay "
            f"{self.weight_decay} on matrices but not on embeddings, gradients clipped at {self.clip:g}."
        )

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))

    def parameter_groups(self, model: nn.Module) -> list[dict]:
        """Weight decay on matrices only, not on biases, norms and embeddings."""
        decayed, free = [], []
        for name, parameter in model.named_parameters():
            (decayed if parameter.dim() > 1 and "embedding" not in name else free).append(parameter)
        return [{"params": decayed, "weight_decay": self.weight_decay}, {"params": free, "weight_decay": 0.0}]
