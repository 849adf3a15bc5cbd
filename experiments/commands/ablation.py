"""The GNN ablation table.

attngraph ablation                       # preset quick: one seed, under 8 minutes on 2 cores
attngraph ablation --preset full         # 21 seeds for the GNNs; hours, resumable
attngraph ablation --gnn pgnn,gcn --tasks vqa --seeds 3 --out runs/pgnn-gcn
attngraph ablation --data data/benchmarks --tasks vqa2,coco --out runs/benchmarks
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from adapters.joins import JOINS
from attngraph.errors import UserError
from experiments.configs.presets import load_preset, preset_names
from experiments.configs.settings import chosen_settings
from experiments.files import check_files
from experiments.methods import method_named
from experiments.outputs import check_folder
from experiments.progress import note
from experiments.report.ablation import DETAILS, SIGNIFICANCE, Design, make_table, save_results
from experiments.report.runs import Run
from experiments.report.text import render_text
from experiments.tasks import TASKS
from experiments.training.answering import RANK
from experiments.training.cells import Cell, has_scores, versions
from experiments.training.device import processes
from experiments.training.execution import Execution, add_run_arguments, execution_of, in_folder
from experiments.training.given_data import add_data_arguments, check_data_arguments
from experiments.training.plan import (
    Plan,
    Request,
    add_checkpoints_argument,
    check_checkpoints,
    checkpoints_folder,
    plan_table,
    tasks_of,
)
from experiments.training.prepare import prepare
from experiments.training.runner import run_cells


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``attngraph ablation``."""
    presets = "; ".join(map(_about, preset_names()))
    add = parser.add_argument
    add(
        "--preset",
        default="quick",
        metavar="NAME",
        help=f"Run this preset: a YAML file, or one of these: {presets}.",
    )
    add(
        "--gnn",
        metavar="NAMES",
        help="Run only these adapters, separated by commas. Default: as the preset says.",
    )
    add(
        "--tasks",
        metavar="NAMES",
        help=f"Run only these tasks, separated by commas: {','.join(TASKS)}. Default: those whose data are "
        "in --data, or without it those whose data are drawn or come with a package.",
    )
    add("--seed", type=int, default=0, metavar="N", help="Begin the trained rows with this seed.")
    add(
        "--seeds",
        type=int,
        metavar="N",
        help="Run every row with this many seeds. Default: as the preset says.",
    )
    add(
        "--join",
        metavar="NAME",
        help=f"Join adapters to the model in this way: {', '.join(JOINS)}. Default: as chosen on validation "
        "data.",
    )
    add(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="Write the runs and tables into this folder. Default: runs/ablation-PRESET.",
    )
    add_checkpoints_argument(parser)
    add_data_arguments(parser)
    add_run_arguments(parser)
    add("--dry-run", action="store_true", help="List the runs and an estimate of time, run nothing.")


def _about(preset: str) -> str:
    """A preset and what it is; the name alone where its file is damaged, which matters to those who ask for
    it.
    """
    try:
        return f"{preset}: {load_preset(preset).about}"
    except UserError:
        return preset


def run(args: argparse.Namespace) -> int:
    """Run what is missing, then print and save the table."""
    check_data_arguments(args)
    plan, out = _plan(args)
    execution = execution_of(args, out)
    check_folder(out, "ablation")
    if args.dry_run:
        check_table(plan.cells, out)
        if processes(args.device).is_main_process:
            _note_unsearched(plan)
            _list(plan, execution.jobs)
        return 0
    return in_folder(execution, lambda: _table(args, plan, execution))


def _table(args: argparse.Namespace, plan: Plan, execution: Execution) -> int:
    """Run what is missing, then print and save the table."""
    out, is_main = execution.out, processes(args.device).is_main_process
    check_table(plan.cells, out)
    check_checkpoints([cell for cell in plan.cells if not has_scores(cell, out)])
    prepare(plan.cells, execution, plan.sizes, plan.data_seed, args.download)
    if is_main:
        _note_unsearched(plan)
        time = _duration(plan.seconds(execution.jobs))
        note(
            f"{len(plan.cells)} cells into {out} (about {time} on 2 cores like the reference machine's; "
            "Ctrl-C is safe, the same command goes on)"
        )
    results = run_cells(plan.cells, execution)
    if not is_main:
        return 0
    runs = [
        Run(row, cell.task, cell.seed, results[cell], cell.folder(out))
        for row, cells in plan.rows.items()
        for cell in cells
    ]
    title = f"GNN ablation, preset {Path(args.preset).stem}"
    table = make_table(runs, plan.tasks, title, _about_settings(plan))
    paths = save_results(runs, plan.tasks, table, out, {**versions(), **execution.conditions()})
    print(render_text(table, width=shutil.get_terminal_size((120, 40)).columns))
    print(f"\nsaved: {', '.join(str(path) for path in paths.values())}")
    return 0


def _plan(args: argparse.Namespace) -> tuple[Plan, Path]:
    """The table that the options ask for, and its folder."""
    preset = load_preset(args.preset)
    out = args.out or Path("runs") / f"ablation-{Path(args.preset).stem}"
    request = Request(
        _names(args.gnn),
        _names(args.tasks),
        args.seed,
        args.seeds,
        args.join,
        args.model,
        checkpoints_folder(args.checkpoints, preset, args.model),
        args.data,
        args.answering,
        args.skip_bad,
    )
    tasks = tasks_of(request.tasks, preset, request.data)
    if args.answering == RANK and not any(task.ranks for task in tasks.values()):
        raise UserError(
            f"--answering {RANK} changes nothing, since there is no list of answers for {', '.join(tasks)}: "
            "leave it out"
        )
    return plan_table(preset, request, chosen_settings(), out / "data"), out


def _note_unsearched(plan: Plan) -> None:
    for method, task in plan.unsearched:
        rate = method_named(method).default_rate
        note(f"{method} on {task}: nothing was chosen on validation data; the learning rate is {rate:g}")


def _about_settings(plan: Plan) -> list[str]:
    """A sentence where tasks take the settings that were chosen for others."""
    if not plan.borrowed:
        return []
    of = ", ".join(f"{plan.tasks[name].title} those of {like}" for name, like in plan.borrowed.items())
    return [f"No settings were searched for these tasks yet: {of}"]


def _names(given: str | None) -> list[str] | None:
    if given is None:
        return None
    return list(dict.fromkeys(name.strip() for name in given.split(",") if name.strip()))


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 90 else f"{seconds:.0f} seconds"


def _list(plan: Plan, jobs: int) -> None:
    """Print the cells and the estimate."""
    width = max(map(len, plan.tasks))
    for cell in plan.cells:
        recipe = cell.recipe
        what = f"learning rate {recipe.learning_rate:g}, {recipe.steps} steps" if recipe else "no training"
        print(f"{method_named(cell.method).title:<28} {cell.task:<{width}} seed {cell.seed}  {what}")
    total = _duration(plan.seconds(jobs))
    print(f"\n{len(plan.cells)} cells, {jobs} at a time: about {total} on a 2-core machine")


def check_table(cells: Sequence[Cell], out: Path) -> None:
    """Raise UserError where the folder holds a table with more than these cells, or other files of a table's
    names.
    """
    file = out / "results.json"
    others = [file for name in (f"{Design.stem}.*", SIGNIFICANCE, DETAILS) for file in out.glob(name)]
    check_files([file, *others])
    if not file.exists():
        if others:
            raise UserError(f"{out} holds a table without its results.json: give another --out")
        return
    try:
        content = json.loads(file.read_text(encoding="utf-8"))["cells"]
        held = {(str(r["row"]), str(r["task"]), int(r["seed"])) for r in content}
        if not isinstance(content, list) or not held:
            raise TypeError
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{file} cannot be read ({type(error).__name__}): give another --out, or move it away"
        ) from None
    more = held - {(cell.label, cell.task, cell.seed) for cell in cells}
    if more:
        raise UserError(
            f"{out} holds a table with {len(more)} runs that this one would leave out, such as "
            f"{' '.join(map(str, sorted(more)[0]))}: give another --out"
        )
