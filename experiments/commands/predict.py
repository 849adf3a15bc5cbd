"""Answer with a finished run: one question, a file of them, or a split for an evaluation server.

A run is a folder of ``attngraph train`` or a cell's of a table. A file has records with ``image`` (beside the
file) and ``text``; they come out again with ``answer``. Tasks on official files take official splits, also
those whose annotations are not public.
"""

from __future__ import annotations

import json
from pathlib import Path

from attngraph.errors import UserError
from attngraph.experiments.base.files import write_json
from attngraph.experiments.base.outputs import Outputs
from attngraph.experiments.commands.options import PredictOptions
from attngraph.experiments.data.example import Example
from attngraph.experiments.models.images import open_image
from attngraph.experiments.runs.device import check_device, cpu_threads
from attngraph.experiments.runs.plan import check_task_data
from attngraph.experiments.runs.saved import Finished, finished
from attngraph.experiments.tasks.formats import ANSWER, IMAGE, TEXT, read_asks, write_predictions

RESULTS, ANSWERS = "results.json", "answers.json"
SPLIT = "test"


def run(options: PredictOptions) -> int:
    """Load, answer and write."""
    ways = {"--image": options.image, "--file": options.file, "--split": options.split}
    given = [name for name, value in ways.items() if value is not None]
    if len(given) > 1:
        raise UserError(f"{given[0]} and {given[1]} are two things to answer: give one of them")
    is_split = given in ([], ["--split"])
    if options.format is not None and not is_split:
        raise UserError(f"--format goes with --split, not with {given[0]}: leave it out")
    if options.image is None and options.text is not None:
        raise UserError("--text goes with a picture: give --image")
    if is_split and options.out is None:
        raise UserError("--out is missing: give a folder for a split's answers, or --image or --file")
    check_device(options.device)
    cell = finished(options.folder)
    return _split(options, cell) if is_split else _asked(options, cell)


def _outputs(options: PredictOptions, name: str, **asked: str | None) -> Outputs:
    """What is written, and what decides it."""
    settings = {"format": options.format, "model": options.model, "device": options.device, **asked}
    settings |= {"run": str(options.folder), "data": options.data and str(options.data)}
    outputs = Outputs(options.out, "predict", settings, (name,))
    outputs.check()
    return outputs


def _split(options: PredictOptions, cell: Finished) -> int:
    """The answers to a split, as a server takes them."""
    task, data, split = cell.task, cell.data(options.data), options.split or SPLIT
    check_task_data(task, data)
    outputs = _outputs(options, RESULTS, split=split)
    data = data or options.folder
    examples = task.asked(data, split, options.format)
    ids = [example.id for example in examples]
    with cpu_threads(cell.threads):
        tuned = cell.tuned(options.model, options.device, data, options.download)
        predictions = cell.answers(tuned, examples, cell.way(data))
    outputs.save(lambda folder: write_predictions(folder / RESULTS, task.file_format, predictions, ids))
    empty = sum(not text.strip() for text in predictions.values())
    about = f", {empty} of them empty" * bool(empty)
    print(f"{options.out / RESULTS}: {len(ids)} answers{about}, {task.file_format.name}")
    return 0


def _asked(options: PredictOptions, cell: Finished) -> int:
    """The answers to pictures and texts of the user's."""
    with_text = cell.task.takes_text
    if options.file is not None:
        asks = read_asks(options.file, with_text)
    elif with_text == (options.text is not None):
        asks = [{IMAGE: str(options.image), **({TEXT: options.text} if with_text else {})}]
    else:
        fault = "is missing: give the question" if with_text else "changes nothing: leave it out"
        raise UserError(f"--text {fault} for this run's task")
    outputs = _outputs(options, ANSWERS, file=str(options.file), image=str(options.image), text=options.text)
    data = cell.data(options.data) or options.folder
    place = Path() if options.file is None else options.file.parent
    examples = [
        Example(str(k), place / ask[IMAGE], ask.get(TEXT) or "", (), "") for k, ask in enumerate(asks)
    ]
    open_image(examples[0].image)  # before the model is loaded
    with cpu_threads(cell.threads):
        way = cell.way(data)
        tuned = cell.tuned(options.model, options.device, data, options.download)
        answers = cell.answers(tuned, examples, way)
    records = [{**ask, ANSWER: answers[str(k)]} for k, ask in enumerate(asks)]
    outputs.save(lambda folder: write_json(folder / ANSWERS, records, ensure_ascii=False))
    if options.out is not None:
        print(f"{options.out / ANSWERS}: {len(answers)} answers")
    elif options.file is not None:
        print(json.dumps(records, indent=1, ensure_ascii=False))
    else:
        print(records[0][ANSWER])
    return 0
