"""Answer a split with a finished run, and write the file that an evaluation server takes.

    attngraph predict runs/six/cells/gcn/coco/seed0 --data data/six --out runs/coco
    attngraph predict runs/six/cells/gcn/vqa2/seed0 --data data/six --format official --out runs/vqa2

The run is a cell's folder of ``attngraph ablation``. Tasks on official files take official splits, also those
whose annotations are not public; the file has an answer to every example of the split, or is not written.
"""

from __future__ import annotations

import argparse

from experiments.arguments import add_model_arguments, path
from experiments.datasets.faults import Faults
from experiments.outputs import Outputs
from experiments.predictions.files import write_predictions
from experiments.progress import note
from experiments.training.device import check_device, check_threads, cpu_threads
from experiments.training.execution import THREADS
from experiments.training.finished import finished
from experiments.training.given_data import add_skip_bad_argument, check_task_data

RESULTS = "results.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``attngraph predict``."""
    add = parser.add_argument
    add("folder", type=path, metavar="RUN", help="Take the trained model of this folder, a cell of a table.")
    add(
        "--data",
        type=path,
        metavar="FOLDER",
        help="Read the data from this folder, laid out as for `attngraph ablation --data`. Tasks that come "
        "with a package need none.",
    )
    add(
        "--split",
        default="test",
        metavar="NAME",
        help="Take this split: an official one, such as test or test-dev, of tasks on official files; "
        "train, validation or test of others.",
    )
    add(
        "--format",
        dest="form",
        metavar="FORMAT",
        help="Read this format of official files, as `attngraph data check` names them: official for the "
        "server's test split of vqa2 where Karpathy's file is there too. Default: the first that has files.",
    )
    add(
        "--out",
        type=path,
        required=True,
        metavar="FOLDER",
        help=f"Write {RESULTS} into this folder, as the data set's evaluation server takes it.",
    )
    add_model_arguments(parser, "Adapt this transformers model, as the run did")
    add("--device", default="cpu", metavar="NAME", help="Compute on this device: cpu, cuda, cuda:1 or mps.")
    add("--threads", type=int, default=THREADS, metavar="N", help="Use this many CPU threads.")
    add_skip_bad_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Load, answer and write."""
    check_threads(args.threads)
    check_device(args.device)
    cell = finished(args.folder)
    task = cell.task
    check_task_data(task, args.data)
    settings = {
        name: getattr(args, name) for name in ("split", "form", "model", "device", "threads", "skip_bad")
    }
    settings |= {"run": str(args.folder), "data": args.data and str(args.data)}
    outputs = Outputs(args.out, "predict", settings, (RESULTS,))
    outputs.check()
    data, faults = args.data or args.folder, Faults(args.skip_bad)
    examples = task.asked(data, args.split, faults, args.form)
    ids = [example.id for example in examples]
    with outputs.alone(), cpu_threads(args.threads):
        tuned = cell.tuned(args.model, args.device, data, faults, args.download)
        answers = cell.answers(tuned, data, examples, faults)
        predictions = {id: answers.get(id, "") for id in ids}
        with outputs.writing() as part:
            write_predictions(part / RESULTS, task.file_format, predictions, ids, allow_empty=True)
    empty = sum(not text.strip() for text in predictions.values())
    about = f", {empty} of them empty" * bool(empty)
    print(f"{args.out / RESULTS}: {len(ids)} answers{about}, {task.file_format.name}")
    if faults:
        note(f"{len(faults)} damaged records left out; the first one: {faults.messages[0]}")
    return 0
