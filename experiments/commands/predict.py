"""Answer with a finished run: one question, a file of them, or a split for an evaluation server.

A run is a folder of ``attngraph train`` or a cell's of a table. A file has records with ``image`` (beside the
file) and ``text``; they come out again with ``answer``. Tasks on official files take official splits, also
those whose annotations are not public.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from attngraph.errors import UserError
from experiments.base.files import write_json
from experiments.base.outputs import Outputs
from experiments.base.reading import is_text
from experiments.commands.options import PredictOptions
from experiments.data.example import Example
from experiments.models.images import open_image
from experiments.runs.device import check_device, cpu_threads
from experiments.runs.plan import check_task_data
from experiments.runs.saved import Finished, finished
from experiments.tasks import Task
from experiments.tasks.formats import ANSWER, IMAGE, TEXT, read_asks, write_predictions

RESULTS, ANSWERS = "results.json", "answers.json"
SPLIT = "test"


def run(options: PredictOptions) -> int:
    """Load, answer and write."""
    _check(options)
    check_device(options.device)
    cell = finished(options.folder)
    return _split(options, cell) if options.image is None and options.file is None else _asked(options, cell)


def _check(options: PredictOptions) -> None:
    """Raise UserError where options do not go together."""
    ways = {"--image": options.image, "--file": options.file, "--split": options.split}
    given = [name for name, value in ways.items() if value is not None]
    if len(given) > 1:
        raise UserError(f"{given[0]} and {given[1]} are two things to answer: give one of them")
    if options.format is not None and given not in ([], ["--split"]):
        raise UserError(f"--format goes with --split, not with {given[0]}: leave it out")
    if options.image is None and options.text is not None:
        raise UserError("--text goes with a picture: give --image")
    if options.image is not None and options.out is not None:
        raise UserError("--out does not go with --image: leave it out, or ask with --file")
    if given in ([], ["--split"]) and options.out is None:
        raise UserError("--out is missing: give a folder for a split's answers, or --image or --file")


def _settings(options: PredictOptions) -> dict[str, str | None]:
    """What decides the answers, beside what is asked."""
    named = {"format": options.format, "model": options.model, "device": options.device}
    return {**named, "run": str(options.folder), "data": options.data and str(options.data)}


def _split(options: PredictOptions, cell: Finished) -> int:
    """The answers to a split, as a server takes them."""
    task, data, split = cell.task, cell.data(options.data), options.split or SPLIT
    check_task_data(task, data)
    outputs = Outputs(options.out, "predict", {**_settings(options), "split": split}, (RESULTS,))
    outputs.check()
    data = data or options.folder
    examples = task.asked(data, split, options.format)
    ids = [example.id for example in examples]
    with outputs.alone(), cpu_threads(cell.threads):
        tuned = cell.tuned(options.model, options.device, data, options.download)
        predictions = cell.answers(tuned, examples, cell.way(data))
        with outputs.writing() as part:
            write_predictions(part / RESULTS, task.file_format, predictions, ids)
    empty = sum(not text.strip() for text in predictions.values())
    about = f", {empty} of them empty" * bool(empty)
    print(f"{options.out / RESULTS}: {len(ids)} answers{about}, {task.file_format.name}")
    return 0


def _asked(options: PredictOptions, cell: Finished) -> int:
    """The answers to pictures and texts of the user's."""
    with_text = takes_text(cell.task)
    asks = _asks(options, with_text)
    settings = {**_settings(options), "file": str(options.file)}
    outputs = None if options.out is None else Outputs(options.out, "predict", settings, (ANSWERS,))
    if outputs is not None:
        outputs.check()
    data = cell.data(options.data) or options.folder
    place = Path() if options.file is None else options.file.parent
    examples = [
        Example(str(k), place / ask[IMAGE], ask.get(TEXT) or "", (), "") for k, ask in enumerate(asks)
    ]
    open_image(examples[0].image)  # before the model is loaded
    with cpu_threads(cell.threads):
        try:
            way = cell.way(data)
            tuned = cell.tuned(options.model, options.device, data, options.download)
        except UserError as error:
            if options.data is None and cell.data(None) is None and not cell.task.packaged:
                raise UserError(f"{error} (this run may need its data to answer: give --data)") from None
            raise
        answers = cell.answers(tuned, examples, way)
    records = [{**ask, ANSWER: answers[str(k)]} for k, ask in enumerate(asks)]
    if outputs is not None:
        with outputs.alone(), outputs.writing() as part:
            write_json(part / ANSWERS, records, ensure_ascii=False)
        print(f"{options.out / ANSWERS}: {len(answers)} answers")
    elif options.file is not None:
        print(json.dumps(records, indent=1, ensure_ascii=False))
    else:
        print(records[0][ANSWER])
    return 0


def _asks(options: PredictOptions, with_text: bool) -> list[dict[str, Any]]:
    """What is asked, as records with a picture and its text."""
    if options.file is not None:
        return read_asks(options.file, with_text)
    if with_text != (options.text is not None):
        fault = "is missing: give the question" if with_text else "changes nothing: leave it out"
        raise UserError(f"--text {fault} for this run's task")
    if options.text is not None and not is_text(options.text):
        raise UserError("--text holds bytes that are no UTF-8: write the question again")
    return [{IMAGE: str(options.image), **({TEXT: options.text} if with_text else {})}]


def takes_text(task: Task) -> bool:
    """Whether a task's prompt has a text of the example in it."""
    prompts = {task.prompt(Example("", Path(), text, (), "")) for text in ("one", "two")}
    return len(prompts) > 1
