"""The settings chosen on validation data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import Field, FiniteFloat

from attngraph.adapters.joins import JOINS
from attngraph.experiments.base.config import Config, read_config
from attngraph.experiments.base.files import write_text

SETTINGS_FILE = Path(__file__).parents[1] / "configs" / "settings.yaml"
REMEDY = "restore it, or run attngraph search and put the settings.yaml that it writes in its place"


class Choice(Config):
    """What was chosen for a method on one task.

    Args:
        learning_rate: peak learning rate.
        join: how adapters join the model; nothing to methods without graph adapters.
        arguments: the scheme's; of full fine-tuning, ``vision_learning_rate``.
    """

    learning_rate: Annotated[FiniteFloat, Field(gt=0)]
    join: Literal[*JOINS] = "blend"
    arguments: dict[str, FiniteFloat | int | bool | str] = Field(default_factory=dict)


class Settings(Config):
    """What ``attngraph search`` chooses.

    Args:
        reduction: width of the model / width of the bottleneck.
        methods: method -> task -> what was chosen.
    """

    reduction: Annotated[int, Field(gt=0, le=100_000)] = 4
    methods: dict[str, dict[str, Choice]] = Field(default_factory=dict)

    def choice(self, method: str, task: str) -> Choice | None:
        """What was chosen for a method on a task; None where nothing was."""
        return self.methods.get(method, {}).get(task)


def chosen_settings(file: Path = SETTINGS_FILE) -> Settings:
    """The chosen settings.

    Raises:
        UserError: the file is missing or damaged.
    """
    return read_config(file, Settings, REMEDY)


def write_settings(file: Path, settings: Settings) -> None:
    """Write settings in the form that :func:`chosen_settings` reads; what a choice leaves open stays open."""
    content = {"reduction": settings.reduction, **settings.model_dump(exclude_unset=True)}
    write_text(file, yaml.safe_dump(content, sort_keys=False))
