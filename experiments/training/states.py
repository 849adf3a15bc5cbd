"""States from which an interrupted run continues: whole or not there, and checked when they are read.

A state is a folder ``states/checkpoint-STEP`` of the Trainer in a run's folder, with the trained weights
instead of the whole model. Beside the states lie the weights that were the best on validation data so far,
``states/best-STEP.safetensors``.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME

from attngraph.errors import UserError
from experiments.errors import first_line
from experiments.files import whole, write_json, write_text
from experiments.methods.method import Tuned
from experiments.training.sharding import divided_like

STATES = "states"  # the folder of states, in a run's folder
TRAINED = "trained.safetensors"  # in a state's folder: the weights
VALIDATIONS = "validations.json"  # in a state's folder: scores on validation data so far
SECONDS = "seconds"  # written last: the time that the run has taken so far

Validated = dict[str, Any]
"""One validation: ``{"step": 100, "scores": {column key: score}}``."""


@dataclass(frozen=True)
class State:
    """What a state tells beside the numbers that the Trainer reads itself.

    Args:
        folder: of the state.
        seconds: that the run has taken so far.
        lines: of the log, one for each step.
        validations: so far.
    """

    folder: Path
    seconds: float
    lines: list[dict[str, Any]]
    validations: list[Validated]


def step_of(state: Path) -> int:
    """The step after which a state was saved."""
    return int(state.name.rpartition("-")[2])


def last_state(folder: Path) -> Path | None:
    """The last whole state in a run's folder."""
    return max(whole_states(folder), key=step_of, default=None)


def whole_states(folder: Path) -> list[Path]:
    """The whole states in a run's folder."""
    return [mark.parent for mark in (folder / STATES).glob(f"checkpoint-*/{SECONDS}")]


def read_state(folder: Path) -> State:
    """A state, after a check that it is the Trainer's and tells of every step.

    Raises:
        UserError: it is damaged.
    """
    with readable(folder):
        step, seconds = step_of(folder), float((folder / SECONDS).read_text())
        saved = TrainerState.load_from_json(str(folder / TRAINER_STATE_NAME))
        lines = [line for line in saved.log_history if "loss" in line]
        if saved.global_step != step or [line["step"] for line in lines] != list(range(1, step + 1)):
            raise ValueError("steps are missing")
        if not all(map(math.isfinite, (seconds, *(line["loss"] for line in lines)))) or seconds < 0:
            raise ValueError("a number is not finite")
        return State(folder, seconds, lines, read_validations(folder))


def read_validations(state: Path) -> list[Validated]:
    """The validations that a state tells of.

    Raises:
        Exception: of one kind or another: they are damaged.
    """
    validations = _listed(state / VALIDATIONS)
    for validated in validations:
        scores = validated["scores"].values()
        if not 0 < validated["step"] <= step_of(state) or not all(map(math.isfinite, scores)):
            raise ValueError("a validation is not of this run")
    return validations


def _listed(file: Path) -> list[Any]:
    """A list; empty in states of earlier versions, which lack the file."""
    content = json.loads(file.read_text()) if file.exists() else []
    if not isinstance(content, list):
        raise ValueError(f"{file.name} holds no list")
    return content


def finish_state(folder: Path, seconds: float, validations: Sequence[Validated]) -> None:
    """Write what makes a state whole.

    Raises:
        UserError: there is no room.
    """
    with written(folder):
        if validations:
            write_json(folder / VALIDATIONS, validations)
        write_text(folder / SECONDS, str(seconds))


@contextmanager
def readable(state: str | Path | None) -> Iterator[None]:
    """Whatever goes wrong while a state is read means the same to the user."""
    try:
        yield
    except Exception as error:
        raise UserError(
            f"{state} cannot be read ({type(error).__name__}: {first_line(error)}): delete that folder and "
            "run again; the run goes on from the state before it, or starts anew"
        ) from error


@contextmanager
def written(state: Path) -> Iterator[None]:
    """Whatever goes wrong while a state is written means the same to the user (each library has its own error
    for a full disk); nothing remains of that state.
    """
    try:
        yield
    except Exception as error:
        shutil.rmtree(state, ignore_errors=True)
        raise UserError(
            f"{state} cannot be saved ({type(error).__name__}: {first_line(error)}): make room on the disk "
            "and run again; the run goes on from the state before it, or starts anew"
        ) from error


def save_weights(tuned: Tuned, file: Path) -> None:
    """Write what is trained, in its own precision."""
    save_file({name: p.detach().cpu().contiguous() for name, p in tuned.parameters().items()}, file)


@torch.no_grad()
def load_weights(tuned: Tuned, file: Path) -> None:
    """Take over what :func:`save_weights` wrote.

    Raises:
        ValueError: a tensor has another shape.
    """
    saved = load_file(file)
    for name, parameter in tuned.parameters().items():
        if saved[name].shape != parameter.shape:
            raise ValueError(f"{name} has another shape")
        parameter.copy_(divided_like(saved[name], parameter))


# ---- the best weights so far ------------------------------------------------------------------------------


def best_file(folder: Path, step: int) -> Path:
    """Where the weights of a step lie while they are the best, in a run's folder."""
    return folder / STATES / f"best-{step}.safetensors"


def save_best(tuned: Tuned, folder: Path, step: int) -> None:
    """Keep the weights of a step as the best so far.

    Raises:
        UserError: there is no room.
    """
    file = best_file(folder, step)
    with written(file), whole(file) as part:
        save_weights(tuned, part)


def remove_best(folder: Path, needed: set[int]) -> None:
    """Remove the weights that were the best once, but for those of some steps."""
    for file in (folder / STATES).glob("best-*.safetensors"):
        if int(file.stem.rpartition("-")[2]) not in needed:
            file.unlink(missing_ok=True)
