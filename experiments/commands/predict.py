"""Answer one question, a file of questions, or a split for an evaluation server with a finished run.

A run is a folder written by ``attngraph train`` or a run of a table. A file has records with ``image`` (a
path relative to the file) and ``text``; they are written out with ``answer``. Tasks on official files accept
official splits, including those whose annotations are not public.
"""

from __future__ import annotations

import json
from dataclasses import replace
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
        raise UserError(f"{given[0]} and {given[1]} exclude each other: use one of them")
    is_split = given in ([], ["--split"])
    if options.format is not None and not is_split:
        raise UserError(f"--format requires --split and does not apply to {given[0]}: remove it")
    if options.image is None and options.text is not None:
        raise UserError("--text requires an image: add --image")
    if is_split and options.out is None:
        raise UserError("--out is missing: name a folder for a split's answers, or use --image or --file")
    check_device(options.device)
    cell = finished(options.folder)
    return _split(options, cell) if is_split else _asked(options, cell)


def _outputs(options: PredictOptions, name: str, **asked: str | None) -> Outputs:
    """Output files, with the settings that determine them."""
    settings = {"format": options.format, "model": options.model, "device": options.device, **asked}
    settings |= {"run": str(options.folder), "data": options.data and str(options.data)}
    outputs = Outputs(options.out, "predict", settings, (name,))
    outputs.check()
    return outputs


def _split(options: PredictOptions, cell: Finished) -> int:
    """The answers to a split, in the format of the evaluation server."""
    task, data, split = cell.task, cell.data(options.data), options.split or SPLIT
    check_task_data(task, data)
    outputs = _outputs(options, RESULTS, split=split)
    data = data or options.folder
    examples = task.asked(data, split, options.format)
    ids = [example.id for example in examples]
    with cpu_threads(cell.threads):
        tuned = cell.tuned(options.model, options.device, options.download)
        predictions = cell.answers(tuned, examples, cell.way(data))
    outputs.save(lambda folder: write_predictions(folder / RESULTS, task.file_format, predictions, ids))
    empty = sum(not text.strip() for text in predictions.values())
    about = f", {empty} of them empty" * bool(empty)
    print(f"{options.out / RESULTS}: {len(ids)} answers{about}, {task.file_format.name}")
    return 0


def _asked(options: PredictOptions, cell: Finished) -> int:
    """The answers to the user's images and texts."""
    with_text = cell.task.takes_text
    if options.file is not None:
        asks = read_asks(options.file, with_text)
    elif with_text == (options.text is not None):
        asks = [{IMAGE: str(options.image), **({TEXT: options.text} if with_text else {})}]
    else:
        fault = "is missing: add the question" if with_text else "has no effect: remove it"
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
        tuned = cell.tuned(options.model, options.device, options.download)
        samples = [cell.task.sample(example, tuned.family.name) for example in examples]
        tuned.family.check_prompts(
            [replace(sample, name=ask[IMAGE]) for sample, ask in zip(samples, asks, strict=True)]
        )
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
