"""Train and score one experiment defined by a YAML file.

The run is stored in ``OUT/cells/METHOD/TASK/seedN``, as a run of a table. Its folder contains
``experiment.yaml`` with all settings, including those that the file left open: running it again gives the
same scores.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from attngraph.errors import UserError
from attngraph.experiments.base.files import check_out
from attngraph.experiments.base.progress import note
from attngraph.experiments.commands.options import TrainOptions
from attngraph.experiments.methods.settings import chosen_settings
from attngraph.experiments.runs.cells import check_folder_of
from attngraph.experiments.runs.device import agreed, processes
from attngraph.experiments.runs.execution import Execution, execution_of
from attngraph.experiments.runs.experiment import EXPERIMENT, Cell, Experiment, Recipe, load_experiment
from attngraph.experiments.runs.plan import decided
from attngraph.experiments.runs.plugins import plugin_files
from attngraph.experiments.runs.runner import check_models, run_cells
from attngraph.experiments.runs.trackers import trackers_of
from attngraph.experiments.tables.frame import FROZEN
from attngraph.experiments.tables.render import aligned
from attngraph.experiments.tasks import TASKS


def run(options: TrainOptions) -> int:
    """Train unless the run is finished, then print the scores."""
    experiment = load_experiment(options.experiment, options.changes)
    if options.model is not None:
        experiment = experiment.model_copy(update={"model": options.model})
    out = options.out
    execution = replace(execution_of(options, out), jobs=1, trackers=trackers_of(options.track))
    check_out(out)
    cell = decided(experiment, out / "data", chosen_settings())
    is_main = processes(options.device).is_main_process
    if options.dry_run:
        agreed(lambda: check_models([cell], options.download))
        if is_main:
            print(cell.yaml(), end="")
        return 0
    with execution.alone():
        result = run_cells([cell], execution)[cell]
        frozen = {} if cell.method == FROZEN else _frozen(experiment, execution)
    if is_main:
        _print(cell, result, frozen, cell.folder(out))
    return 0


def _frozen(experiment: Experiment, execution: Execution) -> dict[str, float]:
    """Scores of the frozen model on the same examples, from a run in the same folder; empty if the folder
    contains a run of the frozen model with other settings.
    """
    changes = {"method": FROZEN, "recipe": Recipe(), "settings": {}, "seed": 0}
    cell = decided(experiment.model_copy(update=changes), execution.out / "data", chosen_settings())
    try:
        check_folder_of(cell, execution)
    except UserError as error:
        note(f"frozen model not scored: {error}")
        return {}
    return run_cells([cell], replace(execution, trackers=()))[cell]["scores"]


def _print(cell: Cell, result: dict[str, Any], frozen: dict[str, float], folder: Path) -> None:
    task, scores = TASKS[cell.task], result["scores"]
    lines = [("Column", "Score", "Frozen model", "")] + [
        (column.key, _hundredths(scores[column.key]), _hundredths(frozen.get(column.key)), column.heading)
        for column in task.columns
        if column.key in scores
    ]
    print(f"{task.title}, {cell.split} split: {result['examples']} examples\n")
    print(aligned(lines if frozen else [(key, score, heading) for key, score, _, heading in lines]))
    print(f"\nScores × 100. Evaluator: {result['evaluator']}.")
    print(f"{folder}: scores.json, predictions.json, weights; {EXPERIMENT} runs it again")
    plugins = "".join(f"--plugin {file} " for file in plugin_files())
    print(f"Next: attngraph {plugins}predict {folder} --image FILE{' --text WORDS' * task.takes_text}")


def _hundredths(score: float | None) -> str:
    return "" if score is None else f"{100 * score:.2f}"
