"""Answer with a finished run: one question, a file of them, or a split for an evaluation server.

    attngraph predict RUN --image photo.jpg --text "what is on the table ?"
    attngraph predict RUN --file asked.jsonl --out runs/answers
    attngraph predict runs/six/cells/gcn/vqa2/seed0 --data data/six --format official --out runs/vqa2

A run is a folder of ``attngraph train`` or a cell's of a table. A file has records with ``image`` (beside the
file) and ``text``; they come out again with ``answer``. Tasks on official files take official splits, also
those whose annotations are not public; the file has an answer to every example of the split, or is not
written.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from attngraph.errors import UserError
from experiments.base.arguments import add_model_arguments, path
from experiments.base.files import write_json
from experiments.base.outputs import Outputs
from experiments.base.reading import is_text
from experiments.data.example import Example
from experiments.models.images import open_image
from experiments.runs.device import check_device, check_threads, cpu_threads
from experiments.runs.execution import THREADS
from experiments.runs.given_data import check_task_data
from experiments.runs.saved import Finished, finished
from experiments.tasks import Task
from experiments.tasks.formats import ANSWER, IMAGE, TEXT, Ask, read_asks, write_predictions

RESULTS, ANSWERS = "results.json", "answers.json"
SPLIT = "test"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``attngraph predict``."""
    add = parser.add_argument
    add("folder", type=path, metavar="RUN", help="Take the trained model of this folder, a run's.")
    add("--image", type=path, metavar="PICTURE", help="Look at this picture, and print the answer.")
    add("--text", metavar="WORDS", help="Put this question or statement about the picture of --image.")
    add("--json", action="store_true", help="Write the answer to --image as JSON.")
    add(
        "--file",
        type=path,
        metavar="RECORDS",
        help=f"Take pictures and texts from this JSON, JSON Lines or CSV file: records with {IMAGE} and "
        f"{TEXT}; write them with {ANSWER} as JSON.",
    )
    add(
        "--data",
        type=path,
        metavar="FOLDER",
        help="Read the data from this folder, laid out as for `attngraph ablation --data`. Default: those of "
        "the run, where they are needed and still there.",
    )
    add(
        "--split",
        metavar="NAME",
        help="Take this split: an official one, such as test or test-dev, of tasks on official files; "
        f"train, validation or test of others. Default: {SPLIT}, without --image and --file.",
    )
    add(
        "--format",
        dest="form",
        metavar="FORMAT",
        help="Read this format of official files, as `attngraph data check` names them: official for the "
        "server's test split of vqa2 where Karpathy's file is there too. Default: the one that the task is "
        "scored on, or else the first that has files.",
    )
    add(
        "--out",
        type=path,
        metavar="FOLDER",
        help=f"Write {RESULTS} into this folder, as the data set's evaluation server takes it; or "
        f"{ANSWERS}, with --file. Default: answers to --image and --file are printed.",
    )
    add_model_arguments(parser, "Adapt this transformers model, as the run did")
    add("--device", default="cpu", metavar="NAME", help="Compute on this device: cpu, cuda, cuda:1 or mps.")
    add("--threads", type=int, default=THREADS, metavar="N", help="Use this many CPU threads.")


def run(args: argparse.Namespace) -> int:
    """Load, answer and write."""
    _check(args)
    check_threads(args.threads)
    check_device(args.device)
    cell = finished(args.folder)
    return _split(args, cell) if args.image is None and args.file is None else _asked(args, cell)


def _check(args: argparse.Namespace) -> None:
    """Raise UserError where options do not go together."""
    ways = {"--image": args.image, "--file": args.file, "--split": args.split}
    given = [name for name, value in ways.items() if value is not None]
    if len(given) > 1:
        raise UserError(f"{given[0]} and {given[1]} are two things to answer: give one of them")
    if args.form is not None and given not in ([], ["--split"]):
        raise UserError(f"--format goes with --split, not with {given[0]}: leave it out")
    if args.image is None and (args.text is not None or args.json):
        raise UserError(f"{'--json' if args.text is None else '--text'} goes with a picture: give --image")
    if args.image is not None and args.out is not None:
        raise UserError("--out does not go with --image: leave it out, or ask with --file")
    if given in ([], ["--split"]) and args.out is None:
        raise UserError(
            "--out is missing: give the folder for a split's answers, or ask with --image or --file"
        )


def _outputs(args: argparse.Namespace, name: str, **more: str | None) -> Outputs:
    names = ("form", "model", "device", "threads")
    settings = {name: getattr(args, name) for name in names}
    settings |= {"run": str(args.folder), "data": args.data and str(args.data), **more}
    return Outputs(args.out, "predict", settings, (name,))


def _split(args: argparse.Namespace, cell: Finished) -> int:
    """The answers to a split, as a server takes them."""
    task, data, split = cell.task, cell.data(args.data), args.split or SPLIT
    check_task_data(task, data)
    outputs = _outputs(args, RESULTS, split=split)
    outputs.check()
    data = data or args.folder
    examples = task.asked(data, split, args.form)
    ids = [example.id for example in examples]
    with outputs.alone(), cpu_threads(args.threads):
        tuned = cell.tuned(cell.model(args.model), args.device, data, args.download)
        predictions = cell.answers(tuned, examples, cell.way(data))
        with outputs.writing() as part:
            write_predictions(part / RESULTS, task.file_format, predictions, ids)
    empty = sum(not text.strip() for text in predictions.values())
    about = f", {empty} of them empty" * bool(empty)
    print(f"{args.out / RESULTS}: {len(ids)} answers{about}, {task.file_format.name}")
    return 0


def _asked(args: argparse.Namespace, cell: Finished) -> int:
    """The answers to pictures and texts of the user's."""
    with_text = takes_text(cell.task)
    asks = _asks(args, with_text)
    outputs = None if args.out is None else _outputs(args, ANSWERS, file=str(args.file))
    if outputs is not None:
        outputs.check()
    data = cell.data(args.data) or args.folder
    examples = [Example(str(k), ask.image, ask.text, (), "") for k, ask in enumerate(asks)]
    with cpu_threads(args.threads):
        try:
            way = cell.way(data)
            tuned = cell.tuned(cell.model(args.model), args.device, data, args.download)
        except UserError as error:
            if args.data is None and cell.data(None) is None and not cell.task.packaged:
                raise UserError(f"{error} (this run may need its data to answer: give --data)") from None
            raise
        answers = cell.answers(tuned, examples, way)
    records = [{**ask.record, ANSWER: answers[str(k)]} for k, ask in enumerate(asks)]
    if outputs is not None:
        with outputs.alone(), outputs.writing() as part:
            write_json(part / ANSWERS, records, ensure_ascii=False)
        print(f"{args.out / ANSWERS}: {len(answers)} answers")
    elif args.file is not None:
        print(json.dumps(records, indent=1, ensure_ascii=False))
    else:
        print(json.dumps(records[0], ensure_ascii=False) if args.json else records[0][ANSWER])
    return 0


def _asks(args: argparse.Namespace, with_text: bool) -> Sequence[Ask]:
    if args.file is not None:
        asks = read_asks(args.file, with_text)
    else:
        if with_text != (args.text is not None):
            fault = (
                "is missing: give the question or statement" if with_text else "changes nothing: leave it out"
            )
            raise UserError(f"--text {fault} for this run's task")
        if args.text is not None and not is_text(args.text):
            raise UserError("--text holds bytes that are no UTF-8: write the question again")
        record = {IMAGE: str(args.image), **({TEXT: args.text} if with_text else {})}
        asks = [Ask(args.image, args.text or "", record)]
    open_image(asks[0].image)  # before the model is loaded
    return asks


def takes_text(task: Task) -> bool:
    """Whether a task's prompt has a text of the example in it."""
    prompts = {task.prompt(Example("", Path(), text, (), "")) for text in ("one", "two")}
    return len(prompts) > 1
