"""Scores on validation data while a run trains: which state was the best, and when to stop early.

Nothing of it changes the training: random generators and the modules' modes are put back, so a run that is
validated and keeps its last state is, to the bit, one that is not.
"""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import TrainerCallback

from experiments.files import write_text
from experiments.methods.method import Tuned
from experiments.models.family import Answering
from experiments.training.data import TaskData
from experiments.training.device import agreed
from experiments.training.prediction import predict
from experiments.training.recipe import Recipe
from experiments.training.sharding import together
from experiments.training.states import (
    STATES,
    Validated,
    best_file,
    load_weights,
    read_validations,
    readable,
    remove_best,
    save_best,
    whole_states,
)

VALIDATION = "validation.csv"  # in a run's folder: a line for each validation


def best_of(validations: Sequence[Validated], column: str) -> int:
    """The step with the highest score; the first of them on a tie. 0 where there are no validations."""
    best = max(validations, key=lambda validated: validated["scores"][column], default=None)
    return 0 if best is None else best["step"]


def validations_since(validations: Sequence[Validated], column: str) -> int:
    """How many validations have come after the best one."""
    best = best_of(validations, column)
    return sum(validated["step"] > best for validated in validations)


@dataclass
class Validation(TrainerCallback):
    """Validates a run every so many steps, and after the last one.

    Args:
        tuned: the model.
        data: validation examples.
        way: how it answers.
        recipe: says how often, and how patient to be.
        folder: the run's; gets ``validation.csv``.
        tell: gets the step and the scores of each validation.
        done: the validations so far, of a run that goes on.
    """

    tuned: Tuned
    data: TaskData
    way: Answering
    recipe: Recipe
    folder: Path
    tell: Callable[[int, dict[str, float]], None] = lambda step, scores: None
    done: list[Validated] = field(default_factory=list)

    @property
    def best_step(self) -> int:
        """The step whose state is the best so far."""
        return best_of(self.done, self.data.task.selects)

    @property
    def is_over(self) -> bool:
        """Whether the run has been validated often enough without a better score."""
        since, patience = validations_since(self.done, self.data.task.selects), self.recipe.patience
        return patience is not None and since >= patience

    def on_step_end(self, args, state, control, **more) -> None:
        step, every = state.global_step, self.recipe.validate_every
        if every is None or (step % every and step != self.recipe.steps):
            return
        with together(more["model"]):
            scores = self.scores()
            self.done.append({"step": step, "scores": scores})
            if state.is_world_process_zero and self.best_step == step:
                save_best(self.tuned, self.folder, step)
        if state.is_world_process_zero:
            write_text(self.folder / VALIDATION, table(self.done))
            self.tell(step, self.done[-1]["scores"])
        if self.is_over:
            control.should_training_stop = control.should_save = True

    def scores(self) -> dict[str, float]:
        """The scores of the model as it is, by column; the same on every process."""
        with undisturbed(self.tuned.family.model):
            predictions = predict(self.tuned, self.data, self.way)
        found = agreed(lambda: self.data.task.score(predictions, self.data.examples).columns)
        return {column: float(score) for column, score in found.items()}

    def go_on(self, done: Sequence[Validated]) -> None:
        """Go on after these validations."""
        self.done[:] = done

    def tidy(self) -> None:
        """Remove weights that were the best once, and that no state needs any more."""
        needed = {self.best_step}
        for state in whole_states(self.folder):
            with readable(state):
                needed.add(best_of(read_validations(state), self.data.task.selects))
        remove_best(self.folder, needed)

    def check(self) -> None:
        """Check that the best weights so far are there.

        Raises:
            FileNotFoundError: they are not.
        """
        if self.done and not (file := best_file(self.folder, self.best_step)).exists():
            raise FileNotFoundError(f"{file.name} is missing")

    def take_best(self) -> None:
        """Give the model the best weights.

        Raises:
            UserError: they cannot be read.
        """
        with readable(self.folder / STATES):
            load_weights(self.tuned, best_file(self.folder, self.best_step))


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """A block with the model in evaluation mode, after which random generators and modes are as before."""
    modes = {module: module.training for module in model.modules()}
    plain, numbers = random.getstate(), np.random.get_state()
    gpus = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(gpus):
        model.eval()
        try:
            yield
        finally:
            for module, mode in modes.items():
                module.training = mode
            random.setstate(plain)
            np.random.set_state(numbers)


def table(validations: Sequence[Validated]) -> str:
    """A line for each validation: the step, and the score of each column."""
    text = io.StringIO()
    columns = list(validations[0]["scores"])
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["step", *columns])
    for validated in validations:
        writer.writerow([validated["step"], *(validated["scores"][column] for column in columns)])
    return text.getvalue()
