"""Choose learning rates, joins and the schemes' arguments on validation data, with the same budget for each
GNN.

attngraph search                # hours on 2 cores; resumable; writes
runs/search/{trials.csv,search.md,settings.yaml}

:mod:`experiments.tables.search` says what is tried.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attngraph.errors import UserError
from experiments.base.files import write_text
from experiments.base.outputs import Outputs, check_folder
from experiments.base.progress import note
from experiments.methods.settings import SETTINGS_FILE, chosen_settings, write_settings
from experiments.models.weights import weights_digest
from experiments.runs.device import processes
from experiments.runs.execution import add_run_arguments, execution_of, in_folder
from experiments.runs.given_data import add_data_arguments, check_data_arguments
from experiments.runs.runner import prepare
from experiments.tables.checkpoints import (
    add_checkpoints_argument,
    check_checkpoints,
    checkpoints_folder,
)
from experiments.tables.grid import load_preset
from experiments.tables.make import names_in
from experiments.tables.plan import Wanted
from experiments.tables.race import FURTHER, Trial
from experiments.tables.search import FROZEN, Search
from experiments.tables.search_report import search_report

NAMES = ("trials.csv", "search.md", "settings.yaml")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``attngraph search``."""
    add = parser.add_argument
    add(
        "--out",
        type=Path,
        default=Path("runs/search"),
        metavar="FOLDER",
        help="Write the runs and their results into this folder; trials in its trials.csv are not run again.",
    )
    add(
        "--preset",
        default="full",
        metavar="NAME",
        help="Take the budgets, data and checkpoints of this preset: a name or a YAML file.",
    )
    add(
        "--tasks",
        metavar="NAMES",
        help="Take only these tasks, separated by commas. Default: all of the preset.",
    )
    add_checkpoints_argument(parser)
    add_data_arguments(parser)
    add_run_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Run the races; a second call continues."""
    check_data_arguments(args)
    grid = load_preset(args.preset)
    wanted = Wanted(
        tasks=names_in(args.tasks),
        model=args.model,
        checkpoints=checkpoints_folder(args.checkpoints, grid, args.model),
        data=args.data,
        answering=args.answering,
    )
    search = Search(grid, wanted, args.data or args.out / "data", execution_of(args, args.out))
    check_folder(args.out, "search")
    return in_folder(search.execution, lambda: _search(args, search))


def _search(args: argparse.Namespace, search: Search) -> int:
    """Run the races and save what they choose."""
    out, is_main = args.out, processes(args.device).is_main_process
    cells = [search.cell(Trial(FROZEN, task)) for task in search.tasks]
    outputs = Outputs(out, "search", _about(search), NAMES)
    if is_main:
        outputs.check()
    prepare(cells, search.execution, search.grid.scenes if args.data is None else None, args.download)
    if is_main:
        outputs.claim()
    _note_checkpoints(search)
    settings = search.run()
    if not is_main:
        return 0
    file = out / "settings.yaml"
    write_settings(file, settings)
    report = search_report(search)
    write_text(out / "search.md", report)
    print(report + "\n" + file.read_text(encoding="utf-8"))
    note(
        f"\nsaved: {out}/trials.csv, search.md, settings.yaml\nto use these settings in attngraph ablation: "
        f"{_how_to_use(file, [*search.tasks])}"
    )
    return 0


def _how_to_use(file: Path, tasks: Sequence[str]) -> str:
    """How settings of these tasks come to be the chosen ones."""
    chosen = chosen_settings().methods.values()
    others = dict.fromkeys(task for of_task in chosen for task in of_task if task not in tasks)
    if not others:
        return f"cp {file} {SETTINGS_FILE}"
    return f"put its entries in place of those in {SETTINGS_FILE}, which has {', '.join(others)} too"


def _note_checkpoints(search: Search) -> None:
    """Say early what finalists need hours later."""
    cells = [
        search.cell(Trial(FROZEN, task, seed=seed)) for seed in range(1 + FURTHER) for task in search.tasks
    ]
    try:
        check_checkpoints(cells)
    except UserError as error:
        note(f"for the finalists, after the first stage: {error}")


def _about(search: Search) -> dict:
    """What decides the trials' scores, but for the precision, which stands in trials.csv."""
    grid, wanted = search.grid, search.wanted
    runs = {name: grid.part(task) for name, task in search.tasks.items()}
    for part in runs.values():
        part.get("recipe", {}).pop("precision", None)
    if wanted.data is None:
        data: Any = grid.scenes.model_dump(mode="json")
    else:
        data = {name: task.content(search.data, "validation") for name, task in search.tasks.items()}
    return {
        "runs": runs,
        "answering": wanted.answering,
        "data": data,
        "reduction": search.reduction,
        "weights": weights_digest(wanted.model),
        **search.execution.conditions(),
    }
