"""How much a table runs."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, FiniteFloat, model_validator

from experiments.configs.reading import Config, file_named, read_config
from experiments.scenes.layouts.make import LEAST, MOST
from experiments.scenes.layouts.parts import Amounts
from experiments.scenes.write import Sizes
from experiments.tasks.task import SPLITS, Budget, Task
from experiments.training.recipe import Recipe

PRESETS_FOLDER = Path(__file__).with_name("presets")
MOST_SEEDS = 1000  # of a method

APART = ("epochs", "decoding", "ranking")  # what of a change is no part of a budget
Count = Annotated[int, Field(gt=0, le=10**9)]  # of steps or examples
Counts = tuple[Count, Count, Count]


def no_switch(value: Any) -> Any:
    """The value, unless it is true or false, which pass for numbers."""
    if isinstance(value, bool):
        raise ValueError("give a number, not true or false")
    return value


Whole = Annotated[Count, BeforeValidator(no_switch)]
Natural = Annotated[int, Field(ge=0, le=10**9), BeforeValidator(no_switch)]


class TextDecoding(Config):
    """How texts are generated, see :class:`experiments.models.family.Decoding`; null as the task says."""

    max_new_tokens: Whole | None = None
    num_beams: Whole | None = None
    min_new_tokens: Natural | None = None
    length_penalty: Literal["length", "gnmt"] | None = None
    as_released: Literal["blip", "p_adapter"] | None = None


class BudgetChange(Config):
    """What a preset changes of a task's :class:`~experiments.tasks.task.Budget`.

    Args:
        epochs: passes over the training examples, in the place of ``steps``.
        decoding: how texts are generated.
        ranking: how lists of answers are ranked, see :class:`experiments.models.ranking.Ranking`.
    """

    steps: Count | None = None
    epochs: Annotated[FiniteFloat, Field(gt=0, le=100_000)] | None = None
    batch_size: Count | None = None
    train_examples: Count | None = None
    eval_examples: Count | None = None
    augment: bool | None = None
    decoding: TextDecoding = TextDecoding()
    ranking: dict[Literal["k", "label_smoothing"], int | FiniteFloat] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_length(self):
        if self.steps is not None and self.epochs is not None:
            raise ValueError(f"give steps or epochs, not both ({self.steps} and {self.epochs:g})")
        return self


class RecipeChange(Config):
    """What a preset changes of how every run trains, see :class:`experiments.training.recipe.Recipe`."""

    accumulation: Count | None = None
    warmup: Annotated[FiniteFloat, Field(ge=0, lt=1)] | None = None
    weight_decay: Annotated[FiniteFloat, Field(ge=0)] | None = None
    label_smoothing: Annotated[FiniteFloat, Field(ge=0, lt=1)] | None = None
    clip: Annotated[FiniteFloat, Field(gt=0)] | None = None
    schedule: str | None = None
    precision: str | None = None
    checkpointing: bool | None = None
    compile: bool | None = None
    validate_every: Count | None = None
    patience: Count | None = None


class DrawnSizes(Config):
    """Sizes of the drawn data sets, (train, validation, test)."""

    questions: Counts = Sizes().questions
    hypotheses: Counts = Sizes().hypotheses
    captions: Counts = Sizes().captions

    @property
    def drawn(self) -> Sizes:
        """The sizes as the generator takes them."""
        return Sizes(**{field.name: getattr(self, field.name) for field in fields(Sizes)})


@dataclass(frozen=True)
class Layouts:
    """How much of the six data sets is drawn in their official layouts; see
    :func:`experiments.scenes.layouts.make.make_scenes`.
    """

    size: int

    def count(self, task: str, split: str) -> int:
        """About how many examples a task's split has; where official test annotations are missing, fewer."""
        return Amounts.of(self.size)[SPLITS.index(split)]


@dataclass(frozen=True)
class Published:
    """How much the official files of data sets hold, where nobody has named a folder with them.

    Args:
        counts: task -> examples for training and for test.
    """

    counts: dict[str, tuple[int, int]]

    def count(self, task: str, split: str) -> int:
        return self.counts[task][split != "train"]


class Amount(Config):
    """How much is run, whichever rows a table has.

    Args:
        about: one line for ``--help``.
        budget: changes for every task.
        tasks: task -> further changes; null leaves the task out.
        recipe: changes of how every run trains.
        side: of the pictures, in pixels; null as the checkpoint says.
        answering: how questions and entailment are answered; null as each task says.
        sizes: of the drawn data sets.
        layouts: draw the six data sets in their official layouts instead, with so many examples for training.
        data_seed: of the drawn data sets.
        published: task -> how many examples for training and test the official files hold. Nothing is drawn
            then: who runs the table names the folder with these files, and a model.
        checkpoints: pre-trained checkpoints that the seeds are dealt over in turn: the shipped one and those
            of the next pre-training seeds.
    """

    about: str
    budget: BudgetChange = BudgetChange()
    tasks: dict[str, BudgetChange | None] = Field(default_factory=dict)
    recipe: RecipeChange = RecipeChange()
    side: Annotated[int, Field(gt=0, le=4096)] | None = None
    answering: Literal["generate", "rank"] | None = None
    sizes: DrawnSizes = DrawnSizes()
    layouts: Annotated[int, Field(ge=LEAST, le=MOST)] | None = None
    data_seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    published: dict[str, tuple[Count, Count]] = Field(default_factory=dict)
    checkpoints: Annotated[int, Field(ge=1, le=MOST_SEEDS)] = 1

    def budget_of(self, task: Task) -> Budget:
        """What a task costs under this preset."""
        changes = self.budget.model_dump(exclude_none=True)
        own = (self.tasks.get(task.name) or BudgetChange()).model_dump(exclude_none=True)
        changes = {**changes, **own}
        return replace(task.budget, **{name: x for name, x in changes.items() if name not in APART})

    def epochs_of(self, task: Task) -> float | None:
        """Passes over a task's training examples; None where the number of steps is given."""
        own = self.tasks.get(task.name) or BudgetChange()
        given = own if own.steps is not None or own.epochs is not None else self.budget
        return given.epochs

    def answers_of(self, task: Task, ranks: bool) -> dict[str, Any]:
        """What is changed of how a task's texts are generated, or its answers ranked."""
        own = self.tasks.get(task.name) or BudgetChange()
        if ranks:
            return {**self.budget.ranking, **own.ranking}
        return {
            **self.budget.decoding.model_dump(exclude_none=True),
            **own.decoding.model_dump(exclude_none=True),
        }

    @property
    def recipe_changes(self) -> dict[str, Any]:
        """What it changes of how every run trains."""
        return self.recipe.model_dump(exclude_none=True)

    def recipe_of(self, learning_rate: float, steps: int, budget: Budget) -> Recipe:
        """How a run trains under this preset."""
        changes = self.recipe_changes
        return Recipe(learning_rate, steps, budget.batch_size, augment=budget.augment, **changes)

    @property
    def is_official(self) -> bool:
        """Whether its tasks are those on official files, also where no folder of data is named."""
        return self.layouts is not None or bool(self.published)

    @property
    def left_out(self) -> set[str]:
        """The tasks that it leaves out unless they are asked for."""
        return {name for name, change in self.tasks.items() if change is None}

    @property
    def drawn(self) -> Sizes:
        """The sizes as the generator takes them."""
        return self.sizes.drawn

    @property
    def amounts(self) -> Sizes | Layouts | Published:
        """How much there is where no folder of data is named."""
        if self.published:
            return Published(self.published)
        return self.drawn if self.layouts is None else Layouts(self.layouts)


class Preset(Amount):
    """How much to run, and which rows.

    Args:
        seeds: method -> number of seeds, in the order of the table.
    """

    seeds: dict[str, Annotated[int, Field(ge=0, le=MOST_SEEDS)]]


def preset_names() -> list[str]:
    """The presets that ship with the package, ``quick`` first."""
    names = sorted(file.stem for file in PRESETS_FOLDER.glob("*.yaml"))
    return sorted(names, key=lambda name: name != "quick")


def load_preset(name: str) -> Preset:
    """A preset by its name, or by the path of a YAML file of one's own.

    Raises:
        UserError: no such preset, or a damaged file.
    """
    file = file_named(name, PRESETS_FOLDER, preset_names(), "preset")
    return read_config(file, Preset, "see experiments/configs/presets for examples")
