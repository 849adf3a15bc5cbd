"""Score a predictions file, from attngraph or any other program, with the task's metric.

The file has the format of the dataset's evaluation server (:mod:`attngraph.experiments.tasks.formats`), or is
the ``predictions.json`` of a run.
"""

from __future__ import annotations

from pathlib import Path

from attngraph.experiments.base.files import write_json
from attngraph.experiments.base.outputs import Outputs
from attngraph.experiments.commands.options import ScoreOptions
from attngraph.experiments.runs.plan import check_task_data
from attngraph.experiments.tables.scored import score_predictions
from attngraph.experiments.tasks import tasks_named
from attngraph.experiments.tasks.formats import read_predictions, write_predictions

TABLE, DETAILS, RESULTS = NAMES = ("scores.csv", "scores.json", "results.json")


def run(options: ScoreOptions) -> int:
    """Read, score, print and write."""
    (task,) = tasks_named([options.task]).values()
    data, split = options.data or Path(), options.split
    if options.data is None:
        task.check(None)
    check_task_data(task, options.data)
    settings = {"file": str(options.predictions), "data": options.data and str(options.data)}
    settings |= {"task": task.name, "split": split, "allow_empty": options.allow_empty}
    outputs = Outputs(options.out, "score", settings, NAMES)
    outputs.check()
    examples, form = task.examples(data, split), task.file_format
    ids = [example.id for example in examples]
    unscored = task.unscored(data, split) - set(ids)
    predictions = read_predictions(options.predictions, form, ids, options.allow_empty, unscored)
    scored = score_predictions(task, examples, predictions)
    source = task.source(data, split)
    about = f"{split} split" + f": {source}" * bool(source)
    print(f"{options.predictions}, {about}\n{scored.text()}", end="")

    def write(folder: Path) -> None:
        scored.frame().to_csv(folder / TABLE, index=False)
        write_json(folder / DETAILS, {**settings, "source": source, **scored.json()})
        write_predictions(folder / RESULTS, form, predictions, ids)

    outputs.save(write)
    return 0
