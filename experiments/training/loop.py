"""The training loop of one run: resumable, with a row of metrics per step."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from attngraph.errors import UserError
from experiments.methods.method import Tuned
from experiments.models.generation import decoder_loss, sequence_batch
from experiments.training.device import mixed_precision


class Diverged(UserError):
    """The loss of a run is not finite."""


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Args:
        learning_rate: peak of a linear schedule (warm-up, then down to 0).
        steps: optimiser steps.
        batch_size: examples per step.
        warmup: share of the steps to warm up.
        weight_decay: AdamW's, on matrices only.
        label_smoothing: of the cross-entropy.
        clip: limit of the gradient norm.
    """

    learning_rate: float
    steps: int
    batch_size: int = 64
    warmup: float = 0.06
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    clip: float = 1.0

    def __post_init__(self):
        for name in ("learning_rate", "steps", "batch_size"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} must be above 0, got {getattr(self, name)}")

    def factor(self, step: int) -> float:
        """The share of its peak that a learning rate has in a step, counted from 0."""
        warm = max(1, round(self.warmup * self.steps))
        return min((step + 1) / warm, (self.steps - step) / max(1, self.steps - warm))


LAST = 20  # steps whose mean loss sums up a run
SAVE_EVERY = 200  # steps between states from which an interrupted run continues


def batch_positions(examples: int, batch_size: int, seed: int, step: int) -> tuple[Tensor, Tensor]:
    """Positions of a step's examples, and a uniform draw for each: a function of seed and step alone, so that an
    interrupted run continues as if it had not been interrupted. Every epoch is a new permutation."""
    batch_size = min(batch_size, examples)
    per_epoch = examples // batch_size
    epoch, k = divmod(step, per_epoch)
    order = torch.randperm(examples, generator=torch.Generator().manual_seed(1_000_003 * seed + epoch))
    draws = torch.rand(batch_size, generator=torch.Generator().manual_seed(7_368_787 * seed + 31 + step))
    return order[k * batch_size : (k + 1) * batch_size], draws


def train(
    model: nn.Module,
    tuned: Tuned,
    tokenizer,
    prompts: Sequence[str],
    target: Callable[[int, float], str],
    states: Callable[[Tensor], Tensor],
    recipe: Recipe,
    seed: int,
    folder: Path,
    on_step: Callable[[int], None] = lambda step: None,
) -> tuple[float, float]:
    """Train what ``tuned`` declares trainable.

    Args:
        prompts: one per training example.
        target: (position, uniform draw) -> the answer to train on.
        states: positions -> image states.
        folder: the run's folder; gets ``metrics.csv``, and ``state.pt`` until the run is finished.
        on_step: told after every step.

    Returns:
        The mean loss of the last steps, and the seconds that earlier, interrupted calls took.

    Raises:
        Diverged: the loss is not finite.
        UserError: the saved state is damaged.
    """
    optimizer = torch.optim.AdamW(tuned.optimizer_groups(recipe.learning_rate, recipe.weight_decay))
    peaks = [group["lr"] for group in optimizer.param_groups]
    parameters = tuned.parameters()
    state_file, metrics_file = folder / "state.pt", folder / "metrics.csv"
    rows, earlier = [], 0.0
    if state_file.exists():
        rows, earlier = _load_state(state_file, tuned, optimizer)
    began = time.perf_counter()
    model.train()
    for step in range(len(rows), recipe.steps):
        positions, draws = batch_positions(len(prompts), recipe.batch_size, seed, step)
        batch = sequence_batch(
            tokenizer,
            [prompts[k] for k in positions.tolist()],
            [target(k, u) for k, u in zip(positions.tolist(), draws.tolist())],
        )
        batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * recipe.factor(step)
        with mixed_precision(model.device):
            loss = decoder_loss(model, states(positions), batch, recipe.label_smoothing)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(parameters, recipe.clip)
        value = loss.item()
        if not (math.isfinite(value) and math.isfinite(norm.item())):
            raise Diverged(
                f"{folder}: the loss is not finite at step {step}; lower the learning rate "
                f"({recipe.learning_rate:g})"
            )
        optimizer.step()
        rows.append(
            {
                "step": step + 1,
                "loss": round(value, 5),
                "learning_rate": recipe.learning_rate * recipe.factor(step),
                "gradient_norm": round(norm.item(), 4),
            }
        )
        if (step + 1) % SAVE_EVERY == 0 and step + 1 < recipe.steps:
            _save_state(state_file, (rows, earlier + time.perf_counter() - began), tuned, optimizer)
        on_step(step + 1)
    model.eval()
    with open(metrics_file, "w", newline="") as file:
        writer = csv.DictWriter(file, ["step", "loss", "learning_rate", "gradient_norm"])
        writer.writeheader()
        writer.writerows(rows)
    last = [row["loss"] for row in rows[-LAST:]]
    return sum(last) / len(last), earlier


Progress = tuple[list[dict], float]  # a row of metrics per step, seconds


def _save_state(file: Path, progress: Progress, tuned: Tuned, optimizer: torch.optim.Optimizer) -> None:
    part = file.with_suffix(".part")
    torch.save(
        {
            "progress": progress,
            "weights": tuned.state_dict(),
            "optimizer": optimizer.state_dict(),
            "rng": torch.get_rng_state(),
        },
        part,
    )
    part.replace(file)


def _load_state(file: Path, tuned: Tuned, optimizer: torch.optim.Optimizer) -> Progress:
    try:
        state = torch.load(file, weights_only=True, map_location="cpu")
        tuned.load_state_dict(state["weights"])
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"])
        return state["progress"]
    except Exception as error:
        raise UserError(
            f"{file} cannot be read ({type(error).__name__}): delete it to start this run again"
        ) from error
