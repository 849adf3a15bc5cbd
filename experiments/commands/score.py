"""Score a file of predictions, ours or a peer's, with a task's own metric.

The file has the format that the data set's evaluation server takes (:mod:`experiments.tasks.formats`), or is
the ``predictions.json`` of a table's cell.
"""

from __future__ import annotations

from pathlib import Path

from experiments.base.files import whole, write_json
from experiments.base.known import check_known
from experiments.base.outputs import Outputs
from experiments.base.progress import note
from experiments.base.reading import read_json
from experiments.commands.options import ScoreOptions
from experiments.runs.given_data import check_task_data
from experiments.tables.scored import score_predictions
from experiments.tasks import TASKS
from experiments.tasks.formats import Format, read_predictions, write_predictions
from experiments.tasks.task import Task

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
    form = _format_of(options.predictions, task)
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
            write_predictions(part / RESULTS, form, predictions, ids, options.allow_empty)
        note(f"saved: {', '.join(str(options.out / name) for name in NAMES)}")
    return 0


def _format_of(file: Path, task: Task) -> Format:
    """The format of a file: the task's second one where its first record has the field of that one alone."""
    second = task.second_format
    if second is not None:
        content = read_json(file)
        first = content[0] if isinstance(content, list) and content else None
        if isinstance(first, dict) and second.value_field in first:
            return task.file_format if task.file_format.value_field in first else second
    return task.file_format
