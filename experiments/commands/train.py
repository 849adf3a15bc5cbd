"""Train and score one experiment, which a YAML file describes.

The run is a cell of a table, in ``OUT/cells/METHOD/TASK/seedN``. Its folder holds ``experiment.yaml``, in
which everything is decided that the file left open: it gives the same scores again.
"""

from __future__ import annotations

from dataclasses import replace

from experiments.base.files import check_out
from experiments.base.progress import note
from experiments.commands.options import TrainOptions
from experiments.methods.settings import chosen_settings
from experiments.models import load_family
from experiments.runs.cells import Cell, has_scores
from experiments.runs.device import agreed, processes
from experiments.runs.execution import Execution, execution_of, in_folder
from experiments.runs.experiment import EXPERIMENT, Scenes, experiment_of, load_experiment
from experiments.runs.plan import decided
from experiments.runs.runner import check_recipes, prepare, run_cells, trained_in_words
from experiments.runs.trackers import trackers_of
from experiments.tables.render import aligned
from experiments.tasks import TASKS


def run(options: TrainOptions) -> int:
    """Run what is missing, then print the scores."""
    given = [] if options.model is None else [f"model={options.model}"]
    experiment = load_experiment(options.experiment, [*options.changes, *given])
    out = options.out
    execution = replace(execution_of(options, out), jobs=1, trackers=trackers_of(options.track))
    check_out(out)
    cell, scenes = agreed(lambda: decided(experiment, out / "data", chosen_settings()))
    agreed(lambda: check_recipes([cell], options.device))
    if options.dry_run:
        agreed(lambda: _tried(options, cell))
        if processes(options.device).is_main_process:
            print(experiment_of(cell, scenes).yaml(), end="")
        return 0
    return in_folder(execution, lambda: _run(options, cell, scenes, execution))


def _tried(options: TrainOptions, cell: Cell) -> str:
    return trained_in_words(cell, load_family(cell.model, options.download, cell.side))


def _run(options: TrainOptions, cell: Cell, scenes: Scenes | None, execution: Execution) -> int:
    folder, is_main = cell.folder(execution.out), processes(options.device).is_main_process
    about = None if has_scores(cell, execution.out) else agreed(lambda: _tried(options, cell))
    prepare([cell], execution, scenes, options.download)
    if is_main:
        if about is not None:
            note(about)
        note(f"into {folder} (Ctrl-C is safe, the same command goes on)")
    result = run_cells([cell], execution)[cell]
    if is_main:
        task, scores = TASKS[cell.task], result["scores"]
        shown = [(c.key, f"{100 * scores[c.key]:.2f}", c.heading) for c in task.columns if c.key in scores]
        print(f"{task.title}, {cell.split} split: {result['examples']} examples\n")
        print(aligned([("Column", "Score", ""), *shown]))
        print(f"\nScores × 100. Evaluator: {result['evaluator']}.")
        print(f"{folder}: scores.json, predictions.json, weights; {EXPERIMENT} runs it again")
    return 0
