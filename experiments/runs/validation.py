"""Validation during training: selection of the best weights, and early stopping.

Validation does not affect training: random generators and the modules' modes are restored, so a run with
validation that keeps its last state is bitwise identical to a run without.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor, nn

from attngraph.experiments.base.files import write_text
from attngraph.experiments.methods.method import Tuned
from attngraph.experiments.models.family import Answering
from attngraph.experiments.runs.answering import predict
from attngraph.experiments.runs.data import TaskData
from attngraph.experiments.runs.device import agreed
from attngraph.experiments.runs.experiment import Recipe

VALIDATION = "validation.csv"  # in a run's folder: a line for each validation


@dataclass
class Validation:
    """Validates a run at regular intervals, and after the last step.

    Args:
        tuned: the model.
        data: validation examples.
        way: the answering mode.
        recipe: the training recipe, with the interval and the patience.
        folder: folder of the run, for ``validation.csv``.
        done: the validations so far: ``{"step": 100, "scores": {column key: score}}``.
        best: the trained weights of the best step so far.
    """

    tuned: Tuned
    data: TaskData
    way: Answering
    recipe: Recipe
    folder: Path
    done: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)

    @property
    def best_step(self) -> int:
        """The step with the highest score so far (the first one of equals); 0 before any validation."""
        column = self.data.task.selects
        best = max(self.done, key=lambda validated: validated["scores"][column], default=None)
        return 0 if best is None else best["step"]

    @property
    def is_over(self) -> bool:
        """Whether the number of validations without a better score has reached the patience."""
        since = sum(validated["step"] > self.best_step for validated in self.done)
        return self.recipe.patience is not None and since >= self.recipe.patience

    def is_due(self, step: int) -> bool:
        """Whether the run is validated after this step."""
        return step % (self.recipe.validate_every or 1) == 0 or step == self.recipe.steps

    def validate(self, step: int) -> dict[str, float]:
        """Score the model after a step, and keep its weights if they are the best; returns the scores."""
        scores = self.scores()
        self.done.append({"step": step, "scores": scores})
        if self.best_step == step:
            self.best = weights_of(self.tuned)
        if PartialState().is_main_process:
            lines = ([validated["step"], *validated["scores"].values()] for validated in self.done)
            write_table(self.folder / VALIDATION, ["step", *scores], lines)
        return scores

    def scores(self) -> dict[str, float]:
        """The scores of the model with its current weights, by column; the same on every process."""
        with undisturbed(self.tuned.family.model):
            predictions = predict(self.tuned, self.data, self.way)
        found = agreed(lambda: self.data.task.score(predictions, self.data.examples).columns)
        return {column: float(score) for column, score in found.items()}


def weights_of(tuned: Tuned) -> dict[str, Tensor]:
    """A copy of the trained weights, in their precision."""
    return {name: parameter.detach().cpu().clone() for name, parameter in tuned.parameters().items()}


@torch.no_grad()
def load_weights(tuned: Tuned, weights: Mapping[str, Tensor]) -> None:
    """Load weights returned by :func:`weights_of`."""
    for name, parameter in tuned.parameters().items():
        parameter.copy_(weights[name])


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """A block with the model in evaluation mode, after which random generators and modes are restored."""
    modes, generators = {module: module.training for module in model.modules()}, random_state()
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        set_random_state(generators)


def random_state() -> dict[str, Any]:
    """The state of this process's random generators, as types that :func:`torch.load` reads safely."""
    kind, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": [kind, keys.tolist(), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Restore the state of random generators."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"])


def write_table(file: Path, heading: Sequence[str], lines: Iterable[Sequence[float]]) -> None:
    """Write a table of numbers as CSV."""
    write_text(file, "".join(f"{','.join(map(str, line))}\n" for line in (heading, *lines)))
