"""Whether the folder that ``--data`` names fits."""

from __future__ import annotations

from pathlib import Path

from attngraph.errors import UserError
from experiments.tasks.task import Task


def check_task_data(task: Task, data: Path | None) -> None:
    """Raise :class:`~attngraph.UserError` where a command on one task lacks its folder of data, or names one
    for examples that come with a package.
    """
    if task.packaged and data is not None:
        raise UserError(f"--data {data}: the examples of {task.name} come with a package: leave out --data")
    if not task.packaged and data is None:
        raise UserError(f"--data is missing: give the folder with the data of {task.name}")


def check_data(data: Path | None) -> None:
    """Raise :class:`~attngraph.UserError` where ``--data`` names no folder."""
    if data is not None and not data.is_dir():
        raise UserError(f"--data {data} is no folder: give the one that holds the data sets")
