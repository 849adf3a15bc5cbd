"""Definition of a run: its training recipe, and the complete run as a YAML file.

An :class:`Experiment` is such a file: it names a method and a task, and all other fields are optional. A
:class:`Cell` is an experiment with values for all fields, which are the identity of a finished run. A
:class:`Part` contains the fields that are common to several runs of a table.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, FiniteFloat, model_validator

from attngraph.errors import UserError
from attngraph.experiments.base.config import Config, file_named, read_yaml
from attngraph.experiments.base.shipped import shipped_folder
from attngraph.experiments.data.drawn import (
    LEAST,
    MANIFEST,
    MOST,
    VERSION,
    Sizes,
    holds_scenes,
    make_scenes,
    write_scenes,
)
from attngraph.experiments.data.layouts import Amounts
from attngraph.experiments.models.family import Answering
from attngraph.experiments.models.weights import weights_digest
from attngraph.experiments.runs.answering import described, way_of
from attngraph.experiments.runs.changes import with_changes
from attngraph.experiments.tasks import TASKS
from attngraph.experiments.tasks.task import Task

AT_RATE = "@"  # between row and rate in the names of the runs of `attngraph sweep`, which are no table's
EXPERIMENT = "experiment.yaml"  # in a run's folder
REMEDY = 'see the page "Experiment file" of the docs, or experiments/configs/experiments, for the format'
VALIDATED = "validation"  # the split by which the best state of a run is chosen


def no_switch(value: Any) -> Any:
    """The value, unless it is true or false, which pydantic would accept as numbers."""
    if isinstance(value, bool):
        raise ValueError("use a number, not true or false")
    return value


Integer = Annotated[int, BeforeValidator(no_switch)]
Number = Annotated[FiniteFloat, BeforeValidator(no_switch)]
Whole = Annotated[Integer, Field(gt=0, le=10**9)]  # steps or examples
Natural = Annotated[Integer, Field(ge=0, le=10**9)]
Positive = Annotated[Number, Field(gt=0)]
Share = Annotated[Number, Field(ge=0, lt=1)]
Seed = Annotated[Integer, Field(ge=0, lt=2**31)]
Counts = tuple[Whole, Whole, Whole]

MOST_BEAMS = 100
FIRST = "learning_rate steps batch_size accumulation warmup weight_decay label_smoothing clip".split()


class Diverged(UserError):
    """The loss of a run is not finite."""


class Recipe(Config):
    """Training recipe. Null means the value chosen on validation data (``learning_rate``), or the task's
    default; a :class:`Cell` has no null fields left, and steps instead of epochs.

    Args:
        learning_rate: peak of the schedule (warm-up, then down to 0).
        steps: optimiser steps.
        epochs: passes over the training examples, instead of steps.
        batch_size: examples per step, over all processes.
        accumulation: forward and backward passes that a step is divided into.
        warmup: fraction of the steps for warm-up.
        weight_decay: weight decay of AdamW, for matrices only.
        label_smoothing: label smoothing of the cross-entropy.
        clip: maximum norm of the gradient.
        group_pictures: number of consecutive examples of the same image, if it has that many. They are in one
            batch, so that computations that depend only on the image are shared. 1 for examples in random
            order. See "Grouping examples by image" on the page "Experiment file" of the docs.
        augment: whether images are augmented in training, see :mod:`attngraph.experiments.models.augment`.
        schedule: schedule of the learning rate after warm-up.
        precision: precision of the forward and backward passes; weights stay float32. ``auto``: bfloat16 if
            the device computes it faster.
        checkpointing: whether activations are recomputed in the backward pass, to save memory.
        validate_every: steps between evaluations on validation data. The weights with the best score so far,
            in the task's selection column, are kept; None for the weights after the last step.
        patience: number of evaluations without a better score after which training ends; None for no limit.
    """

    learning_rate: Positive | None = None
    steps: Whole | None = None
    epochs: Annotated[Number, Field(gt=0, le=100_000)] | None = None
    batch_size: Whole | None = None
    accumulation: Whole = 1
    warmup: Share = 0.06
    weight_decay: Annotated[Number, Field(ge=0)] = 0.05
    label_smoothing: Share = 0.1
    clip: Positive = 1.0
    group_pictures: Whole = 1
    augment: bool | None = None
    schedule: Literal["linear", "cosine"] = "linear"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    checkpointing: bool = False
    validate_every: Whole | None = None
    patience: Whole | None = None

    @model_validator(mode="after")
    def _one_length(self):
        if self.steps is not None and self.epochs is not None:
            raise ValueError(
                f"use steps or epochs, not both ({self.steps} and {self.epochs:g}): set one of them to null"
            )
        return self

    def description(self) -> dict[str, Any]:
        """The fields that determine a run's result, as plain values. Fields added in later versions are
        omitted at their defaults, so that earlier runs keep their identity.
        """
        default = Recipe()
        later = {name: value for name, value in self if value and value != getattr(default, name)}
        return {name: getattr(self, name) for name in FIRST} | later

    def factor(self, step: int) -> float:
        r"""The learning rate in a step (counted from 0), relative to its peak: a linear warm-up, then

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
                f"a batch of {size} examples cannot be divided among {processes} processes with "
                f"{self.accumulation} passes each: choose a multiple"
            )
        return size // parts


class TextDecoding(Config):
    """Options of text generation, see :class:`attngraph.experiments.models.family.Decoding`; null for the
    task's defaults."""

    max_new_tokens: Whole | None = None
    num_beams: Annotated[Whole, Field(le=MOST_BEAMS)] | None = None
    min_new_tokens: Natural | None = None
    length_penalty: Literal["length", "gnmt"] | None = None
    as_released: Literal["blip", "p_adapter"] | None = None


class ListRanking(Config):
    """Options of ranking a list of answers; null for the values of the model's authors."""

    k: Whole | None = None
    label_smoothing: Share | None = None


class Answers(Config):
    """Answering mode.

    Args:
        answering: ``generate`` or ``rank``; null for the task's default.
        decoding, ranking: options of the modes.
        eval_examples: maximum number of examples to score; null for the task's default.
    """

    answering: Literal["generate", "rank"] | None = None
    decoding: TextDecoding = TextDecoding()
    ranking: ListRanking = ListRanking()
    eval_examples: Whole | None = None

    def details(self) -> dict[str, Any]:
        """Options that differ from the task's answering mode, by name."""
        return {**self.decoding.model_dump(exclude_none=True), **self.ranking.model_dump(exclude_none=True)}


class Part(Answers):
    """Fields that several runs may have in common.

    Args:
        side: side of the images, in pixels; null for the checkpoint's.
        recipe: training recipe.
        train_examples: maximum number of training examples; null for the task's default.
    """

    side: Annotated[Whole, Field(le=4096)] | None = None
    recipe: Recipe = Recipe()
    train_examples: Whole | None = None

    def said(self) -> dict[str, Any]:
        """The fields that are set, as plain values."""
        return self.model_dump(exclude_unset=True)


def laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Two parts merged field by field: fields that ``above`` does not set are those of ``below``. Steps and
    epochs are alternatives: setting one of them overrides both.
    """
    merged = dict(below)
    for name, value in above.items():
        earlier = merged.get(name)
        is_section = isinstance(value, Mapping) and isinstance(earlier, Mapping)
        merged[name] = laid_over(earlier, value) if is_section else value
        if value is not None and (other := {"steps": "epochs", "epochs": "steps"}.get(name)):
            merged.pop(other, None)
    return merged


class Scenes(Config):
    """Synthetic data, generated if no folder of data is given.

    Args:
        questions, hypotheses, captions: numbers of examples for training, validation and test.
        layouts: number of training examples of the six datasets in their official layouts, which are
            generated instead.
        published: task -> numbers of training and test examples in the official files. No data are generated
            in this case: the user must provide the folder of these files.
        seed: seed of the scenes.
    """

    seed: Seed = 0
    questions: Counts = Sizes().questions
    hypotheses: Counts = Sizes().hypotheses
    captions: Counts = Sizes().captions
    layouts: Annotated[int, Field(ge=LEAST, le=MOST)] | None = None
    published: dict[str, tuple[Whole, Whole]] = Field(default_factory=dict)

    @property
    def is_official(self) -> bool:
        """Whether they take the place of datasets in official files."""
        return self.layouts is not None or bool(self.published)

    def count(self, task: Task) -> int | None:
        """Number of training examples of a task; None for a task without synthetic data."""
        if self.published:
            return self.published[task.name][0]
        if self.layouts is not None:
            return Amounts.of(self.layouts)[0]
        return None if task.drawn is None else getattr(self, task.drawn)[0]

    def draw(self, folder: Path) -> None:
        """Write the data, or reuse existing data with the same settings."""
        if self.layouts is not None:
            make_scenes(folder, self.seed, self.layouts)
        elif not self.published:
            write_scenes(folder, self.seed, Sizes(self.questions, self.hypotheses, self.captions))

    @staticmethod
    def found(data: Path) -> Scenes | None:
        """The scenes that ``attngraph scenes`` or a table has generated in a folder; None unless this version
        is known to generate the same scenes.
        """
        if not holds_scenes(data):
            return None
        try:
            manifest = json.loads((data / MANIFEST).read_text(encoding="utf-8"))
            if manifest["version"] == VERSION:
                return Scenes(seed=manifest["seed"], **manifest["sizes"])
        except (ValueError, KeyError, TypeError):  # damaged
            pass
        return None


class Experiment(Part):
    """An experiment.

    Args:
        method, task: names of the method and the task.
        data: folder of the datasets; null for synthetic data and for data in a package.
        model: checkpoint folder, hub name or name of a shipped model; null for the shipped mini-BLIP.
        seed: seed of the trainable weights and of the order of the examples.
        settings: settings of the method, which replace those chosen on validation data.
        split: the split to score.
        scenes: synthetic data; null for the default.
    """

    method: str
    task: str
    data: Path | None = None
    model: str | None = None
    seed: Seed = 0
    settings: dict[str, Any] = Field(default_factory=dict)
    split: Literal["validation", "test"] = "test"
    scenes: Scenes | None = None


class Cell(Experiment):
    """One run: an experiment with values for all fields.

    Args:
        label: name of its folder: the method, and in a search the setting that is tried.
        recipe: training recipe; None for methods without training.
        data: folder of the datasets.
        scenes: synthetic data to generate in that folder; None if the data exist, or are not needed.
        checkpoint: whether the model is one of the checkpoints to which a grid's seeds are assigned. Finished
            runs are reused even on a machine without the checkpoint.
    """

    label: str
    recipe: Recipe | None  # type: ignore[assignment]
    data: Path  # type: ignore[assignment]
    checkpoint: bool = False

    def __hash__(self) -> int:  # its settings have none
        return hash(self.name)

    @property
    def name(self) -> str:
        """Name of the run in messages, unique in a table."""
        return f"{self.label} {self.task} seed {self.seed}"

    def folder(self, out: Path) -> Path:
        """Folder of the run."""
        return out / "cells" / self.label / self.task / f"seed{self.seed}"

    def way(self) -> Answering:
        """The answering mode."""
        return way_of(TASKS[self.task], self.data, self.answering, self.model, self.details())

    def description(self) -> dict[str, Any]:
        """The fields that determine the result, as plain values. They include the answering mode if the user
        chose it, and for tasks on official files, whose lists of answers may change with the data.
        """
        task = TASKS[self.task]
        names = ("label", "method", "settings", "task", "seed", "split", "train_examples", "eval_examples")
        content = {name: getattr(self, name) for name in names}
        content["recipe"] = self.recipe and self.recipe.description()
        content["data"] = task.content(self.data, self.split)
        content["weights"] = weights_digest(self.model)
        if self.side is not None:
            content["side"] = self.side
        if self.recipe and self.recipe.validate_every is not None:
            content["validation"] = task.content(self.data, VALIDATED)
        if self.answering is not None or task.data_set is not None or self.details():
            content["answering"] = described(self.way())
        # lists and texts in the place of tuples and paths
        return json.loads(json.dumps(content, default=str))

    def yaml(self) -> str:
        """An experiment file of this run, with all fields that determine its result."""
        task, drawn = TASKS[self.task], self.scenes
        if drawn is not None and drawn.is_official:  # which only a table draws
            drawn = None
        has_data = drawn is None and not task.packaged and self.data.is_dir()
        is_folder = shipped_folder(self.model) is None and Path(str(self.model)).is_dir()
        first = ("method", "task", "data", "model", "side", "seed", "settings", "recipe")
        content = dict.fromkeys(first) | self.model_dump(mode="json", exclude={"label", "checkpoint"})
        content["data"] = str(self.data.absolute()) if has_data else None
        content["model"] = str(Path(str(self.model)).absolute()) if is_folder else self.model
        content["recipe"] = (self.recipe or Recipe()).model_dump(mode="json")
        content["scenes"] = (drawn or Scenes()).model_dump(mode="json", include={"seed", *asdict(Sizes())})
        if not task.ranks:
            content["answering"] = None  # a table's own holds for all of its tasks
        return yaml.safe_dump(content, sort_keys=False)


def load_experiment(name: str | None, words: list[str]) -> Experiment:
    """An experiment by its name or by the path of a YAML file, with changes.

    Args:
        name: None for an experiment that consists of changes only.
        words: changes, such as ``recipe.steps=100``.

    Raises:
        UserError: no such experiment, a damaged file, or changes that do not apply to it.
    """
    if name is None:
        remedy = "change it with --set NAME=VALUE, or use a file"
        return with_changes(None, words, Experiment, "an experiment without a file", remedy)
    file = file_named(name, "experiment")
    return with_changes(read_yaml(file, REMEDY), words, Experiment, f"{file}", REMEDY)
