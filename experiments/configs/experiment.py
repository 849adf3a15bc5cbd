"""One experiment as a YAML file: what is trained on what, how, and how it is scored."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import yaml
from pydantic import BeforeValidator, Field, FiniteFloat, create_model, model_validator

from experiments.configs.changes import read_changes, with_changes
from experiments.configs.presets import DrawnSizes, TextDecoding, Whole, no_switch
from experiments.configs.reading import Config, file_named, read_yaml
from experiments.scenes.write import VERSION
from experiments.shipped import shipped_folder
from experiments.tasks import TASKS
from experiments.tasks.task import MANIFEST, holds_scenes
from experiments.training.recipe import Recipe

EXPERIMENT = "experiment.yaml"  # in a run's folder
FOLDER = Path(__file__).with_name("experiments")
REMEDY = (
    'see the page "Training one experiment" of the docs, or experiments/configs/experiments, for what a file '
    "holds"
)


Number = Annotated[FiniteFloat, BeforeValidator(no_switch)]
Share = Annotated[Number, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31), BeforeValidator(no_switch)]
#: Fields of :class:`~experiments.training.recipe.Recipe` that a file may leave open, or whose range is known.
KINDS: dict[str, Any] = {
    "learning_rate": Annotated[Number, Field(gt=0)] | None,
    "steps": Whole | None,
    "batch_size": Whole | None,
    "augment": bool | None,
    "accumulation": Whole,
    "warmup": Share,
    "weight_decay": Annotated[Number, Field(ge=0)],
    "label_smoothing": Share,
    "clip": Annotated[Number, Field(gt=0)],
    "validate_every": Whole | None,
    "patience": Whole | None,
}
OPEN = ("learning_rate", "steps", "batch_size", "augment")


def _recipe_fields() -> dict[str, Any]:
    """Those of a recipe, and epochs."""
    hints = get_type_hints(Recipe)
    found = {
        field.name: (
            KINDS.get(field.name, hints[field.name]),
            None if field.name in OPEN else field.default,
        )
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


#: How to train: the fields of :class:`~experiments.training.recipe.Recipe`, and ``epochs`` in the place of
#: ``steps``. Null stands for what was chosen on validation data (``learning_rate``), or what the task says.
Training = create_model("Training", __base__=_Training, **_recipe_fields())


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
        """What is changed of the task's way, by name."""
        return {**self.decoding.model_dump(exclude_none=True), **self.ranking.model_dump(exclude_none=True)}


class Scenes(DrawnSizes):
    """Which scenes are drawn, where no folder of data is given."""

    seed: Seed = 0


class Experiment(Answers):
    """An experiment.

    Args:
        method, task: their names.
        data: folder of the data sets; null where they are drawn or come with a package.
        model: checkpoint folder, hub name or name of a shipped model; null for the mini-BLIP that ships with
            the package.
        side: of the pictures, in pixels; null as the checkpoint says.
        seed: of the trainable weights and of the order of the examples.
        settings: the method's, in the place of those that were chosen on validation data.
        recipe: how to train.
        split: the one that is scored.
        train_examples: how many examples are trained on at most; null as the task says.
        scenes: which are drawn.
    """

    method: str
    task: str
    data: str | None = None
    model: str | None = None
    side: Whole | None = None
    seed: Seed = 0
    settings: dict[str, Any] = Field(default_factory=dict)
    recipe: Training = Training()  # type: ignore[valid-type]
    split: Literal["validation", "test"] = "test"
    train_examples: Whole | None = None
    scenes: Scenes = Scenes()

    @model_validator(mode="after")
    def _nothing_idle(self):
        if self.data is not None and self.scenes != Scenes():
            raise ValueError(f"scenes changes nothing, since data names {self.data}: leave one out")
        return self

    def yaml(self) -> str:
        """The file, whole."""
        content = self.model_dump(mode="json")
        last = ["answering", "decoding", "ranking", "split", "train_examples", "eval_examples"]
        order = [name for name in content if name not in last] + last
        order.sort(key=lambda name: name == "scenes")
        return yaml.safe_dump({name: content[name] for name in order}, sort_keys=False)


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
        cell: an :class:`experiments.training.cells.Cell`, of a table or of ``attngraph train``.
        scenes: that are drawn for it; None where its folder of data tells.
    """
    task = TASKS[cell.task]
    if scenes is None and task.drawn is not None:
        scenes = scenes_in(cell.data)
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


def scenes_in(data: Path) -> Scenes | None:
    """The scenes that ``attngraph scenes`` or a table has drawn into a folder; None where nothing says that
    this version would draw the same.
    """
    if not holds_scenes(data):
        return None
    manifest = json.loads((data / MANIFEST).read_text(encoding="utf-8"))
    if manifest.get("version") != VERSION:
        return None
    return Scenes(seed=manifest["seed"], **manifest["sizes"])
