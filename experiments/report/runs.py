"""A run as the report sees it: the row that shows it, its scores, and its statistics for significance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from attngraph.errors import UserError
from experiments.methods import GraphAdapter, method_named
from experiments.training.saved import CONFIG, STATISTICS, read_config


@dataclass(frozen=True)
class Run:
    """A method trained and scored on a task with a seed.

    Args:
        row: name of the method whose row shows the run. A run may occur in two rows.
        task: name of the task.
        seed: of the trained weights and of the order of the examples.
        result: content of the run's ``scores.json``.
        folder: with the run's ``config.json``, and ``statistics.npz``: column key -> statistics
            ``(images, K)``.
    """

    row: str
    task: str
    seed: int
    result: dict[str, Any]
    folder: Path

    @property
    def seconds(self) -> float:
        """Training and scoring time."""
        return self.result["train_seconds"] + self.result["eval_seconds"]

    @cached_property
    def config(self) -> dict[str, Any]:
        """The content of its ``config.json``.

        Raises:
            UserError: the file cannot be read.
        """
        return read_config(self.folder)

    @property
    def settings(self) -> dict[str, Any]:
        """What decided its result."""
        return self.config["settings"]

    @cached_property
    def checkpoint(self) -> str:
        """The digest of the pre-trained weights that the run started from.

        Raises:
            UserError: the run's ``config.json`` cannot be read, or names no weights.
        """
        weights = self.settings.get("weights")
        if not isinstance(weights, str):
            raise UserError(f"{self.folder / CONFIG} names no weights: delete the folder and run again")
        return weights

    def statistics(self, keys: Sequence[str]) -> list[np.ndarray]:
        """The statistics of these columns, each ``(images, K)``.

        Raises:
            UserError: the file cannot be read, or lacks a column.
        """
        file = self.folder / STATISTICS
        try:
            with np.load(file) as arrays:
                return [arrays[key] for key in keys]
        except (OSError, ValueError, KeyError) as error:
            reason = f"{type(error).__name__}: {error}".replace("\n", " ")
            raise UserError(f"{file} lacks the statistics of {', '.join(keys)} ({reason})") from None


def distinct(runs: Sequence[Run]) -> list[Run]:
    """Each run once, under the first row that shows it."""
    first: dict[Path, Run] = {}
    for run in runs:
        first.setdefault(run.folder, run)
    return list(first.values())


def cannot_differ(one: Run, other: Run) -> bool:
    """Whether two rows show one run, or graph adapters that are the same in all but their names.

    The scores of these may differ, if they ran on machines whose arithmetic does.
    """
    if one.folder == other.folder:
        return True
    first, second = method_named(one.row), method_named(other.row)
    if not (isinstance(first, GraphAdapter) and isinstance(second, GraphAdapter)):
        return False
    kinds = [(type(x).apply, type(x).config, x.vision) for x in (first, second)]
    settings = [
        {name: value for name, value in run.settings.items() if name not in ("label", "method")}
        for run in (one, other)
    ]
    return "gnn" in settings[0].get("settings", {}) and kinds[0] == kinds[1] and settings[0] == settings[1]


def versions_of(runs: Sequence[Run]) -> dict[str, dict[str, int]]:
    """With what runs were made: name of a package (or ``code``, ``machine``) -> version -> number of runs.
    A run that went on with another version than it began with has both.
    """
    each = [_versions(run.config) for run in distinct(runs)]
    counts: dict[str, dict[str, int]] = {name: {} for held in each for name in held}
    for name, of_name in counts.items():
        for held in each:
            value = held.get(name, "unknown")
            of_name[value] = of_name.get(value, 0) + 1
    return counts


def _versions(config: Mapping[str, Any]) -> dict[str, str]:
    """Name -> version, of a run's ``config.json``; of an interrupted run all that it had, in order."""
    held: dict[str, list[str]] = {}
    for part in [*config.get("before", []), config]:
        for name, value in {**(part.get("versions") or {}), "machine": part.get("machine")}.items():
            if value is not None and str(value) not in held.setdefault(name, []):
                held[name].append(str(value))
    return {name: ", then ".join(values) for name, values in held.items() if values}


def differently_made(runs: Sequence[Run]) -> str:
    """A sentence on runs that were not all made with the same code, packages and machine; else empty."""
    several = [
        f"{name} {', '.join(f'{value} in {count}' for value, count in of_name.items())}"
        for name, of_name in versions_of(runs).items()
        if len(of_name) > 1
    ]
    return f"Not all runs were made with the same: {'; '.join(several)}" if several else ""
