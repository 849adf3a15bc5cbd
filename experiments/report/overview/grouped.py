"""Which runs make a table, and which of them a row of it.

A table holds runs that were scored on the same examples of each task and started, seed by seed, from the same
weights. A row holds runs of one method whose settings agree task by task. So what differs is never averaged:
two experiments with one method make two rows, named by what differs between them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from attngraph.errors import UserError
from experiments.methods import METHODS, method_named
from experiments.report.overview.found import Found
from experiments.report.runs import Run
from experiments.tasks import TASKS
from experiments.tasks.task import Task

MOST_NAMED = 4  # settings that a row's name tells
DEFAULT = "default"  # in the place of a setting that one of two runs leaves out


@dataclass
class Series:
    """A row: runs of one method, with one list of settings for each task.

    Args:
        method: name.
        runs: by task and seed.
        title: as printed.
    """

    method: str
    runs: dict[tuple[str, int], Found] = field(default_factory=dict)
    title: str = ""

    @property
    def chosen(self) -> dict[str, dict[str, Any]]:
        """Task -> the settings of its runs."""
        return {task: run.chosen for (task, _), run in self.runs.items()}

    def takes(self, runs: Sequence[Found]) -> bool:
        """Whether runs of a seed have the settings of this row, and are no others than those it has."""
        chosen = self.chosen
        return all(
            chosen.get(run.task, run.chosen) == run.chosen
            and self.runs.get((run.task, run.seed), run).outcome == run.outcome
            for run in runs
        )

    def distance(self, runs: Sequence[Found]) -> int:
        """In how many settings its runs differ from others of other tasks."""
        return sum(len(_differing([one, run.chosen])) for one in self.chosen.values() for run in runs)

    def add(self, runs: Sequence[Found]) -> None:
        """Take runs in; a run that is there already stays as it is."""
        for run in runs:
            self.runs.setdefault((run.task, run.seed), run)


@dataclass
class Group:
    """A table.

    Args:
        found: its runs.
    """

    found: list[Found] = field(default_factory=list)

    @property
    def tasks(self) -> dict[str, Task]:
        """Its tasks, in the order in which they are known."""
        held = {run.task for run in self.found}
        return {name: task for name, task in TASKS.items() if name in held}

    @property
    def weights(self) -> list[str]:
        """The pre-trained weights that its runs started from, by seed."""
        ordered = sorted(self.found, key=lambda run: run.seed)
        return list(dict.fromkeys(run.weights for run in ordered))

    def is_near(self, runs: Sequence[Found]) -> bool:
        """Whether runs start from weights of the table's, on tasks that are like its own."""
        if not {run.weights for run in self.found} & {run.weights for run in runs}:
            return False
        own, others = ({_kind(run.task) for run in of} for of in (self.found, runs))
        tasks = {run.task for run in self.found} & {run.task for run in runs}
        return bool(tasks or own & others)

    def takes(self, run: Found) -> bool:
        """Whether a run can stand in the table."""
        return all(
            (one.task != run.task or one.examined == run.examined)
            and (one.seed != run.seed or one.weights == run.weights)
            for one in self.found
        )


def grouped(runs: Sequence[Found]) -> list[Group]:
    """The tables of runs; those of one folder stay together where they can."""
    groups: list[Group] = []
    for source in dict.fromkeys(run.source for run in runs):
        left = [run for run in runs if run.source == source]
        while left:
            near = (group for group in groups if group.is_near(left) and all(map(group.takes, left)))
            group = next(near, None)
            if group is None:
                groups.append(group := Group())
            rest = []
            for run in left:
                (group.found if group.takes(run) else rest).append(run)
            left = rest
    return groups


def rows_of(group: Group) -> list[Series]:
    """The rows of a table, methods in the order of the registry, each named.

    Raises:
        UserError: two runs are of one experiment and have other scores.
    """
    known = [*METHODS]
    order = sorted(
        dict.fromkeys(run.method for run in group.found),
        key=lambda name: known.index(name) if name in known else len(known),
    )
    rows: list[Series] = []
    for method in order:
        own: list[Series] = []
        for runs in _units(group.found, method):
            takers = [row for row in own if row.takes(runs)]
            row = min(takers, key=lambda row: row.distance(runs), default=None)
            if row is None:
                own.append(row := Series(method))
            row.add(runs)
        _name(own)
        rows += own
    return rows


@contextmanager
def as_runs(rows: Sequence[Series]) -> Iterator[tuple[list[Run], list[str]]]:
    """Runs as tables take them, and the names of their rows. Where a method has several rows, each of them is
    known as a method while the block runs.
    """
    names, runs, added = [], [], []
    for number, row in enumerate(rows):
        name = row.method
        if sum(other.method == name for other in rows) > 1:
            name = f"{row.method}@{number}"
            METHODS[name] = replace(method_named(row.method), name=name, title=row.title)
            added.append(name)
        names.append(name)
        runs += [
            Run(name, run.task, run.seed, run.result, run.folder)
            for run in sorted(row.runs.values(), key=lambda run: run.seed)
        ]
    try:
        yield runs, names
    finally:
        for name in added:
            del METHODS[name]


def _kind(task: str) -> bool:
    """Whether a task reads official files."""
    return TASKS[task].data_set is not None


def _units(found: Sequence[Found], method: str) -> list[list[Found]]:
    """The runs of a method that came together: those of one folder and seed."""
    units: dict[tuple[Any, ...], list[Found]] = {}
    for run in found:
        if run.method == method:
            key = (run.source, run.seed, run.settings.get("label"))
            units.setdefault(key, []).append(run)
    return list(units.values())


def _name(rows: Sequence[Series]) -> None:
    """Give the rows of one method their titles."""
    title = method_named(rows[0].method).title
    if len(rows) == 1:
        rows[0].title = title
        return
    said = [_told(row, rows, "chosen", MOST_NAMED) for row in rows]
    if len(set(said)) < len(rows):
        said = [_told(row, rows, "chosen") for row in rows]
    if len(set(said)) < len(rows):
        conditions = [_told(row, rows, "conditions") for row in rows]
        said = [", ".join(filter(None, both)) for both in zip(said, conditions, strict=True)]
    for number, words in enumerate(said):
        if words in said[:number]:
            raise _conflict(rows[said.index(words)], rows[number])
    for row, words in zip(rows, said, strict=True):
        row.title = f"{title} ({words})" if words else title


def _conflict(first: Series, second: Series) -> UserError:
    """The error of two rows that nothing tells apart."""
    pairs = [(run, second.runs[key]) for key, run in first.runs.items() if key in second.runs]
    pairs = [pair for pair in pairs if pair[0].outcome != pair[1].outcome] or pairs
    pairs = pairs or [(next(iter(first.runs.values())), next(iter(second.runs.values())))]
    one, other = pairs[0]
    return UserError(
        f"{one.place} and {other.place} are runs of one experiment, with other scores: give one of them"
    )


def _told(row: Series, rows: Sequence[Series], what: str, most: int | None = None) -> str:
    """What differs between a row and the others of its method, as this row has it; at most so many things."""
    by_name: dict[str, dict[str, None]] = {}
    for task in dict.fromkeys(task for task, _ in row.runs):
        of_rows = [_first(other, task, what) for other in rows if any(t == task for t, _ in other.runs)]
        own = _first(row, task, what)
        for name in _differing(of_rows):
            by_name.setdefault(name, {})[_short(own.get(name, DEFAULT))] = None
    words = [f"{spoken(name)} {'/'.join(values)}" for name, values in by_name.items()]
    return ", ".join([*words[:most], *(["…"] if words[:most] != words else [])])


def _first(row: Series, task: str, what: str) -> Mapping[str, Any]:
    return next(getattr(run, what) for (name, _), run in row.runs.items() if name == task)


def _differing(of: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names whose values are not the same in all dictionaries."""
    names = dict.fromkeys(name for one in of for name in one)
    return [name for name in names if any(one.get(name, DEFAULT) != of[0].get(name, DEFAULT) for one in of)]


def spoken(name: str) -> str:
    """A setting's dotted name as words: its last part."""
    return name.rpartition(".")[2].replace("_", " ")


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
