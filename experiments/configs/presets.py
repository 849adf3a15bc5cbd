"""How much a table runs."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated

from pydantic import Field

from attngraph.errors import UserError
from experiments.arguments import did_you_mean
from experiments.configs.reading import Config, read_config
from experiments.scenes.write import Sizes
from experiments.tasks.task import Budget, Task

PRESETS_FOLDER = Path(__file__).with_name("presets")
MOST_SEEDS = 1000  # of a method
Count = Annotated[int, Field(gt=0, le=10**9)]  # of steps or examples
Counts = tuple[Count, Count, Count]


class BudgetChange(Config):
    """What a preset changes of a task's :class:`~experiments.tasks.task.Budget`."""

    steps: Count | None = None
    batch_size: Count | None = None
    train_examples: Count | None = None
    eval_examples: Count | None = None
    augment: bool | None = None


class DrawnSizes(Config):
    """Sizes of the drawn data sets, (train, validation, test)."""

    questions: Counts = Sizes().questions
    hypotheses: Counts = Sizes().hypotheses
    captions: Counts = Sizes().captions


class Preset(Config):
    """How much to run.

    Args:
        about: one line for ``--help``.
        seeds: method -> number of seeds, in the order of the table.
        budget: changes for every task.
        tasks: task -> further changes; null leaves the task out.
        sizes: of the drawn data sets.
        data_seed: of the drawn data sets.
        checkpoints: pre-trained checkpoints that the seeds are dealt over in turn: the shipped one and those
            of the next pre-training seeds.
    """

    about: str
    seeds: dict[str, Annotated[int, Field(ge=0, le=MOST_SEEDS)]]
    budget: BudgetChange = BudgetChange()
    tasks: dict[str, BudgetChange | None] = Field(default_factory=dict)
    sizes: DrawnSizes = DrawnSizes()
    data_seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    checkpoints: Annotated[int, Field(ge=1, le=MOST_SEEDS)] = 1

    def budget_of(self, task: Task) -> Budget:
        """What a task costs under this preset."""
        changes = self.budget.model_dump(exclude_none=True)
        own = (self.tasks.get(task.name) or BudgetChange()).model_dump(exclude_none=True)
        return replace(task.budget, **{**changes, **own})

    @property
    def left_out(self) -> set[str]:
        """The tasks that it leaves out unless they are asked for."""
        return {name for name, change in self.tasks.items() if change is None}

    @property
    def drawn(self) -> Sizes:
        """The sizes as the generator takes them."""
        return Sizes(**{field.name: getattr(self.sizes, field.name) for field in fields(Sizes)})


def preset_names() -> list[str]:
    """The presets that ship with the package, ``quick`` first."""
    names = sorted(file.stem for file in PRESETS_FOLDER.glob("*.yaml"))
    return sorted(names, key=lambda name: name != "quick")


def load_preset(name: str) -> Preset:
    """A preset by its name, or by the path of a YAML file of one's own.

    Raises:
        UserError: no such preset, or a damaged file.
    """
    file = Path(name) if name.endswith((".yaml", ".yml")) else PRESETS_FOLDER / f"{name}.yaml"
    if not file.exists():
        known = preset_names()
        choices = f"choose from {', '.join(known)}" if known else "install attngraph again"
        raise UserError(f"unknown preset {name!r}{did_you_mean(name, known)}: {choices}, or give a YAML file")
    return read_config(file, Preset, "see experiments/configs/presets for examples")
