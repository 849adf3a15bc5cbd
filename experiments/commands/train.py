"""Train and score one experiment, which a YAML file describes.

The run is a cell of a table, in ``OUT/cells/METHOD/TASK/seedN``. Its folder holds ``experiment.yaml``, in
which everything is decided that the file left open: it gives the same scores again.
"""

from __future__ import annotations

from dataclasses import replace

from attngraph.errors import UserError
from experiments.base.outputs import check_folder
from experiments.commands.options import TrainOptions
from experiments.methods.settings import chosen_settings
from experiments.runs.device import processes
from experiments.runs.execution import execution_of
from experiments.runs.experiment import EXPERIMENT, load_experiment
from experiments.runs.plan import decided
from experiments.runs.runner import run_cells
from experiments.runs.trackers import trackers_of
from experiments.tables.render import aligned
from experiments.tasks import TASKS


def run(options: TrainOptions) -> int:
    """Run what is missing, then print the scores."""
    given = [] if options.model is None else [f"model={options.model}"]
    experiment = load_experiment(options.experiment, [*options.changes, *given])
    out = options.out
    if idle := [word for word in options.on if word.partition("=")[0] == "jobs"]:
        raise UserError(f"--on {idle[0]} changes nothing, since there is one run: leave it out")
    execution = replace(execution_of(options, out), jobs=1, trackers=trackers_of(options.track))
    check_folder(out, "ablation")  # a folder of cells, as a table's is
    cell = decided(experiment, out / "data", chosen_settings())
    is_main = processes(options.device).is_main_process
    if options.dry_run:
        if is_main:
            print(cell.yaml(), end="")
        return 0
    with execution.alone():
        result = run_cells([cell], execution, options.download)[cell]
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
