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
REMEDY = "restore it, or replace it by the settings.yaml of attngraph search"


class Choice(Config):
    """Settings chosen for a method on one task.

    Args:
        learning_rate: peak learning rate.
        join: join of the adapters; ignored by methods without graph adapters.
        arguments: arguments of the scheme; for full fine-tuning, ``vision_learning_rate``.
    """

    learning_rate: Annotated[FiniteFloat, Field(gt=0)]
    join: Literal[*JOINS] = "blend"
    arguments: dict[str, FiniteFloat | int | bool | str] = Field(default_factory=dict)


class Settings(Config):
    """Settings chosen by ``attngraph search``.

    Args:
        reduction: width of the model / width of the bottleneck.
        methods: method -> task -> chosen settings.
    """

    reduction: Annotated[int, Field(gt=0, le=100_000)] = 4
    methods: dict[str, dict[str, Choice]] = Field(default_factory=dict)

    def choice(self, method: str, task: str) -> Choice | None:
        """The settings chosen for a method on a task; None if there are none."""
        return self.methods.get(method, {}).get(task)


def chosen_settings(file: Path = SETTINGS_FILE) -> Settings:
    """The chosen settings.

    Raises:
        UserError: the file is missing or damaged.
    """
    return read_config(file, Settings, REMEDY)


def write_settings(file: Path, settings: Settings) -> None:
    """Write settings for :func:`chosen_settings`, without fields that are not set."""
    content = {"reduction": settings.reduction, **settings.model_dump(exclude_unset=True)}
    write_text(file, yaml.safe_dump(content, sort_keys=False))
