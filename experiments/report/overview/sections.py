"""The sections of one table: scores, significance, curves, costs, effects, the published setting, seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from experiments.methods import method_named
from experiments.methods.method import REFERENCE
from experiments.report.ablation import Design, make_table
from experiments.report.comparison import BASELINE
from experiments.report.details import SIGNIFICANCE_HEAD, seeds_lines, significance_cells
from experiments.report.effects import ABOUT_EFFECTS, EFFECTS_HEAD, LEARNED_HEAD, effects_lines, learned_lines
from experiments.report.overview.blocks import Block, Grid, Picture, Scores, Section, Text
from experiments.report.overview.curves import draw, panels_of
from experiments.report.overview.grouped import Group, Series, spoken
from experiments.report.overview.here import in_words, published_task, setting_grid
from experiments.report.published import DRAWN, of_drawn, published_blocks
from experiments.report.published_setting import SOURCES
from experiments.report.published_setting import TASKS as PUBLISHED_TASKS
from experiments.report.rows import score_frame
from experiments.report.runs import Run
from experiments.report.table import Table
from experiments.report.wording import MISSING, duration, listed, scope
from experiments.tasks import TASKS

#: What the runs of a task are expected to share, whatever their method.
BUDGET = ("recipe.steps", "recipe.batch_size", "recipe.augment", "side", "train_examples")
SHARES = {"model": "Of the model", "language_side": "Of its language side"}
COSTS_HEAD = (
    *("Method", "Task", "Seeds", "Trained parameters", *SHARES.values()),
    *("Training", "Scoring", "Peak MB"),
)


def table_of(
    group: Group,
    rows: Sequence[Series],
    runs: Sequence[Run],
    names: Sequence[str],
    title: str,
    baseline: str | None,
) -> Table:
    """The table of a group.

    Args:
        group: which.
        rows: of it.
        runs: of the rows, under ``names``.
        names: under which each row is known as a method.
        title: printed on top.
        baseline: method that trained rows are compared with; None for the GNN ablation's.
    """
    blocks = published_blocks()
    shown = [blocks["main_blip"], blocks["gnn"], of_drawn(blocks["gnn"])]
    named = [name for name, row in zip(names, rows, strict=True) if row.method == (baseline or BASELINE)]
    options: dict = {"published": shown, "baseline": named[0] if named else baseline or BASELINE}
    if baseline is not None:
        methods = [method_named(name) for name in names]
        trained = [method.name for method in methods if method.trains and method.group != REFERENCE]
        options |= {"contenders": trained, "contest": "of the rows that train"}
    notes = [*_unequal(group, rows)]
    return make_table(runs, group.tasks, title, notes, Design(**options))


def sections_of(
    number: int, group: Group, rows: Sequence[Series], runs: Sequence[Run], table: Table
) -> list[Section]:
    """All sections of a table.

    Args:
        number: of the table on the page.
        group, rows, runs: as for :func:`table_of`.
        table: which it made.
    """
    sections = [
        Section(f"Table {number}: {table.title}", [Scores(table), _dots(table, number)]),
        Section("Significance", _significance(table), 3),
        Section("Training", _curves(number, group, rows), 3),
        Section("Costs", [Grid(COSTS_HEAD, _costs(group, runs), names=2)], 3),
        Section("What adapters do", _effects(group, runs), 3),
        Section("What differs from the published setting", _setting(group, rows), 3),
    ]
    sections.append(Section("Every seed", _seeds(group, runs, table), 3))
    return [section for section in sections if section.blocks]


def _dots(table: Table, number: int) -> Picture:
    def drawn():
        from experiments.report.figure import draw_figure  # matplotlib is slow to import

        rows = [replace(row, note="") for row in table.rows]
        return draw_figure(replace(table, rows=rows, notes=(), published=()))

    best = {column.heading: sorted(table.best(column.key)) for column in table.columns}
    best_in_words = "; ".join(f"{heading} ({listed(names)})" for heading, names in best.items() if names)
    alt = f"{table.title} as dots, one panel for each column."
    alt += f" Best {table.contest} in {best_in_words}." if best_in_words else ""
    return Picture(f"report-{number}-scores", drawn, alt, "The same numbers; read each panel for itself.")


def _significance(table: Table) -> list[Block]:
    headings = {column.key: column.heading for column in table.columns}
    if not table.comparisons:
        return [Text([f"Nothing is compared: no other row shares a seed with {table.baseline}."])]
    several = any(line["new_p"] is not None for line in table.comparisons)
    width = len(SIGNIFICANCE_HEAD) if several else SIGNIFICANCE_HEAD.index("Seeds") + 1
    lines = [significance_cells(line, headings)[:width] for line in table.comparisons]
    about = f"{scope(table.comparisons)} Holm's correction is over this table."
    return [Text([about]), Grid(SIGNIFICANCE_HEAD[:width], lines, names=2)]


def _curves(number: int, group: Group, rows: Sequence[Series]) -> list[Block]:
    blocks: list[Block] = []
    for name, task in group.tasks.items():
        panels = panels_of(rows, task)
        if panels is None:
            continue
        ends = [f"{title} {curve.values[:, -1].mean():.3g}" for title, curve in panels.curves[0].items()]
        alt = f"{task.title}: {listed(list(panels.titles))} over steps. "
        alt += f"{panels.titles[0]} at the end: {', '.join(ends)}."
        caption = (
            f"{task.title}. Line = mean over seeds, shade = from the lowest to the highest seed; training "
            "curves are means over stretches of steps."
        )
        blocks.append(Picture(f"report-{number}-{name}", lambda panels=panels: draw(panels), alt, caption))
    return blocks


def _costs(group: Group, runs: Sequence[Run]) -> list[list[str]]:
    by_row: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        by_row.setdefault((run.row, run.task), []).append(run)
    lines = []
    for (row, task), own in by_row.items():
        results = [run.result for run in own]
        train, score = (
            float(np.mean([result[f"{what}_seconds"] for result in results])) for what in ("train", "eval")
        )
        lines.append(
            [
                method_named(row).title,
                group.tasks[task].title,
                str(len(own)),
                f"{max(result['parameters'] for result in results):,}",
                *(_share(results, of) for of in SHARES),
                duration(train),
                duration(score),
                f"{max(result['peak_mb'] for result in results):,.0f}",
            ]
        )
    return lines


def _share(results: Sequence[Mapping], of: str) -> str:
    """The largest share of parameters that runs trained; a dash where one of them does not say."""
    shares = [(result.get("parameter_shares") or {}).get(of) for result in results]
    return MISSING if None in shares else f"{100 * max(shares):.2f} %"


def _effects(group: Group, runs: Sequence[Run]) -> list[Block]:
    blocks: list[Block] = []
    for task in group.tasks.values():
        lines = effects_lines(runs, task)
        if lines:
            blocks.append(Grid(EFFECTS_HEAD, lines, task.title, names=2))
    if blocks:
        blocks.insert(0, Text([f"{ABOUT_EFFECTS[0].upper()}{ABOUT_EFFECTS[1:]}."]))
    text, learned = learned_lines(runs, group.tasks)
    if text:
        blocks.append(Text([f"Learned numbers on which seeds agree: {text}"]))
    if learned:
        blocks.append(
            Grid(LEARNED_HEAD, learned, "Learned numbers on which seeds agree", names=3, folded=True)
        )
    return blocks


def _setting(group: Group, rows: Sequence[Series]) -> list[Block]:
    tasks = list(group.tasks.values())
    grid = setting_grid(rows, tasks)
    likes = {
        task.title: TASKS[published_task(task.name)].title for task in tasks if task.name in DRAWN.values()
    }
    others = [task.title for task in tasks if published_task(task.name) not in PUBLISHED_TASKS]
    said = [SOURCES] if grid else []
    said += [f"{title} stands beside {like}, which its data imitate." for title, like in likes.items()]
    said += [f"No published results are known for {listed(others)}."] if others else []
    return [*([Text(said)] if said else []), *([grid] if grid else [])]


def _seeds(group: Group, runs: Sequence[Run], table: Table) -> list[Block]:
    head, lines = seeds_lines(score_frame(runs, group.tasks), table.columns)
    places = {run.folder: run.place for run in group.found}
    where = [
        [
            method_named(run.row).title,
            group.tasks[run.task].title,
            str(run.seed),
            _loss(run),
            places[run.folder],
        ]
        for run in runs
    ]
    return [
        Grid(head, lines, "Scores of every seed", folded=True),
        Grid(("Method", "Task", "Seed", "Last loss", "Folder"), where, "Every run", reads=True, folded=True),
    ]


def _loss(run: Run) -> str:
    loss = run.result["loss"]
    return MISSING if loss is None else f"{loss:.3f}"


def _unequal(group: Group, rows: Sequence[Series]) -> list[str]:
    """Sentences where trained rows of a task do not share what they are expected to."""
    notes = []
    for name, task in group.tasks.items():
        chosen: Mapping = {row.title: row.chosen[name] for row in rows if name in row.chosen}
        trained = {title: one for title, one in chosen.items() if one.get("recipe", 0) is not None}
        for setting in BUDGET:
            held: dict = {}
            for title, one in trained.items():
                held.setdefault(one.get(setting), []).append(title)
            if len(held) > 1:
                told = "; ".join(
                    f"{'default' if value is None else in_words(value)} ({listed(titles)})"
                    for value, titles in held.items()
                )
                notes.append(f"Not alike in {task.title}: {spoken(setting)} {told}")
    return notes
