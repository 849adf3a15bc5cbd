"""Choose learning rates, joins and the schemes' arguments on validation data, with the same budget for each
GNN.

attngraph search                # hours on 2 cores; resumable; writes
runs/search/{trials.csv,search.md,settings.yaml}

:mod:`experiments.training.search` says what is tried.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from attngraph.errors import UserError
from experiments.configs.presets import load_preset
from experiments.configs.settings import SETTINGS_FILE, chosen_settings, write_settings
from experiments.datasets.faults import Faults
from experiments.files import write_text
from experiments.models.weights import weights_digest
from experiments.outputs import Outputs, check_folder
from experiments.progress import note
from experiments.report.make import names_in
from experiments.report.search import search_report
from experiments.tasks import TASKS
from experiments.tasks.task import Budget
from experiments.training.checkpoints import (
    add_checkpoints_argument,
    check_checkpoints,
    checkpoints_folder,
)
from experiments.training.device import processes
from experiments.training.execution import add_run_arguments, execution_of, in_folder
from experiments.training.given_data import add_data_arguments, check_data_arguments
from experiments.training.plan import tasks_of
from experiments.training.prepare import prepare
from experiments.training.race import FURTHER, Trial
from experiments.training.search import FROZEN, Search, SearchSetup

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
    preset = load_preset(args.preset)
    only_tasks = names_in(args.tasks)
    tasks_of(only_tasks, preset, args.data)
    execution = execution_of(args, args.out)
    check_folder(args.out, "search")
    checkpoints = checkpoints_folder(args.checkpoints, preset, args.model)
    setup = SearchSetup(
        preset,
        chosen_settings().reduction,
        args.data or args.out / "data",
        args.model,
        execution,
        checkpoints,
        args.data is not None,
        args.answering,
        args.skip_bad,
        only_tasks,
    )
    return in_folder(execution, lambda: _search(args, setup))


def _search(args: argparse.Namespace, setup: SearchSetup) -> int:
    """Run the races and save what they choose."""
    out, preset, is_main = args.out, setup.preset, processes(args.device).is_main_process
    cells = [setup.cell(Trial(FROZEN, task)) for task in setup.tasks]
    outputs = Outputs(out, "search", _about(setup), NAMES)
    if is_main:
        outputs.check()
    prepare(cells, setup.execution, setup.sizes, preset.data_seed, args.download)
    if is_main:
        outputs.claim()
    _note_checkpoints(setup)
    search = Search(setup)
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
        f"{_how_to_use(file, setup.tasks)}"
    )
    return 0


def _how_to_use(file: Path, tasks: Sequence[str]) -> str:
    """How settings of these tasks come to be the chosen ones."""
    chosen = chosen_settings().methods.values()
    others = dict.fromkeys(task for of_task in chosen for task in of_task if task not in tasks)
    if not others:
        return f"cp {file} {SETTINGS_FILE}"
    return f"put its entries in place of those in {SETTINGS_FILE}, which has {', '.join(others)} too"


def _note_checkpoints(setup: SearchSetup) -> None:
    """Say early what finalists need hours later."""
    cells = [
        setup.cell(Trial(FROZEN, task, seed=seed)) for seed in range(1 + FURTHER) for task in setup.tasks
    ]
    try:
        check_checkpoints(cells)
    except UserError as error:
        note(f"for the finalists, after the first stage: {error}")


def _budget(budget: Budget) -> dict[str, int | None]:
    """What of a task's budget decides scores; not the estimate of time."""
    content = asdict(budget)
    del content["eval_seconds"]
    if not budget.augment:
        del content["augment"]  # as in searches from before there was such a thing
    return content


def _about(setup: SearchSetup) -> dict:
    """What decides the trials' scores."""
    preset = setup.preset
    recipe = {name: x for name, x in preset.recipe_changes.items() if name != "precision"}  # in trials.csv
    about = {
        "budgets": {name: _budget(preset.budget_of(TASKS[name])) for name in setup.tasks},
        "data": {"seed": preset.data_seed, "sizes": asdict(preset.drawn)},
        "reduction": setup.reduction,
        "weights": weights_digest(setup.model),
        **({"recipe": recipe} if recipe else {}),
        **setup.execution.conditions(),
    }
    if setup.read:
        faults = Faults(setup.skip_bad)
        about["data"] = {name: TASKS[name].content(setup.data, "validation", faults) for name in setup.tasks}
    elif preset.layouts is not None:
        about["data"] = {"seed": preset.data_seed, "layouts": preset.layouts}
    changes = {
        "answering": setup.way,
        "side": preset.side,
        "epochs": {name: x for name in setup.tasks if (x := preset.epochs_of(TASKS[name]))},
        "answers": {name: x for name in setup.tasks if (x := setup.answers(name))},
    }  # left out where they change nothing, as in searches from before there was such a thing
    return about | {name: change for name, change in changes.items() if change}
