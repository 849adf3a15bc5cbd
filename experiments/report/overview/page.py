"""The page of any number of runs."""

from __future__ import annotations

import platform
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import attngraph
from attngraph.errors import UserError
from experiments.arguments import did_you_mean
from experiments.configs.experiment import EXPERIMENT
from experiments.progress import Progress
from experiments.report.overview.blocks import Block, Commands, Grid, Page, Section, Text
from experiments.report.overview.found import Found, Search
from experiments.report.overview.grouped import Group, Series, as_runs, grouped, rows_of
from experiments.report.overview.here import model_in_words
from experiments.report.overview.sections import sections_of, table_of
from experiments.report.table import Table
from experiments.report.wording import listed

TITLE = "Report"


def page_of(
    search: Search, title: str | None = None, baseline: str | None = None
) -> tuple[Page, list[Table]]:
    """The page of runs, and its tables.

    Args:
        search: the runs.
        title: of the page.
        baseline: method with which all rows that train are compared; None for the GNN ablation's, with which
            GNN adapters are.

    Raises:
        UserError: no run is of the baseline, or runs of one experiment have other scores.
    """
    methods = list(dict.fromkeys(run.method for run in search.runs))
    if baseline is not None and baseline not in methods:
        near = did_you_mean(baseline, methods)
        raise UserError(f"--baseline {baseline}{near}: no run is of it; choose from {', '.join(methods)}")
    groups = grouped(search.runs)
    rows = [rows_of(group) for group in groups]
    sections: list[Section] = []
    tables: list[Table] = []
    titles = _titles(groups)
    bar = Progress(list(zip(groups, rows, titles, strict=True)), desc="tables", leave=False, delay=2)
    for number, (group, of_group, name) in enumerate(bar, 1):
        with as_runs(of_group) as (runs, names):
            table = table_of(group, of_group, runs, names, name, baseline)
            sections += sections_of(number, group, of_group, runs, table)
        tables.append(table)
    sections.append(Section("Versions, machines and commands", _made(search.runs)))
    return Page(title or TITLE, _about(search, groups, rows), sections), tables


def _about(search: Search, groups: Sequence[Group], rows: Sequence[Sequence[Series]]) -> list[str]:
    shown = sum(len(row.runs) for of_group in rows for row in of_group)
    twice = len(search.runs) - shown
    parts = [f"{shown} finished run{'s' * (shown > 1)} in {len(groups)} table{'s' * (len(groups) > 1)}"]
    if twice:
        parts.append(f"{twice} that {'are' if twice > 1 else 'is'} the same as another left out")
    if search.unfinished:
        parts.append(f"{search.unfinished} unfinished left out")
    return [f"{', '.join(parts)}. Made by attngraph {attngraph.__version__}."]


def _titles(groups: Sequence[Group]) -> list[str]:
    """A title for each table: model and tasks; what else tells tables apart where these are the same."""
    titles = []
    for group in groups:
        models = list(map(model_in_words, group.weights))
        model = models[0].partition(" (")[0] if len(models) == 1 else f"{len(models)} checkpoints"
        titles.append(f"{model}: {listed([task.title.partition(' (')[0] for task in group.tasks.values()])}")
    counts = Counter(titles)
    return [
        f"{title} (of {', '.join(dict.fromkeys(str(run.source) for run in group.found))})"
        if counts[title] > 1
        else title
        for title, group in zip(titles, groups, strict=True)
    ]


def _made(runs: Sequence[Found]) -> list[Block]:
    """How the runs were made, and how they are made again."""
    counts: dict[tuple[str, str], int] = {}
    for run in runs:
        for name, value in run.conditions.items():
            place = (name.removeprefix("versions."), str(value))
            counts[place] = counts.get(place, 0) + 1
    lines = [[name, value, str(count)] for (name, value), count in sorted(counts.items())]
    blocks: list[Block] = (
        [Grid(("What", "Value", "Runs"), lines, "How runs were made", names=2)] if lines else []
    )
    blocks.append(
        Text([f"This page: attngraph {attngraph.__version__} on Python {platform.python_version()}."])
    )
    sources = list(dict.fromkeys(str(run.source) for run in runs))
    lines = [f"attngraph significance {shlex.quote(source)}" for source in sources]
    blocks += [Text(["Every comparison again, from the raw results:"]), Commands("\n".join(lines))]
    return [*blocks, *_again(runs)]


def _again(runs: Sequence[Found]) -> list[Block]:
    """How the first run of each method and task is made again, from the file in its folder."""
    first: dict[tuple[str, str], Path] = {}
    for run in runs:
        if (run.folder / EXPERIMENT).is_file():
            first.setdefault((run.method, run.task), run.folder / EXPERIMENT)
    if not first:
        return []
    lines = [f"attngraph train {shlex.quote(str(file))} --out runs/again" for file in first.values()]
    files = [
        Commands(file.read_text(encoding="utf-8").rstrip(), "yaml", str(file)) for file in first.values()
    ]
    about = f"Training again, from the {EXPERIMENT} in each run's folder; the first of each method and task:"
    return [Text([about]), Commands("\n".join(lines)), *files]
