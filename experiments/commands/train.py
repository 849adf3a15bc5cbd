"""Train and score one experiment, which a YAML file describes.

The run is a cell of a table, in ``OUT/cells/METHOD/TASK/seedN``. Its folder holds ``experiment.yaml``, in
which everything is decided that the file left open: it gives the same scores again.
"""

from __future__ import annotations

from dataclasses import replace

from attngraph.experiments.base.files import check_out
from attngraph.experiments.commands.options import TrainOptions
from attngraph.experiments.methods.settings import chosen_settings
from attngraph.experiments.runs.device import agreed, processes
from attngraph.experiments.runs.execution import execution_of
from attngraph.experiments.runs.experiment import EXPERIMENT, load_experiment
from attngraph.experiments.runs.plan import decided
from attngraph.experiments.runs.runner import check_models, run_cells
from attngraph.experiments.runs.trackers import trackers_of
from attngraph.experiments.tables.render import aligned
from attngraph.experiments.tasks import TASKS


def run(options: TrainOptions) -> int:
    """Run what is missing, then print the scores."""
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
        result = run_cells([cell], execution, options.download)[cell]
    if is_main:
        task, scores = TASKS[cell.task], result["scores"]
        shown = [(c.key, f"{100 * scores[c.key]:.2f}", c.heading) for c in task.columns if c.key in scores]
        print(f"{task.title}, {cell.split} split: {result['examples']} examples\n")
        print(aligned([("Column", "Score", ""), *shown]))
        print(f"\nScores × 100. Evaluator: {result['evaluator']}.")
        print(f"{cell.folder(out)}: scores.json, predictions.json, weights; {EXPERIMENT} runs it again")
    return 0
