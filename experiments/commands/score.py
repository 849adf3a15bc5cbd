"""Score a file of predictions, ours or a peer's, with a task's own metric.

The file has the format that the data set's evaluation server takes (:mod:`experiments.tasks.formats`), or is
the ``predictions.json`` of a table's cell.
"""

from __future__ import annotations

from pathlib import Path

from experiments.base.files import whole, write_json
from experiments.base.messages import check_known
from experiments.base.outputs import Outputs
from experiments.base.progress import note
from experiments.commands.options import ScoreOptions
from experiments.runs.plan import check_task_data
from experiments.tables.scored import score_predictions
from experiments.tasks import TASKS
from experiments.tasks.formats import read_predictions, write_predictions

TABLE, DETAILS, RESULTS = NAMES = ("scores.csv", "scores.json", "results.json")


def run(options: ScoreOptions) -> int:
    """Read, score, print and write."""
    check_known([options.task], list(TASKS), "task")
    task = TASKS[options.task]
    if options.data is None:
        task.check(None)
    check_task_data(task, options.data)
    settings = {"file": str(options.predictions), "data": options.data and str(options.data)}
    settings |= {"task": options.task, "split": options.split, "allow_empty": options.allow_empty}
    outputs = None if options.out is None else Outputs(options.out, "score", settings, NAMES)
    if outputs is not None:
        outputs.check()
    examples = task.examples(options.data or Path(), options.split)
    form = task.file_format
    ids = [example.id for example in examples]
    unscored = task.unscored(options.data or Path(), options.split) - set(ids)
    predictions = read_predictions(options.predictions, form, ids, options.allow_empty, unscored)
    scored = score_predictions(task, examples, predictions)
    source = task.source(options.data or Path(), options.split)
    about = f"{options.split} split" + f": {source}" * bool(source)
    print(f"{options.predictions}, {about}\n{scored.text()}", end="")
    if outputs is not None:
        with outputs.alone(), outputs.writing() as part:
            with whole(part / TABLE) as file:
                scored.frame().to_csv(file, index=False)
            write_json(part / DETAILS, {**settings, "source": source, **scored.json()})
            write_predictions(part / RESULTS, form, predictions, ids)
        note(f"saved: {', '.join(str(options.out / name) for name in NAMES)}")
    return 0
