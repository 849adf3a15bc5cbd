"""The GNN ablation table.

attngraph ablation                       # preset quick: one seed, under 8 minutes on 2 cores
attngraph ablation --preset full         # 5 seeds for the GNNs; resumable
attngraph ablation --gnn pgnn,gcn --tasks vqa --seeds 3
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from adapters.joins import JOINS
from attngraph.errors import UserError
from experiments.configs.presets import load_preset, preset_names
from experiments.configs.settings import chosen_settings
from experiments.methods import method_named
from experiments.report.ablation import DETAILS, SIGNIFICANCE, STEM, make_table, save_results
from experiments.report.runs import Run
from experiments.report.text import render_text
from experiments.tasks import TASKS
from experiments.training.cells import Cell, versions
from experiments.training.device import check_device, processes
from experiments.training.plan import Plan, Request, plan_table
from experiments.training.prepare import prepare
from experiments.training.runner import Execution, add_run_arguments, jobs_for, run_cells


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``attngraph ablation``."""
    presets = "; ".join(f"{name}: {load_preset(name).about}" for name in preset_names())
    parser.add_argument(
        "--preset", default="quick", help=f"a YAML file, or one of: {presets} (default: %(default)s)"
    )
    parser.add_argument(
        "--gnn", help="only these adapters, separated by commas (default: those of the preset)"
    )
    parser.add_argument("--tasks", help=f"only these tasks: {','.join(TASKS)} (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="first seed (default: %(default)s)")
    parser.add_argument("--seeds", type=int, help="number of seeds for every row (default: by preset)")
    parser.add_argument(
        "--join", help=f"how adapters join the model: {','.join(JOINS)} (default: chosen on validation data)"
    )
    parser.add_argument("--out", type=Path, help="folder of runs and tables (default: runs/ablation-PRESET)")
    add_run_arguments(parser)
    parser.add_argument(
        "--dry-run", action="store_true", help="list the cells and an estimate of time, run nothing"
    )


def run(args: argparse.Namespace) -> int:
    """Run what is missing, then print and save the table."""
    plan, out = _plan(args)
    for method, task in plan.unsearched:
        rate = method_named(method).default_rate
        print(
            f"{method} on {task}: no learning rate was chosen on validation data, {rate:g} is taken",
            file=sys.stderr,
        )
    jobs = jobs_for(args.device, args.jobs)
    if args.dry_run:
        _list(plan, jobs)
        return 0
    check_device(args.device)
    main = processes(args.device).is_main_process
    if main:
        time = _duration(plan.seconds(jobs))
        print(
            f"{len(plan.cells)} cells into {out} (about {time} on 2 cores like the reference machine's; "
            "Ctrl-C is safe, the same command goes on)",
            file=sys.stderr,
        )
    check_table(plan.cells, out)
    execution = Execution(out, args.device, jobs, args.cache_gb)
    prepare(plan.cells, execution, plan.sizes, args.download)
    try:
        results = run_cells(plan.cells, execution)
    except KeyboardInterrupt:
        print(f"\nstopped; finished cells are in {out}, the same command goes on from there", file=sys.stderr)
        return 130
    if not main:
        return 0
    runs = [
        Run(row, cell.task, cell.seed, results[cell], cell.folder(out))
        for row, cells in plan.rows.items()
        for cell in cells
    ]
    table = make_table(runs, plan.tasks, f"GNN ablation, preset {Path(args.preset).stem}")
    paths = save_results(runs, plan.tasks, table, out, versions())
    print(render_text(table, width=shutil.get_terminal_size((120, 40)).columns))
    print(f"\nsaved: {', '.join(str(path) for path in paths.values())}")
    return 0


def _plan(args: argparse.Namespace) -> tuple[Plan, Path]:
    """The table that the options ask for, and its folder."""
    preset = load_preset(args.preset)
    out = args.out or Path("runs") / f"ablation-{Path(args.preset).stem}"
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file: give a folder")
    request = Request(_names(args.gnn), _names(args.tasks), args.seed, args.seeds, args.join, args.model)
    return plan_table(preset, request, chosen_settings(), out / "data"), out


def _names(given: str | None) -> list[str] | None:
    if given is None:
        return None
    return list(dict.fromkeys(name.strip() for name in given.split(",") if name.strip()))


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 90 else f"{seconds:.0f} seconds"


def _list(plan: Plan, jobs: int) -> None:
    """Print the cells and the estimate."""
    for cell in plan.cells:
        recipe = cell.recipe
        what = f"learning rate {recipe.learning_rate:g}, {recipe.steps} steps" if recipe else "no training"
        print(f"{method_named(cell.method).title:<28} {cell.task:<9} seed {cell.seed}  {what}")
    total = _duration(plan.seconds(jobs))
    print(f"\n{len(plan.cells)} cells, {jobs} at a time: about {total} on a 2-core machine")


def check_table(cells: Sequence[Cell], out: Path) -> None:
    """Raise UserError where the folder holds a table with more than these cells, or other files of a table's
    names.
    """
    file = out / "results.json"
    if not file.exists():
        if any(file for name in (f"{STEM}.*", SIGNIFICANCE, DETAILS) for file in out.glob(name)):
            raise UserError(f"{out} holds a table without its results.json: give another --out")
        return
    try:
        held = {(r["row"], r["task"], r["seed"]) for r in json.loads(file.read_text())["cells"]}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{file} cannot be read ({type(error).__name__}): give another --out, or delete it"
        ) from None
    more = held - {(cell.label, cell.task, cell.seed) for cell in cells}
    if more:
        raise UserError(
            f"{out} holds a table with {len(more)} runs that this one would leave out, such as "
            f"{' '.join(map(str, sorted(more)[0]))}: give another --out"
        )
