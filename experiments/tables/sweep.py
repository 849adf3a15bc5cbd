"""Each row's learning rate on each task of a table, chosen on validation data with one seed.

Scores need not rise and fall once along the rates, so rows that are compared begin with the same ones: a
search that follows the slope from each row's own rate would end on different hills. While the best rate lies
at an edge of those that were tried, the next one beyond it is tried, at most :data:`FURTHER` times. Nothing
else of a method's settings changes, and test data are never touched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from experiments.methods.settings import Choice, Settings
from experiments.runs.cells import Cell
from experiments.runs.saved import AT_RATE
from experiments.tasks import TASKS

FURTHER = 2  # rates beyond those that a sweep begins with
DIVERGED = float("-inf")  # the score of a run whose loss was not finite
#: Field of a choice -> the setting of graph adapters that it names.
SWEPT_WITH = {"join": "join", "arguments": "gnn_args"}

Key = tuple[str, str]  # method and task
Results = Mapping[Cell, Mapping[str, Any]]


@dataclass(frozen=True)
class Tried:
    """One rate.

    Args:
        method, task: their names.
        rate: peak learning rate.
        score: in the column that the task names; :data:`DIVERGED` where the loss was not finite.
    """

    method: str
    task: str
    rate: float
    score: float


def at_rate(cell: Cell, rate: float) -> Cell:
    """A table's cell on validation data with another rate, under a name of its own."""
    assert cell.recipe is not None
    label = f"{cell.label}{AT_RATE}{rate:g}"
    return replace(cell, label=label, split="validation", recipe=replace(cell.recipe, learning_rate=rate))


def sweep(
    cells: Sequence[Cell], rates: Mapping[str, Sequence[float]], run: Callable[[list[Cell]], Results]
) -> list[Tried]:
    """Try the rates.

    Args:
        cells: one for each method and task, at any rate.
        rates: with which each method begins.
        run: runs cells; those whose loss is not finite are not among the results.

    Returns:
        Every rate that was tried, by method and task, in rising order.
    """
    own = {(cell.method, cell.task): cell for cell in cells if cell.recipe is not None}
    due = {key: sorted(set(rates[key[0]])) for key in own}
    scores: dict[Key, dict[float, float]] = {key: {} for key in own}
    begun = {key: len(rates) for key, rates in due.items()}
    while due:
        wanted = {at_rate(own[key], rate): (key, rate) for key, rates in due.items() for rate in rates}
        results = run(list(wanted))
        for cell, (key, rate) in wanted.items():
            of_cell = results.get(cell)
            scores[key][rate] = of_cell["scores"][TASKS[cell.task].selects] if of_cell else DIVERGED
        due = {
            key: [further]
            for key, of_rate in scores.items()
            if len(of_rate) < begun[key] + FURTHER and (further := beyond(of_rate)) is not None
        }
    return [
        Tried(*key, rate, score) for key, of_rate in scores.items() for rate, score in sorted(of_rate.items())
    ]


def best(scores: Mapping[float, float]) -> float:
    """The rate with the highest score; of equals the smallest."""
    return max(sorted(scores), key=lambda rate: scores[rate])


def beyond(scores: Mapping[float, float]) -> float | None:
    """The next rate beyond the best one, as far from it as its neighbour; None where the best one lies
    inside, or has no neighbour.
    """
    rates, chosen = sorted(scores), best(scores)
    if len(rates) < 2 or chosen not in (rates[0], rates[-1]):
        return None
    return _plain(rates[0] * rates[0] / rates[1] if chosen == rates[0] else rates[-1] * rates[-1] / rates[-2])


def chosen_rates(cells: Sequence[Cell], tried: Sequence[Tried], reduction: int) -> Settings:
    """The settings with the best rates. A task takes those of a task that it is like (both follow the same
    one) if it was not swept itself.

    Args:
        cells, tried: what :func:`sweep` took and gave.
        reduction: width of the model / width of the bottleneck, of these cells.
    """
    scores: dict[Key, dict[float, float]] = {}
    for one in tried:
        scores.setdefault((one.method, one.task), {})[one.rate] = one.score
    methods: dict[str, dict[str, Choice]] = {}
    for cell in cells:
        if (cell.method, cell.task) in scores:
            own = {field: cell.settings[name] for field, name in SWEPT_WITH.items() if name in cell.settings}
            choice = Choice(learning_rate=best(scores[cell.method, cell.task]), **own)
            methods.setdefault(cell.method, {})[cell.task] = choice
    for of_task in methods.values():
        for name, of_name in alike(of_task).items():
            of_task[name] = of_task[of_name]
    return Settings(reduction=reduction, methods=methods)


def alike(swept: Mapping[str, Any]) -> dict[str, str]:
    """Tasks that were not swept -> the swept task whose settings they take."""
    leaders = {TASKS[name].like: name for name in reversed(list(swept)) if TASKS[name].like is not None}
    return {
        name: leaders[task.like] for name, task in TASKS.items() if name not in swept and task.like in leaders
    }


def _plain(rate: float) -> float:
    """Two digits: a rate that can be read, and that is the same on every machine."""
    return float(f"{rate:.1e}")
