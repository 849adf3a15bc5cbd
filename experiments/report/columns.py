"""The columns of a table, derived from the columns of its tasks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace

from attngraph.errors import UserError
from experiments.report.runs import Run
from experiments.tasks.task import Column, Task

AVERAGE = Column("avg", "Avg")  # the mean of the averaged columns; no task has a key without a dot
WAY = Column("way", "Way")  # no task's either, see experiments.report.way


def table_columns(tasks: Mapping[str, Task]) -> tuple[Column, ...]:
    """The columns of all tasks in their order, and the average of those that enter it, if at least two do.

    The average stands after the last of them. Headings that several columns share are preceded by the task's
    name; where that does not tell them apart either, the column's key is its heading.

    Args:
        tasks: name -> task.

    Raises:
        UserError: two columns have the same key.
    """
    owned = [(name, column) for name, task in tasks.items() for column in task.columns]
    keys = Counter(column.key for _, column in owned)
    shared = [key for key, count in keys.items() if count > 1]
    if shared:
        raise UserError(
            f"several columns have the key {shared[0]!r}; give each column its own <task>.<metric>"
        )
    headings = [column.heading for _, column in owned]
    headings = _told_apart(headings, [f"{name} {column.heading}" for name, column in owned])
    headings = _told_apart(headings, [column.key for _, column in owned])
    columns = [replace(column, heading=text) for (_, column), text in zip(owned, headings, strict=True)]

    averaged = [place for place, column in enumerate(columns) if column.averaged]
    if len(averaged) > 1:
        columns.insert(averaged[-1] + 1, AVERAGE)
    return tuple(columns)


def scored(tasks: Mapping[str, Task], runs: Sequence[Run]) -> dict[str, Task]:
    """The tasks with those of their columns that a table of these runs has: an optional one is left out
    unless every run of the task has its score.
    """
    shown = {}
    for name, task in tasks.items():
        scores = [run.result["scores"] for run in runs if run.task == name]
        shown[name] = copy(task)
        shown[name].columns = tuple(
            column
            for column in task.columns
            if not column.optional or (scores and all(column.key in of_run for of_run in scores))
        )
    return shown


def averaged_columns(columns: Sequence[Column]) -> list[Column]:
    """The columns whose mean is the table's average."""
    return [column for column in columns if column.averaged]


def _told_apart(headings: Sequence[str], longer: Sequence[str]) -> list[str]:
    """The headings, with the longer form of those that occur more than once."""
    counts = Counter(headings)
    return [long if counts[short] > 1 else short for short, long in zip(headings, longer, strict=True)]
