"""Train and score one experiment, which a YAML file describes.

    attngraph train scenes-pgnn                                    # comes with the package, under a minute
    attngraph train mine.yaml --set recipe.learning_rate=1e-3 --set seed=1 --out runs/mine
    attngraph train --set method=pgnn --set task=vqa2 --set data=data/six --dry-run
    attngraph train runs/mine/cells/pgnn/vqa2/seed1/experiment.yaml --out runs/again

The run is a cell of a table, in ``OUT/cells/METHOD/TASK/seedN``. Its folder holds ``experiment.yaml``, in
which everything is decided that the file left open: it gives the same scores again.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from attngraph.errors import UserError
from experiments.base.errors import first_line
from experiments.base.outputs import check_folder
from experiments.base.progress import note
from experiments.methods import method_named
from experiments.methods.parameters import count_parameters
from experiments.methods.settings import chosen_settings
from experiments.models import ModelFamily, load_family
from experiments.runs.cells import Cell, agreed, has_scores
from experiments.runs.changes import add_set_argument
from experiments.runs.device import processes
from experiments.runs.execution import Execution, add_run_arguments, execution_of, in_folder
from experiments.runs.experiment import (
    EXPERIMENT,
    Scenes,
    experiment_names,
    experiment_of,
    load_experiment,
)
from experiments.runs.runner import check_recipes, prepare, run_cells
from experiments.runs.trackers import add_tracking_argument, trackers_of
from experiments.tables.plan import decided
from experiments.tables.render import aligned
from experiments.tasks import TASKS

OUT = Path("runs/train")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``attngraph train``."""
    add = parser.add_argument
    add(
        "experiment",
        nargs="?",
        metavar="FILE",
        help="Run the experiment of this YAML file, or one of these: " + ", ".join(experiment_names()) + ".",
    )
    add_set_argument(parser, "Put this value in the place of the file's, such as recipe.learning_rate=1e-3.")
    add(
        "--out",
        type=Path,
        metavar="FOLDER",
        help=f"Write the run into cells/METHOD/TASK/seedN of this folder. Default: {OUT}.",
    )
    add_run_arguments(parser, several=False)
    add_tracking_argument(parser)
    add(
        "--dry-run",
        action="store_true",
        help="Show the file with everything decided that it leaves open, try its settings on the model, "
        "run nothing.",
    )


def run(args: argparse.Namespace) -> int:
    """Run what is missing, then print the scores."""
    given = [] if args.model is None else [f"model={args.model}"]
    experiment = load_experiment(args.experiment, [*args.changes, *given])
    out = args.out or OUT
    execution = replace(execution_of(args, out), trackers=trackers_of(args))
    check_folder(out, "ablation")  # a folder of cells, as a table's is
    is_main = processes(args.device).is_main_process
    cell, scenes = agreed(lambda: decided(experiment, out / "data", chosen_settings()))
    agreed(lambda: check_recipes([cell], args.device))
    if args.dry_run:
        agreed(lambda: trained_in_words(cell, load_family(cell.model, args.download, cell.side)))
        if is_main:
            print(experiment_of(cell, scenes).yaml(), end="")
        return 0
    return in_folder(execution, lambda: _run(args, cell, scenes, execution))


def _run(args: argparse.Namespace, cell: Cell, scenes: Scenes | None, execution: Execution) -> int:
    out, is_main = execution.out, processes(args.device).is_main_process

    def tried() -> str:
        return trained_in_words(cell, load_family(cell.model, args.download, cell.side))

    about = None if has_scores(cell, out) else agreed(tried)
    prepare([cell], execution, scenes, args.download)
    if is_main:
        if about is not None:
            note(about)
        note(f"into {cell.folder(out)} (Ctrl-C is safe, the same command goes on)")
    result = run_cells([cell], execution)[cell]
    if is_main:
        task = TASKS[cell.task]
        shown = [
            (column.key, f"{100 * result['scores'][column.key]:.2f}", column.heading)
            for column in task.columns
            if column.key in result["scores"]
        ]
        print(f"{task.title}, {cell.split} split: {result['examples']} examples\n")
        print(aligned([("Column", "Score", ""), *shown]))
        print(f"\nScores × 100. Evaluator: {result['evaluator']}.")
        print(f"{cell.folder(out)}: scores.json, predictions.json, weights; {EXPERIMENT} runs it again")
    return 0


def trained_in_words(cell: Cell, family: ModelFamily) -> str:
    """What is trained, in words; the settings are tried on the model before anything is written.

    Args:
        cell: the experiment.
        family: its model, to which the method is applied in place.

    Raises:
        UserError: the method cannot take its settings.
    """
    method = method_named(cell.method)
    try:
        tuned = method.apply(family, cell.settings)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"settings: {method.name} cannot take them ({first_line(error)}): correct them, or leave them out"
        ) from None
    counted = count_parameters(tuned)
    words = f"{method.title} on {TASKS[cell.task].title}, seed {cell.seed}: {family.title}"
    if cell.recipe is None:
        return f"{words}, nothing is trained"
    recipe = cell.recipe
    return (
        f"{words}, {counted.trained:,} parameters are trained, {counted.shares['model']:.2%} of the model's "
        f"{counted.model:,}; {recipe.steps} steps of {recipe.batch_size} examples, learning rate "
        f"{recipe.learning_rate:g}"
    )
