"""Score a finished run once more: on another split, on other data, or with another way to answer.

    attngraph evaluate runs/train/cells/pgnn/vqa/seed0 --split validation
    attngraph evaluate runs/six/cells/gcn/coco/seed0 --set decoding.num_beams=5 --out runs/coco-5-beams

The run's own scores stay as they are. Data and model are those of the run where none are named.
"""

from __future__ import annotations

import argparse

import numpy as np

from experiments.base.arguments import add_model_arguments, path, seed
from experiments.base.files import whole, write_json
from experiments.base.outputs import Outputs
from experiments.base.progress import note
from experiments.runs.answering import changed_way, check_answering, described, in_words, way_of
from experiments.runs.cells import per_image
from experiments.runs.changes import add_set_argument, read_changes, with_changes
from experiments.runs.data import subset
from experiments.runs.device import check_device, check_threads, cpu_threads
from experiments.runs.execution import THREADS
from experiments.runs.experiment import REMEDY, Answers
from experiments.runs.given_data import check_task_data
from experiments.runs.saved import PREDICTIONS, SCORES, STATISTICS, finished
from experiments.tables.scored import score_predictions
from experiments.tasks.task import SPLITS

TABLE = "scores.csv"
NAMES = (TABLE, SCORES, STATISTICS, PREDICTIONS)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``attngraph evaluate``."""
    add = parser.add_argument
    add("folder", type=path, metavar="RUN", help="Take the trained model of this folder, a run's.")
    add(
        "--data",
        type=path,
        metavar="FOLDER",
        help="Read the data from this folder. Default: those of the run, where they are still there.",
    )
    add(
        "--split",
        choices=SPLITS,
        metavar="NAME",
        help=f"Take this split: {', '.join(SPLITS)}. Default: the one that the run was scored on.",
    )
    add_set_argument(
        parser,
        f"Set how answers come about: {', '.join(Answers.model_fields)}; such as decoding.num_beams=5.",
    )
    add(
        "--out",
        type=path,
        metavar="FOLDER",
        help=f"Write {', '.join(NAMES)} into this folder. Default: scores are printed only.",
    )
    add_model_arguments(parser, "Adapt this transformers model, as the run did")
    add("--device", default="cpu", metavar="NAME", help="Compute on this device: cpu, cuda, cuda:1 or mps.")
    add("--threads", type=int, default=THREADS, metavar="N", help="Use this many CPU threads.")
    add("--seed", type=seed, default=0, metavar="N", help="Set the seed of the intervals' resampling.")


def run(args: argparse.Namespace) -> int:
    """Load, answer, score and write."""
    check_threads(args.threads)
    check_device(args.device)
    changes = read_changes(args.changes, Answers)
    asked = with_changes({}, changes, Answers, "--set", REMEDY)
    cell = finished(args.folder)
    check_answering(cell.task, asked.answering)
    task, split, model = cell.task, args.split or cell.result["split"], cell.model(args.model)
    data = cell.data(args.data)
    check_task_data(task, data)
    if data is not None:
        task.check(data)
    names = ("device", "threads", "seed")
    settings = {name: getattr(args, name) for name in names} | asked.model_dump(mode="json")
    settings |= {"run": str(args.folder), "split": split, "data": data and str(data), "model": model}
    outputs = None if args.out is None else Outputs(args.out, "evaluate", settings, NAMES)
    if outputs is not None:
        outputs.check()
    place = data or args.folder
    if asked.answering is None:
        way = cell.way(place)
    else:
        way = way_of(task, place, asked.answering, model)
    way = changed_way(task, way, asked.details())
    most = asked.eval_examples or cell.settings.get("eval_examples")
    examples = subset(task.examples(place, split), most)
    with cpu_threads(args.threads):
        tuned = cell.tuned(model, args.device, place, args.download)
        predictions = cell.answers(tuned, examples, way)
    scores = task.score(predictions, examples)
    scored = score_predictions(task, examples, predictions, args.seed, scores)
    about = described(way, tuned.family)
    source = task.source(place, split)
    said = f"{args.folder}, {split} split" + f": {source}" * bool(source)
    print(f"{said}\n{in_words(about)}\n{scored.text()}", end="")
    if outputs is not None:
        sums = {key: per_image(values, examples) for key, values in scores.statistics.items()}
        with outputs.alone(), outputs.writing() as part:
            with whole(part / TABLE) as file:
                scored.frame().to_csv(file, index=False)
            more = {"source": source, "answering": about}
            statistics = {key: values.sum(axis=0).tolist() for key, values in sums.items()}
            write_json(part / SCORES, {**settings, **more, "statistics": statistics, **scored.json()})
            write_json(part / PREDICTIONS, predictions)
            with whole(part / STATISTICS) as file:
                np.savez_compressed(file, **sums)
        note(f"saved: {', '.join(str(args.out / name) for name in NAMES)}")
    return 0
