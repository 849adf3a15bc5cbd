"""Score a finished run once more: on another split, on other data, or with another way to answer.

The run's own scores stay as they are. Data and model are those of the run where none are named.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from attngraph.experiments.base.files import write_json
from attngraph.experiments.base.outputs import Outputs
from attngraph.experiments.commands.options import EvaluateOptions
from attngraph.experiments.runs.answering import changed_way, check_answering, described, in_words, way_of
from attngraph.experiments.runs.cells import per_image
from attngraph.experiments.runs.changes import with_changes
from attngraph.experiments.runs.data import subset
from attngraph.experiments.runs.device import check_device, cpu_threads
from attngraph.experiments.runs.experiment import REMEDY, Answers
from attngraph.experiments.runs.plan import check_task_data
from attngraph.experiments.runs.saved import PREDICTIONS, SCORES, STATISTICS, finished
from attngraph.experiments.tables.scored import score_predictions
from attngraph.extras import require

TABLE = "scores.csv"
NAMES = (TABLE, SCORES, STATISTICS, PREDICTIONS)


def run(options: EvaluateOptions) -> int:
    """Load, answer, score and write."""
    check_device(options.device)
    asked = with_changes({}, options.changes, Answers, "--set", REMEDY)
    cell = finished(options.folder)
    check_answering(cell.task, asked.answering)
    require(*cell.task.needs)
    task, split = cell.task, options.split or cell.result["split"]
    model = options.model or cell.experiment.model
    data = cell.data(options.data)
    check_task_data(task, data)
    if data is not None:
        task.check(data)
    settings = {"device": options.device, **asked.model_dump(mode="json"), "run": str(options.folder)}
    settings |= {"split": split, "data": data and str(data), "model": model}
    outputs = Outputs(options.out, "evaluate", settings, NAMES)
    outputs.check()
    place = data or options.folder
    way = cell.way(place) if asked.answering is None else way_of(task, place, asked.answering, model)
    way = changed_way(task, way, asked.details())
    most = asked.eval_examples or cell.settings.get("eval_examples")
    examples = subset(task.examples(place, split), most)
    with cpu_threads(cell.threads):
        tuned = cell.tuned(model, options.device, place, options.download)
        predictions = cell.answers(tuned, examples, way)
    scores = task.score(predictions, examples)
    scored = score_predictions(task, examples, predictions, scores=scores)
    about = described(way, tuned.family)
    source = task.source(place, split)
    said = f"{options.folder}, {split} split" + f": {source}" * bool(source)
    print(f"{said}\n{in_words(about)}\n{scored.text()}", end="")

    def write(folder: Path) -> None:
        sums = {key: per_image(values, examples) for key, values in scores.statistics.items()}
        statistics = {key: values.sum(axis=0).tolist() for key, values in sums.items()}
        more = {"source": source, "answering": about, "statistics": statistics}
        scored.frame().to_csv(folder / TABLE, index=False)
        write_json(folder / SCORES, {**settings, **more, **scored.json()})
        write_json(folder / PREDICTIONS, predictions)
        np.savez_compressed(folder / STATISTICS, **sums)

    outputs.save(write)
    return 0
