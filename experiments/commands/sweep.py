"""Choose the learning rate of each row of a table on validation data, with one seed.

    attngraph sweep main --out runs/tables-scenes
    attngraph table main --settings runs/tables-scenes/settings.yaml --out runs/tables-scenes

The rates with which rows begin stand in the size's file, the same for all adapters; while the best lies at an
edge, the next one beyond it is tried. Tasks that are left out take the rates of the task that they are like.
Runs go on where they stopped.
"""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Collection, Sequence
from pathlib import Path

from attngraph.errors import UserError
from experiments.base.files import check_files, published, write_text
from experiments.base.outputs import check_folder
from experiments.base.progress import note
from experiments.methods import method_named
from experiments.methods.settings import Settings, write_settings
from experiments.runs.cells import has_diverged, has_scores
from experiments.runs.device import processes
from experiments.runs.execution import add_run_arguments, execution_of, in_folder
from experiments.runs.given_data import add_data_arguments, check_data_arguments
from experiments.runs.runner import prepare, run_cells
from experiments.tables.grid import load_table
from experiments.tables.make import OWNER, check_named, folder_of, plan_of, rows_in
from experiments.tables.sweep import DIVERGED, Tried, alike, at_rate, chosen_rates, sweep

SETTINGS, TRIED, ABOUT = "settings.yaml", "sweep.csv", "sweep.md"
COLUMNS = ("method", "task", "rate", "score")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``attngraph sweep``."""
    add = parser.add_argument
    add("name", metavar="TABLE", help="Take the rows and tasks of this table, as `attngraph table` does.")
    add(
        "--size",
        default="scenes",
        metavar="NAME",
        help="Take the budgets and rates of this size of it.",
    )
    add("--rows", metavar="NAMES", help="Take only these rows, separated by commas. Default: all that train.")
    add(
        "--tasks",
        metavar="NAMES",
        help="Take only these tasks, separated by commas. Default: all of the table.",
    )
    add("--seed", type=int, default=0, metavar="N", help="Train with this seed.")
    add(
        "--out",
        type=Path,
        metavar="FOLDER",
        help=f"Write the runs, {SETTINGS}, {TRIED} and {ABOUT} into this folder, which may be that of the "
        "tables. Default: runs/tables-SIZE.",
    )
    add_data_arguments(parser)
    add_run_arguments(parser)
    add("--dry-run", action="store_true", help="List the runs with their first rates; run nothing.")


def run(args: argparse.Namespace) -> int:
    """Try the rates and write the best; a second call continues."""
    check_data_arguments(args)
    out, grid = folder_of(args), load_table(args.name, args.size)
    trained = [name for name in grid.counts if method_named(name).trains]
    rows = rows_in(args.rows, trained) or trained
    plan, execution = plan_of(args, grid, rows, 1), execution_of(args, out)
    rates = {cell.method: grid.rates_of(method_named(cell.method)) for cell in plan.cells}
    if not args.dry_run:
        check_named(args, grid)
    check_folder(out, OWNER)
    _check_own(out)
    if args.dry_run:
        for cell in plan.cells:
            tried = ", ".join(f"{rate:g}" for rate in rates[cell.method])
            print(
                f"{method_named(cell.method).title:<28} {cell.task:<12} {cell.recipe.steps} steps at {tried}"
            )
        return 0
    _check_kept(out, [(cell.method, cell.task) for cell in plan.cells if cell.recipe is not None])
    is_main = processes(args.device).is_main_process

    def work() -> int:
        cells = [cell for cell in plan.cells if cell.recipe is not None]
        first = [at_rate(cell, rates[cell.method][0]) for cell in cells]
        if not all(has_scores(cell, out) or has_diverged(cell, out) for cell in first):
            prepare(first, execution, plan.scenes, args.download)
        tried = sweep(cells, rates, lambda due: run_cells(due, execution, may_diverge=True))
        if is_main:
            _save(out, chosen_rates(cells, tried, grid.chosen.reduction), tried)
        return 0

    return in_folder(execution, work)


def _check_own(out: Path) -> None:
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


def _check_kept(out: Path, swept: Collection[tuple[str, str]]) -> None:
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


def _save(out: Path, settings: Settings, tried: Sequence[Tried]) -> None:
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
