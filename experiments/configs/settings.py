"""The settings chosen on validation data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import yaml
from pydantic import AfterValidator, Field, FiniteFloat

from adapters.joins import JOINS
from experiments.configs.reading import Config, read_config
from experiments.files import write_text

SETTINGS_FILE = Path(__file__).with_name("settings.yaml")
REMEDY = "restore it, or run attngraph search and put the settings.yaml that it writes in its place"


def _known_join(name: str) -> str:
    if name not in JOINS:
        raise ValueError(f"unknown join {name!r}, choose from {', '.join(JOINS)}")
    return name


class Settings(Config):
    """What ``attngraph search`` chooses.

    Args:
        join: how adapters join the model.
        reduction: width of the model / width of the bottleneck.
        arguments: method -> its scheme's arguments.
        learning_rates: method -> task -> peak learning rate.
    """

    join: Annotated[str, AfterValidator(_known_join)]
    reduction: Annotated[int, Field(gt=0, le=100_000)] = 4
    arguments: dict[str, dict[str, FiniteFloat | int | bool | str]] = Field(default_factory=dict)
    learning_rates: dict[str, dict[str, Annotated[FiniteFloat, Field(gt=0)]]] = Field(default_factory=dict)


def chosen_settings(file: Path = SETTINGS_FILE) -> Settings:
    """The chosen settings.

    Raises:
        UserError: the file is missing or damaged.
    """
    return read_config(file, Settings, REMEDY)


def write_settings(file: Path, settings: Settings) -> None:
    """Write settings in the form that :func:`chosen_settings` reads."""
    write_text(file, yaml.safe_dump(settings.model_dump(), sort_keys=False))
