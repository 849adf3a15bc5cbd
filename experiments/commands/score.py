"""Score a file of predictions, ours or a peer's, with a task's own metric.

    attngraph score answers.json --task easy_vqa
    attngraph score results.json --task vqa --data data/scenes --split validation --out runs/score

The file has the format that the data set's evaluation server takes (:mod:`experiments.tasks.formats`), with
one prediction for each example of the split, or is the ``predictions.json`` of a table's cell.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from experiments.base.arguments import path, seed
from experiments.base.files import whole, write_json
from experiments.base.outputs import Outputs
from experiments.base.progress import note
from experiments.runs.given_data import check_task_data
from experiments.tables.scored import score_predictions
from experiments.tasks import TASKS
from experiments.tasks.formats import read_predictions, write_predictions
from experiments.tasks.task import SPLITS

TABLE, DETAILS, RESULTS = NAMES = ("scores.csv", "scores.json", "results.json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``attngraph score``."""
    add = parser.add_argument
    add("predictions", type=path, metavar="FILE", help="Read predictions from this JSON file.")
    add(
        "--task",
        choices=list(TASKS),
        required=True,
        metavar="NAME",
        help=f"Take the examples, format and metric of this task: {', '.join(TASKS)}.",
    )
    add(
        "--data",
        type=path,
        metavar="FOLDER",
        help="Read the data from this folder: one folder for each data set in official files, such as vqa2 "
        "and coco, or what `attngraph scenes` has written. Tasks that come with a package need none.",
    )
    add(
        "--split",
        choices=SPLITS,
        default="test",
        metavar="NAME",
        help=f"Take this split of the data: {', '.join(SPLITS)}.",
    )
    add(
        "--allow-empty",
        action="store_true",
        help="Take empty answers as answers, as the evaluators do, instead of stopping at them.",
    )
    add(
        "--out",
        type=path,
        metavar="FOLDER",
        help=f"Write {TABLE} and {DETAILS} into this folder, and the predictions as a server takes them "
        f"({RESULTS}). Default: scores are printed only.",
    )
    add("--seed", type=seed, default=0, metavar="N", help="Set the seed of the intervals' resampling.")


def run(args: argparse.Namespace) -> int:
    """Read, score, print and write."""
    task = TASKS[args.task]
    if args.data is None:
        task.check(None)
    check_task_data(task, args.data)
    options = {name: getattr(args, name) for name in ("task", "split", "seed", "allow_empty")}
    settings = {"file": str(args.predictions), "data": args.data and str(args.data), **options}
    outputs = None if args.out is None else Outputs(args.out, "score", settings, NAMES)
    if outputs is not None:
        outputs.check()
    examples = task.examples(args.data or Path(), args.split)
    form = task.file_format
    ids = [example.id for example in examples]
    unscored = task.unscored(args.data or Path(), args.split) - set(ids)
    predictions = read_predictions(args.predictions, form, ids, args.allow_empty, unscored)
    scored = score_predictions(task, examples, predictions, args.seed)
    source = task.source(args.data or Path(), args.split)
    about = f"{args.split} split" + f": {source}" * bool(source)
    print(f"{args.predictions}, {about}\n{scored.text()}", end="")
    if outputs is not None:
        with outputs.alone(), outputs.writing() as part:
            with whole(part / TABLE) as file:
                scored.frame().to_csv(file, index=False)
            write_json(part / DETAILS, {**settings, "source": source, **scored.json()})
            write_predictions(part / RESULTS, form, predictions, ids)
        note(f"saved: {', '.join(str(args.out / name) for name in NAMES)}")
    return 0
