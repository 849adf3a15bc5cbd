"""Choose learning rates, the join and the schemes' arguments on validation data, with the same budget for
each GNN.

attngraph search                # about an hour on 2 cores; writes
runs/search/{trials.csv,search.md,settings.yaml}

:mod:`experiments.training.search` says what is tried.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from experiments.configs.presets import load_preset
from experiments.configs.settings import SETTINGS_FILE, chosen_settings, write_settings
from experiments.files import check_out, write_text
from experiments.report.search import search_report
from experiments.tasks import TASKS
from experiments.training.device import check_device, processes
from experiments.training.prepare import prepare
from experiments.training.runner import Execution, add_run_arguments, jobs_for
from experiments.training.search import FROZEN, Search, SearchSetup, Trial


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``attngraph search``."""
    parser.add_argument("--out", type=Path, default=Path("runs/search"), help="folder (default: %(default)s)")
    parser.add_argument(
        "--preset",
        default="full",
        help="whose budgets are taken: a name or a YAML file (default: %(default)s)",
    )
    add_run_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Run the stages; a second call continues."""
    check_device(args.device)
    check_out(args.out)
    preset = load_preset(args.preset)
    execution = Execution(args.out, args.device, jobs_for(args.device, args.jobs), args.cache_gb)
    setup = SearchSetup(preset, chosen_settings().reduction, args.out / "data", args.model, execution)
    cells = [setup.cell(Trial(FROZEN, task)) for task in TASKS]
    prepare(cells, execution, preset.drawn, args.download)
    search = Search(setup)
    settings = search.run()
    if not processes(args.device).is_main_process:
        return 0
    file = args.out / "settings.yaml"
    write_settings(file, settings)
    report = search_report(search.trials)
    write_text(args.out / "search.md", report)
    print(report + "\n" + file.read_text(encoding="utf-8"))
    print(
        f"\nsaved: {args.out}/trials.csv, search.md, settings.yaml\nto use these settings in the tables: "
        f"cp {file} {SETTINGS_FILE}",
        file=sys.stderr,
    )
    return 0
