"""Choose learning rates, the join and the schemes' arguments on validation data, with the same budget for
each GNN.

attngraph search                # about an hour on 2 cores; writes
runs/search/{trials.csv,search.md,settings.yaml}

:mod:`experiments.training.search` says what is tried.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from experiments.configs.presets import load_preset
from experiments.configs.settings import SETTINGS_FILE, chosen_settings, write_settings
from experiments.files import write_text
from experiments.methods.method import check_known
from experiments.models.mini_blip import weights_digest
from experiments.outputs import Outputs, check_folder
from experiments.progress import note
from experiments.report.search import search_report
from experiments.tasks import TASKS
from experiments.training.device import processes
from experiments.training.execution import add_run_arguments, execution_of, in_folder
from experiments.training.prepare import prepare
from experiments.training.search import FROZEN, Search, SearchSetup, Trial

NAMES = ("trials.csv", "search.md", "settings.yaml")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``attngraph search``."""
    add = parser.add_argument
    add(
        "--out",
        type=Path,
        default=Path("runs/search"),
        metavar="FOLDER",
        help="Write the runs and their results into this folder.",
    )
    add(
        "--preset",
        default="full",
        metavar="NAME",
        help="Take the budgets of this preset: a name or a YAML file.",
    )
    add_run_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Run the stages; a second call continues."""
    preset = load_preset(args.preset)
    check_known([*preset.tasks, *TASKS], list(TASKS), "task")
    execution = execution_of(args, args.out)
    check_folder(args.out, "search")
    setup = SearchSetup(preset, chosen_settings().reduction, args.out / "data", args.model, execution)
    return in_folder(execution, lambda: _search(args, setup))


def _search(args: argparse.Namespace, setup: SearchSetup) -> int:
    """Run the stages and save what they choose."""
    out, is_main = args.out, processes(args.device).is_main_process
    if is_main:
        about = {"preset": args.preset, "weights": weights_digest(args.model)}
        outputs = Outputs(out, "search", about, NAMES)
        outputs.check()
    cells = [setup.cell(Trial(FROZEN, task)) for task in TASKS]
    prepare(cells, setup.execution, setup.preset.drawn, args.download)
    if is_main:
        outputs.claim()
    search = Search(setup)
    settings = search.run()
    if not is_main:
        return 0
    file = out / "settings.yaml"
    write_settings(file, settings)
    report = search_report(search.trials)
    write_text(out / "search.md", report)
    print(report + "\n" + file.read_text(encoding="utf-8"))
    note(
        f"\nsaved: {out}/trials.csv, search.md, settings.yaml\nto use these settings in the tables: "
        f"cp {file} {SETTINGS_FILE}"
    )
    return 0
