"""Each row's learning rate on each task of a table, chosen on validation data with one seed.

Scores need not rise and fall once along the rates, so rows that are compared begin with the same ones: a
search that follows the slope from each row's own rate would end on different hills. While the best rate lies
at an edge of those that were tried, the next one beyond it is tried, at most :data:`FURTHER` times. Nothing
else of a method's settings changes, and test data are never touched.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from attngraph.errors import UserError
from experiments.base.files import check_files, published, write_text
from experiments.base.progress import note
from experiments.methods import method_named
from experiments.methods.settings import Choice, Settings, write_settings
from experiments.runs.cells import Cell
from experiments.runs.saved import AT_RATE
from experiments.tasks import TASKS

SETTINGS, TRIED, ABOUT = "settings.yaml", "sweep.csv", "sweep.md"
COLUMNS = ("method", "task", "rate", "score")
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


# ---- files ----------------------------------------------------------------------------------------------


def check_own(out: Path) -> None:
    """Raise UserError where the folder holds files of these names that no sweep has written."""
    files = [out / name for name in (SETTINGS, TRIED, ABOUT)]
    check_files(files)
    found = [file for file in files if file.exists()]
    if not found:
        return
    begins = files[1].read_bytes()[:100] if len(found) == len(files) else b""
    if not begins.startswith(",".join(COLUMNS).encode()):
        raise UserError(
            f"{found[0]} is there, and no sweep has written it: move it away, or give another --out"
        )


def check_kept(out: Path, swept: Collection[tuple[str, str]]) -> None:
    """Raise UserError where the folder holds what was chosen for methods or tasks that are not swept:
    it would be lost.
    """
    if not (out / TRIED).is_file():
        return
    with (out / TRIED).open(encoding="utf-8", newline="") as file:
        earlier = dict.fromkeys((line["method"], line["task"]) for line in csv.DictReader(file))
    lost = [f"{method} on {task}" for method, task in earlier if (method, task) not in swept]
    if lost:
        others = f" and {len(lost) - 1} others" * (len(lost) > 1)
        raise UserError(
            f"{out / SETTINGS} holds rates of {lost[0]}{others}, which this sweep would drop: give "
            "another --out, or name their rows and tasks too if they are this table's (finished runs stay)"
        )


def save(out: Path, settings: Settings, tried: Sequence[Tried]) -> None:
    """Write what was tried and what was chosen, and say it."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(COLUMNS)
    lines.writerows([one.method, one.task, f"{one.rate:g}", f"{one.score:.4f}"] for one in tried)
    about = _about(settings, tried)
    with published(out) as part:
        write_settings(part / SETTINGS, settings)
        write_text(part / TRIED, text.getvalue())
        write_text(part / ABOUT, about)
    print(about)
    note(f"saved: {out}/{SETTINGS}, {TRIED}, {ABOUT}; to use the rates: attngraph table ... --settings")


def _about(settings: Settings, tried: Sequence[Tried]) -> str:
    """A line for each method and task: all rates with their scores, the chosen one in bold."""
    lines = ["| method | task | rate: score × 100 on validation data |", "|---|---|---|"]
    keys = dict.fromkeys((one.method, one.task) for one in tried)
    for method, task in keys:
        chosen, of_key = settings.methods[method][task].learning_rate, []
        for one in tried:
            if (one.method, one.task) == (method, task):
                score = "diverged" if one.score == DIVERGED else f"{100 * one.score:.1f}"
                words = f"{one.rate:g}: {score}"
                of_key.append(f"**{words}**" if one.rate == chosen else words)
        lines.append(f"| {method_named(method).title} | {task} | {', '.join(of_key)} |")
    shared = alike({task: None for _, task in keys})
    about = "; ".join(f"{name} takes the rates of {leader}" for name, leader in shared.items())
    return "\n".join(lines) + (f"\n\n{about}.\n" if about else "\n")
