"""What a run is: how it trains, and the whole of it as a YAML file.

An :class:`Experiment` is such a file: it names a method and a task, and may leave everything else open. A
:class:`Cell` is an experiment in which all is decided; what it says is the identity of a finished run. A
:class:`Part` is what a table says of several runs at once: all fields that do not tell one of its runs from
another.
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
from attngraph.experiments.data.drawn import LEAST, MOST, VERSION, Sizes, make_scenes, write_scenes
from attngraph.experiments.data.layouts import Amounts
from attngraph.experiments.models.family import Answering
from attngraph.experiments.models.weights import weights_digest
from attngraph.experiments.runs.answering import described, way_of
from attngraph.experiments.runs.changes import with_changes
from attngraph.experiments.tasks import TASKS
from attngraph.experiments.tasks.task import MANIFEST, Task, holds_scenes

EXPERIMENT = "experiment.yaml"  # in a run's folder
FOLDER = Path(__file__).parents[1] / "configs" / "experiments"
REMEDY = (
    'see the page "Experiment file" of the docs, or experiments/configs/experiments, for what a file holds'
)
VALIDATED = "validation"  # the split by which the best state of a run is chosen


def no_switch(value: Any) -> Any:
    """The value, unless it is true or false, which pass for numbers."""
    if isinstance(value, bool):
        raise ValueError("give a number, not true or false")
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
    """How to train. Null stands for what was chosen on validation data (``learning_rate``), or what the task
    says; a :class:`Cell` has no such field left, and steps in the place of epochs.

    Args:
        learning_rate: peak of the schedule (warm-up, then down to 0).
        steps: optimiser steps.
        epochs: passes over the training examples, in the place of steps.
        batch_size: examples per step, over all processes.
        accumulation: forward and backward passes that a step is divided into.
        warmup: share of the steps to warm up.
        weight_decay: AdamW's, on matrices only.
        label_smoothing: of the cross-entropy.
        clip: limit of the gradient norm.
        group_pictures: how many examples of a picture come one after the other, and so into one batch, where
            it has so many: what depends on the picture alone is then computed once for them. 1 for examples
            in random order. See "Grouping examples by image" on the page "Experiment file" of the docs.
        augment: whether pictures are changed in training, see :mod:`attngraph.experiments.models.augment`.
        schedule: how the learning rate goes down.
        precision: of the forward and backward pass; weights stay float32. ``auto`` is bfloat16 where it pays.
        checkpointing: whether activations are computed again in the backward pass, to save memory.
        validate_every: steps between scores on validation data, after which the best state so far is kept,
            by the column that the task names; None for the state after the last step.
        patience: how many validations without a better score end the training; None for never.
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
                f"give steps or epochs, not both ({self.steps} and {self.epochs:g}): set one of them to null"
            )
        return self

    def description(self) -> dict[str, Any]:
        """What decides a run's result, as plain values. What was added later is left out at its default:
        runs that were made before there was such a thing are the same runs still.
        """
        default = Recipe()
        later = {name: value for name, value in self if value and value != getattr(default, name)}
        return {name: getattr(self, name) for name in FIRST} | later

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


class TextDecoding(Config):
    """How texts are generated, see :class:`attngraph.experiments.models.family.Decoding`; null as the task
    says."""

    max_new_tokens: Whole | None = None
    num_beams: Annotated[Whole, Field(le=MOST_BEAMS)] | None = None
    min_new_tokens: Natural | None = None
    length_penalty: Literal["length", "gnmt"] | None = None
    as_released: Literal["blip", "p_adapter"] | None = None


class ListRanking(Config):
    """How a list of answers is ranked; null as the model's authors do it."""

    k: Whole | None = None
    label_smoothing: Share | None = None


class Answers(Config):
    """How answers come about.

    Args:
        answering: ``generate`` or ``rank``; null as the task says.
        decoding, ranking: the details of each.
        eval_examples: how many examples are scored at most; null as the task says.
    """

    answering: Literal["generate", "rank"] | None = None
    decoding: TextDecoding = TextDecoding()
    ranking: ListRanking = ListRanking()
    eval_examples: Whole | None = None

    def details(self) -> dict[str, Any]:
        """What is changed of the task's way to answer, by name."""
        return {**self.decoding.model_dump(exclude_none=True), **self.ranking.model_dump(exclude_none=True)}


class Part(Answers):
    """What can be said of several runs at once.

    Args:
        side: of the pictures, in pixels; null as the checkpoint says.
        recipe: how to train.
        train_examples: how many examples are trained on at most; null as the task says.
    """

    side: Annotated[Whole, Field(le=4096)] | None = None
    recipe: Recipe = Recipe()
    train_examples: Whole | None = None

    def said(self) -> dict[str, Any]:
        """What it says, as plain values; what it leaves open is left out."""
        return self.model_dump(exclude_unset=True)


def laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """What parts say together, field by field: what ``above`` leaves open is as ``below`` says. Steps and
    epochs are two ways to say one thing.
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
    """The data that are drawn where nobody names a folder with data.

    Args:
        questions, hypotheses, captions: how many for training, validation and test.
        layouts: draw the six data sets in their official layouts instead, with so many examples for training.
        published: task -> how many examples for training and test the official files hold. Nothing is drawn
            then: who runs it names the folder with these files.
        seed: of the drawn scenes.
    """

    seed: Seed = 0
    questions: Counts = Sizes().questions
    hypotheses: Counts = Sizes().hypotheses
    captions: Counts = Sizes().captions
    layouts: Annotated[int, Field(ge=LEAST, le=MOST)] | None = None
    published: dict[str, tuple[Whole, Whole]] = Field(default_factory=dict)

    @property
    def is_official(self) -> bool:
        """Whether they stand for data sets in official files."""
        return self.layouts is not None or bool(self.published)

    def count(self, task: Task) -> int | None:
        """How many training examples a task has; None for a task whose data are not drawn."""
        if self.published:
            return self.published[task.name][0]
        if self.layouts is not None:
            return Amounts.of(self.layouts)[0]
        return None if task.drawn is None else getattr(self, task.drawn)[0]

    def draw(self, folder: Path) -> None:
        """Write them, or reuse what is there of the same settings."""
        if self.layouts is not None:
            make_scenes(folder, self.seed, self.layouts)
        elif not self.published:
            write_scenes(folder, self.seed, Sizes(self.questions, self.hypotheses, self.captions))

    @staticmethod
    def found(data: Path) -> Scenes | None:
        """The scenes that ``attngraph scenes`` or a table has drawn into a folder; None where nothing says
        that this version would draw the same.
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
        method, task: their names.
        data: folder of the data sets; null where they are drawn or come with a package.
        model: checkpoint folder, hub name or name of a shipped model; null for the mini-BLIP that ships with
            the package.
        seed: of the trainable weights and of the order of the examples.
        settings: the method's, in the place of those that were chosen on validation data.
        split: the one that is scored.
        scenes: which are drawn; null for the default.
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
    """One run: an experiment in which everything is decided.

    Args:
        label: names its folder: the method, and in a search what is tried.
        recipe: how to train; None for methods without training.
        data: folder of the data sets.
        scenes: that are drawn into it; None where it is there, or nothing is read from it.
        checkpoint: whether the model is one of those that a grid's seeds are dealt over. A finished run
            counts where this machine does not have its checkpoint.
    """

    label: str
    recipe: Recipe | None  # type: ignore[assignment]
    data: Path  # type: ignore[assignment]
    checkpoint: bool = False

    def __hash__(self) -> int:  # its settings have none
        return hash(self.name)

    @property
    def name(self) -> str:
        """In messages; that of no other run of a table."""
        return f"{self.label} {self.task} seed {self.seed}"

    def folder(self, out: Path) -> Path:
        """Where the run is saved."""
        return out / "cells" / self.label / self.task / f"seed{self.seed}"

    def way(self) -> Answering:
        """How the model answers."""
        return way_of(TASKS[self.task], self.data, self.answering, self.model, self.details())

    def description(self) -> dict[str, Any]:
        """What decides the result, as plain values. How the model answers is a part where the user chose
        it, and for tasks on official files, whose lists may change with the data.
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
        """The file of an experiment that is this run: all that decides its result is named in it."""
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


def experiment_names() -> list[str]:
    """The experiments that ship with the package."""
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


def load_experiment(name: str | None, words: list[str]) -> Experiment:
    """An experiment by its name or by the path of a YAML file, with changes.

    Args:
        name: None for an experiment that consists of changes alone.
        words: changes, such as ``recipe.steps=100``.

    Raises:
        UserError: no such experiment, a damaged file, or changes that do not fit it.
    """
    if name is None:
        remedy = "change it with --set NAME=VALUE, or give a file"
        return with_changes(None, words, Experiment, "an experiment without a file", remedy)
    file = file_named(name, FOLDER, experiment_names(), "experiment")
    return with_changes(read_yaml(file, REMEDY), words, Experiment, f"{file}", REMEDY)
