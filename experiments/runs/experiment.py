"""What a run is: how it trains, and the whole of it as a YAML file.

A :class:`Recipe` says how a run trains. An :class:`Experiment` names a method and a task; everything else it
may leave open. A :class:`Part` is what a table says of several runs at once: all fields of a run that do not
tell one run of a table from another.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import yaml
from pydantic import BeforeValidator, Field, FiniteFloat, create_model, model_validator

from attngraph.errors import UserError
from experiments.base.config import Config, file_named, read_yaml
from experiments.base.shipped import shipped_folder
from experiments.data.drawn import LEAST, MOST, VERSION, Sizes, make_scenes, write_scenes
from experiments.data.layouts import Amounts
from experiments.runs.changes import read_changes, with_changes
from experiments.tasks import TASKS
from experiments.tasks.task import MANIFEST, SPLITS, Task, holds_scenes

EXPERIMENT = "experiment.yaml"  # in a run's folder
FOLDER = Path(__file__).parents[1] / "configs" / "experiments"
REMEDY = (
    'see the page "Training one experiment" of the docs, or experiments/configs/experiments, for what a file '
    "holds"
)


def no_switch(value: Any) -> Any:
    """The value, unless it is true or false, which pass for numbers."""
    if isinstance(value, bool):
        raise ValueError("give a number, not true or false")
    return value


Whole = Annotated[int, Field(gt=0, le=10**9), BeforeValidator(no_switch)]  # steps or examples
Natural = Annotated[int, Field(ge=0, le=10**9), BeforeValidator(no_switch)]
Number = Annotated[FiniteFloat, BeforeValidator(no_switch)]
Positive = Annotated[Number, Field(gt=0)]
Share = Annotated[Number, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31), BeforeValidator(no_switch)]
Counts = tuple[Whole, Whole, Whole]

FIRST = "learning_rate steps batch_size accumulation warmup weight_decay label_smoothing clip".split()
OPEN = ("learning_rate", "steps", "batch_size", "augment")  # fields of a recipe that a file may leave open


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
        schedule: how the learning rate goes down.
        precision: of the forward and backward pass; weights stay float32. ``auto`` is bfloat16 where it pays.
        checkpointing: whether activations are computed again in the backward pass, to save memory.
        compile: whether the model is compiled by ``torch.compile``.
        validate_every: steps between scores on validation data, after which the best state so far is kept,
            by the column that the task names; None for the state after the last step.
        patience: how many validations without a better score end the training; None for never.
    """

    learning_rate: Positive
    steps: Whole
    batch_size: Whole = 64
    accumulation: Whole = 1
    warmup: Share = 0.06
    weight_decay: Annotated[Number, Field(ge=0)] = 0.05
    label_smoothing: Share = 0.1
    clip: Positive = 1.0
    augment: bool = False
    schedule: Literal["linear", "cosine"] = "linear"
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    checkpointing: bool = False
    compile: bool = False
    validate_every: Whole | None = None
    patience: Whole | None = None

    def __post_init__(self):
        if self.patience is not None and self.validate_every is None:
            raise UserError("patience counts validations: give validate_every too")

    def description(self) -> dict[str, Any]:
        """What decides a run's result, as plain values. What was added later is left out at its default:
        runs that were made before there was such a thing are the same runs still.
        """
        return {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name in FIRST or getattr(self, field.name) != field.default
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


def _recipe_fields() -> dict[str, Any]:
    """Those of a recipe, and epochs."""
    hints = get_type_hints(Recipe, include_extras=True)
    found = {
        field.name: (hints[field.name] | None, None)
        if field.name in OPEN
        else (hints[field.name], field.default)
        for field in fields(Recipe)
    }
    first = {name: found.pop(name) for name in ("learning_rate", "steps")}
    epochs = (Annotated[Number, Field(gt=0, le=100_000)] | None, None)
    return {**first, "epochs": epochs, **found}


class _Training(Config):
    @model_validator(mode="after")
    def _one_length(self):
        if self.steps is not None and self.epochs is not None:
            raise ValueError(
                f"give steps or epochs, not both ({self.steps} and {self.epochs:g}): set one of them to null"
            )
        return self


#: How to train: the fields of :class:`Recipe`, and ``epochs`` in the place of ``steps``. Null stands for what
#: was chosen on validation data (``learning_rate``), or what the task says.
Training = create_model("Training", __base__=_Training, **_recipe_fields())


class TextDecoding(Config):
    """How texts are generated, see :class:`experiments.models.family.Decoding`; null as the task says."""

    max_new_tokens: Whole | None = None
    num_beams: Whole | None = None
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
    recipe: Training = Training()  # type: ignore[valid-type]
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

    @property
    def sizes(self) -> Sizes:
        """As the generator takes them."""
        return Sizes(self.questions, self.hypotheses, self.captions)

    def count(self, task: Task, split: str) -> int | None:
        """How many examples a split of a task has (of layouts about as many: fewer where official test
        annotations are missing); None for a task whose data are not drawn.
        """
        place = SPLITS.index(split)
        if self.published:
            return self.published[task.name][split != "train"]
        if self.layouts is not None:
            return Amounts.of(self.layouts)[place]
        return getattr(self, task.drawn)[place] if task.drawn is not None else None

    def draw(self, folder: Path) -> None:
        """Write them, or reuse what is there of the same settings."""
        if self.layouts is not None:
            make_scenes(folder, self.seed, self.layouts)
        elif not self.published:
            write_scenes(folder, self.seed, self.sizes)

    @staticmethod
    def found(data: Path) -> Scenes | None:
        """The scenes that ``attngraph scenes`` or a table has drawn into a folder; None where nothing says
        that this version would draw the same.
        """
        if not holds_scenes(data):
            return None
        manifest = json.loads((data / MANIFEST).read_text(encoding="utf-8"))
        if manifest.get("version") != VERSION:
            return None
        return Scenes(seed=manifest["seed"], **manifest["sizes"])


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
        scenes: which are drawn.
    """

    method: str
    task: str
    data: str | None = None
    model: str | None = None
    seed: Seed = 0
    settings: dict[str, Any] = Field(default_factory=dict)
    split: Literal["validation", "test"] = "test"
    scenes: Scenes = Scenes()

    @model_validator(mode="after")
    def _nothing_idle(self):
        if self.data is not None and self.scenes != Scenes():
            raise ValueError(f"scenes changes nothing, since data names {self.data}: leave one out")
        return self

    def yaml(self) -> str:
        """The file, whole."""
        content = self.model_dump(mode="json")
        content["scenes"] = {name: content["scenes"][name] for name in ("seed", *asdict(Sizes()))}
        first = ("method", "task", "data", "model", "side", "seed", "settings", "recipe")
        return yaml.safe_dump({name: content[name] for name in (*first, *content)}, sort_keys=False)


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
    changes = read_changes(words, Experiment)
    if name is None:
        remedy = "change it with --set NAME=VALUE, or give a file"
        return with_changes(None, changes, Experiment, "an experiment without a file", remedy)
    file = file_named(name, FOLDER, experiment_names(), "experiment")
    return with_changes(read_yaml(file, REMEDY), changes, Experiment, f"{file}", REMEDY)


def experiment_of(cell: Any, scenes: Scenes | None = None) -> Experiment:
    """The experiment that a cell is: all that decides its result is named in it.

    Args:
        cell: an :class:`experiments.runs.cells.Cell`, of a table or of ``attngraph train``.
        scenes: that are drawn for it; None where its folder of data tells.
    """
    task = TASKS[cell.task]
    if scenes is None and task.drawn is not None:
        scenes = Scenes.found(cell.data)
    has_data = scenes is None and not task.packaged and cell.data.is_dir()
    is_folder = shipped_folder(cell.model) is None and Path(str(cell.model)).is_dir()
    ranked = {name: cell.decoding[name] for name in ListRanking.model_fields if name in cell.decoding}
    return Experiment(
        method=cell.method,
        task=cell.task,
        data=str(cell.data.absolute()) if has_data else None,
        model=str(Path(str(cell.model)).absolute()) if is_folder else cell.model,
        side=cell.side,
        seed=cell.seed,
        settings=cell.settings,
        recipe=Training(**asdict(cell.recipe)) if cell.recipe else Training(),
        split=cell.split,
        train_examples=cell.train_examples,
        eval_examples=cell.eval_examples,
        answering=cell.answering if task.ranks else None,  # a table's own holds for all of its tasks
        decoding=TextDecoding(**{name: x for name, x in cell.decoding.items() if name not in ranked}),
        ranking=ListRanking(**ranked),
        scenes=scenes or Scenes(),
    )
