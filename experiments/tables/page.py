"""Finished runs on one page: an HTML file that needs nothing beside it, and Markdown with figures as PNG.

Each folder that is named makes one table; runs that are named one by one make one together.
"""

from __future__ import annotations

import platform
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

import attngraph
from attngraph.errors import UserError
from experiments.base.arguments import did_you_mean
from experiments.base.progress import Progress
from experiments.methods.method import METHODS, REFERENCE
from experiments.runs.experiment import EXPERIMENT
from experiments.tables import details
from experiments.tables.compare import BASELINE, unlike
from experiments.tables.frame import listed
from experiments.tables.published import MISSING, of_drawn, published_blocks
from experiments.tables.render import (
    COSTS,
    Grid,
    blocks_of,
    duration,
    escape,
    grid_markdown,
    legend,
    render_markdown,
    scope,
)
from experiments.tables.runs import SCORES, Run, saved_runs, unfinished, versions_of
from experiments.tables.table import Design, Table, make_table
from experiments.tasks import TASKS
from experiments.tasks.task import Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE, ALONE = "Report", "Single runs"
#: What the trained runs of a task are expected to share, whatever their method: words -> place in settings.
BUDGET = {
    "steps": ("recipe", "steps"),
    "batch size": ("recipe", "batch_size"),
    "augment": ("recipe", "augment"),
    "side": ("side",),
    "train examples": ("train_examples",),
}
SHARES = {"model": "Of the model", "language_side": "Of its language side"}
COSTS_HEAD = (
    *("Method", "Task", "Seeds", "Trained parameters", *SHARES.values()),
    *("Training", "Scoring", "Peak MB"),
)


# ---- what a page is made of -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Text:
    """Sentences, each of them a paragraph, or an entry of a list if there are several."""

    sentences: Sequence[str]


@dataclass(frozen=True)
class Commands:
    """Lines for a shell."""

    lines: Sequence[str]


@dataclass(frozen=True)
class Picture:
    """A figure.

    Args:
        name: of its file, without suffix.
        draw: makes it; it is drawn once.
        alt: what it shows, for those who cannot see it.
        caption: under it.
    """

    name: str
    draw: Callable[[], Figure]
    alt: str
    caption: str

    @cached_property
    def figure(self) -> Figure:
        """What :attr:`draw` makes."""
        return self.draw()


@dataclass(frozen=True)
class Section:
    """A heading with what stands under it: texts, grids, tables, pictures and commands.

    Args:
        title: the heading.
        blocks: in order.
        level: 2 for a section of the page, 3 for one within such a section.
    """

    title: str
    blocks: Sequence[Text | Grid | Table | Picture | Commands]
    level: int = 2


@dataclass(frozen=True)
class Page:
    """A page.

    Args:
        title: on top.
        about: under it.
        sections: in order.
    """

    title: str
    about: str
    sections: Sequence[Section]

    @property
    def pictures(self) -> list[Picture]:
        """The figures of all sections."""
        return [block for section in self.sections for block in section.blocks if isinstance(block, Picture)]

    def html(self) -> str:
        """The page as one HTML file without script or network, for day and night. All texts are escaped."""
        from experiments.tables.figure import svg

        return _environment(autoescape=True).get_template("page.html.jinja").render(page=self, svg=svg)

    def markdown(self) -> str:
        """The page as Markdown; its figures are files ``<name>.png``."""
        return _environment(autoescape=False).get_template("page.md.jinja").render(page=self)


def _environment(autoescape: bool) -> Environment:
    """Where the page's templates are found, with what they call."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"md": escape, "grid": grid_markdown, "table": render_markdown}
    environment.globals |= {"COSTS": COSTS, "blocks_of": blocks_of, "legend": legend}
    environment.globals["kind"] = lambda block: type(block).__name__
    return environment


# ---- from folders to a page -----------------------------------------------------------------------------


@contextmanager
def page_of(folders: Sequence[Path], title: str | None = None, baseline: str | None = None) -> Iterator[Page]:
    """The page of finished runs; its figures can be drawn while the block runs.

    Args:
        folders: as :func:`experiments.tables.runs.saved_runs` takes them.
        title: of the page.
        baseline: method with which all rows that train are compared; None for the GNN ablation's, with which
            GNN adapters are.

    Raises:
        UserError: no run is of the baseline, or see :func:`~experiments.tables.runs.saved_runs`.
    """
    alone = [folder for folder in folders if (folder / SCORES).is_file()]
    sources = {str(folder): [folder] for folder in folders if folder not in alone}
    sources |= {ALONE: alone} if alone else {}
    with ExitStack() as stack:
        tables = {name: stack.enter_context(saved_runs(*dict.fromkeys(of))) for name, of in sources.items()}
        every = [run for runs in tables.values() for run in runs]
        methods = list(dict.fromkeys(run.row for run in every))
        if baseline is not None and baseline not in methods:
            near = did_you_mean(baseline, methods)
            raise UserError(f"--baseline {baseline}{near}: no run is of it; choose from {', '.join(methods)}")
        sections: list[Section] = []
        bar = Progress(list(tables.items()), desc="tables", leave=False, delay=2)
        for number, (name, runs) in enumerate(bar, 1):
            sections += _sections(number, name, runs, baseline)
        sections.append(Section("Versions, machines and commands", _made(every, folders)))
        counts = [f"{len(every)} finished run{'s' * (len(every) > 1)}"]
        counts[0] += f" in {len(tables)} table{'s' * (len(tables) > 1)}"
        counts += [f"{count} unfinished left out"] if (count := sum(map(unfinished, folders))) else []
        about = f"{', '.join(counts)}. Made by attngraph {attngraph.__version__}."
        yield Page(title or TITLE, about, sections)


def _sections(number: int, title: str, runs: Sequence[Run], baseline: str | None) -> list[Section]:
    """The sections of a table."""
    order = [*METHODS]
    runs = sorted(
        runs, key=lambda run: (order.index(run.row) if run.row in order else len(order), run.row, run.seed)
    )
    held = {run.task for run in runs}
    tasks = {name: task for name, task in TASKS.items() if name in held}
    blocks = published_blocks()
    design = Design(
        baseline=baseline or BASELINE, published=[blocks["main_blip"], blocks["gnn"], of_drawn(blocks["gnn"])]
    )
    if baseline is not None:
        rows = {run.row: run.method for run in runs}
        trained = [name for name, method in rows.items() if method.trains and method.group != REFERENCE]
        design = replace(design, contenders=trained, contest="of the rows that train")
    said = unlike(runs)
    table = make_table(runs, tasks, title, _unequal(runs, tasks), design, compare=not said)
    every = details.every_seed(runs, tasks, table.columns)
    sections = [
        Section(f"Table {number}: {title}", [table, _dots(table, number)]),
        Section("Significance", _significance(table, said), 3),
        Section("Training", [*_curves(number, runs, tasks), *_grids(details.trained(runs, tasks))], 3),
        Section("Costs", [_costs(runs, tasks)], 3),
        Section("What adapters do", _effects(runs, tasks), 3),
        Section("Every seed", [every, _places(runs, tasks)], 3),
    ]
    return [section for section in sections if section.blocks]


def _grids(*grids: Grid) -> list[Grid]:
    return [grid for grid in grids if grid.lines]


def _dots(table: Table, number: int) -> Picture:
    def drawn() -> Figure:
        from experiments.tables.figure import draw_figure  # matplotlib is slow to import

        rows = [replace(row, note="") for row in table.rows]
        return draw_figure(replace(table, rows=rows, notes=(), published=()))

    best = {column.heading: sorted(table.best(column.key)) for column in table.columns}
    best_in_words = "; ".join(f"{heading} ({listed(names)})" for heading, names in best.items() if names)
    alt = f"{table.title} as dots, one panel for each column."
    alt += f" Best {table.contest} in {best_in_words}." if best_in_words else ""
    return Picture(f"report-{number}-scores", drawn, alt, "The same numbers; read each panel for itself.")


def _significance(table: Table, unlike_runs: str) -> list[Text | Grid]:
    if not table.comparisons:
        why = unlike_runs or f"no other row shares a seed with {table.baseline}"
        return [Text([f"Nothing is compared: {why}."])]
    grid = details.significance(table.comparisons, {column.key: column.heading for column in table.columns})
    if all(line["new_p"] is None for line in table.comparisons):
        width = grid.head.index("Seeds") + 1
        grid = replace(grid, head=grid.head[:width], lines=[line[:width] for line in grid.lines])
    return [Text([f"{scope(table.comparisons)} Holm's correction is over this table."]), grid]


def _curves(number: int, runs: Sequence[Run], tasks: Mapping[str, Task]) -> list[Picture]:
    from experiments.tables.figure import curves_of, draw_curves

    pictures = []
    for name, task in tasks.items():
        rows: dict[str, list[Run]] = {}
        for run in (run for run in runs if run.task == name):
            rows.setdefault(run.method.title, []).append(run)
        if not (panels := curves_of(rows, task)):
            continue
        first, curves = next(iter(panels.items()))
        ends = [f"{title} {curve.values[:, -1].mean():.3g}" for title, curve in curves.items()]
        alt = f"{task.title}: {listed(list(panels))} over steps. {first} at the end: {', '.join(ends)}."
        caption = (
            f"{task.title}. Line = mean over seeds, shade = from the lowest to the highest seed; training "
            "curves are means over stretches of steps."
        )
        draw = lambda panels=panels: draw_curves(panels)  # noqa: E731
        pictures.append(Picture(f"report-{number}-{name}", draw, alt, caption))
    return pictures


def _costs(runs: Sequence[Run], tasks: Mapping[str, Task]) -> Grid:
    by_row: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for run in runs:
        by_row.setdefault((run.method.title, run.task), []).append(run.result)
    lines = [
        [
            row,
            tasks[task].title,
            str(len(results)),
            f"{max(result['parameters'] for result in results):,}",
            *(_share(results, of) for of in SHARES),
            *(
                duration(float(np.mean([one[f"{what}_seconds"] for one in results])))
                for what in ("train", "eval")
            ),
            f"{max(result['peak_mb'] for result in results):,.0f}",
        ]
        for (row, task), results in by_row.items()
    ]
    return Grid(COSTS_HEAD, lines, names=2)


def _share(results: Sequence[Mapping[str, Any]], of: str) -> str:
    """The largest share of parameters that runs trained; a dash where one of them does not say."""
    shares = [(result.get("parameter_shares") or {}).get(of) for result in results]
    return MISSING if None in shares else f"{100 * max(shares):.2f} %"


def _effects(runs: Sequence[Run], tasks: Mapping[str, Task]) -> list[Text | Grid]:
    grids = _grids(*(details.effects(runs, task) for task in tasks.values()))
    blocks: list[Text | Grid] = [*grids]
    about, learned = details.learned(runs, tasks)
    if about:
        title = "Learned numbers on which seeds agree"
        blocks += [Text([f"{title}: {about}"]), *_grids(replace(learned, title=title))]
    return blocks


def _places(runs: Sequence[Run], tasks: Mapping[str, Task]) -> Grid:
    lines = []
    for run in runs:
        loss = run.result["loss"]
        told = MISSING if loss is None else f"{loss:.3f}"
        lines.append([run.method.title, tasks[run.task].title, str(run.seed), told, run.place])
    return Grid(("Method", "Task", "Seed", "Last loss", "Folder"), lines, "Every run", names=2, folded=True)


def _unequal(runs: Sequence[Run], tasks: Mapping[str, Task]) -> list[str]:
    """Sentences where trained rows of a task do not share what they are expected to."""
    notes = []
    for name, task in tasks.items():
        trained = [run for run in runs if run.task == name and run.settings.get("recipe")]
        for words, place in BUDGET.items():
            held: dict[str, dict[str, None]] = {}
            for run in trained:
                value: Any = run.settings
                for key in place:
                    value = value.get(key)
                told = "default" if value is None else f"{value:,}" if type(value) is int else str(value)
                held.setdefault(told, {})[run.method.title] = None
            if len(held) > 1:
                told = "; ".join(f"{value} ({listed(list(titles))})" for value, titles in held.items())
                notes.append(f"Not alike in {task.title}: {words} {told}")
    return notes


def _made(runs: Sequence[Run], folders: Sequence[Path]) -> list[Text | Grid | Commands]:
    """How the runs were made, and how comparisons and runs are made again."""
    counts = versions_of(runs)
    for what in ("device", "precision", "threads"):
        counts[what] = Counter(str(run.config[what]) for run in runs if what in run.config)
    lines = [[what, value, str(count)] for what in sorted(counts) for value, count in counts[what].items()]
    again: dict[tuple[str, str], Path] = {}
    for run in runs:
        if (file := run.folder / EXPERIMENT).is_file():
            again.setdefault((run.row, run.task), file)
    blocks: list[Text | Grid | Commands] = [
        *_grids(Grid(("What", "Value", "Runs"), lines, "How runs were made", names=2)),
        Text([f"This page: attngraph {attngraph.__version__} on Python {platform.python_version()}."]),
        Text(["Every comparison again, from the raw results:"]),
        Commands([f"attngraph significance {shlex.quote(str(folder))}" for folder in dict.fromkeys(folders)]),
    ]
    if again:
        blocks += [
            Text(
                [f"Training again, from the {EXPERIMENT} in the folder of the first of each method and task:"]
            ),
            Commands(
                [f"attngraph train {shlex.quote(str(file))} --out runs/again" for file in again.values()]
            ),
        ]
    return blocks
