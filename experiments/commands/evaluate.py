"""Score a model on a task: a finished run on another split, on other data, or with another answering mode; in
Python, any model on any task and on data in memory.

The scores in the run's folder do not change. By default, data and model are those of the run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from attngraph.errors import UserError
from attngraph.experiments.base.config import checked
from attngraph.experiments.base.files import write_json
from attngraph.experiments.base.messages import check_known
from attngraph.experiments.base.options import from_hub
from attngraph.experiments.base.outputs import Outputs
from attngraph.experiments.commands.options import EvaluateOptions
from attngraph.experiments.data.example import Example
from attngraph.experiments.data.records import record_examples
from attngraph.experiments.methods.method import PREDICTIONS, Tuned
from attngraph.experiments.metrics.statistics import per_image
from attngraph.experiments.models import ModelFamily, load_family
from attngraph.experiments.runs.answering import (
    changed_way,
    check_answering,
    described,
    in_words,
    predict,
    way_of,
)
from attngraph.experiments.runs.changes import with_changes
from attngraph.experiments.runs.data import TaskData, subset
from attngraph.experiments.runs.device import check_device, cpu_threads
from attngraph.experiments.runs.experiment import EXPERIMENT, REMEDY, Answers
from attngraph.experiments.runs.plan import check_task_data
from attngraph.experiments.runs.saved import SCORES, STATISTICS, Finished, finished
from attngraph.experiments.runs.validation import undisturbed
from attngraph.experiments.tables.scored import Scored, score_predictions
from attngraph.experiments.tasks import Task, TaskScores, tasks_named
from attngraph.experiments.tasks.task import SPLITS
from attngraph.extras import require

if TYPE_CHECKING:
    import pandas as pd
    from peft import PeftModel
    from transformers import PreTrainedModel

TABLE = "scores.csv"
NAMES = (TABLE, SCORES, STATISTICS, PREDICTIONS)
SPLIT = "test"
CPU = "cpu"
IN_PYTHON = 'use options such as decoding={"num_beams": 5}, see the page "Experiment file" of the docs'


def run(options: EvaluateOptions) -> int:
    """Load, answer, score and write."""
    check_device(options.device)
    asked = with_changes({}, options.changes, Answers, "--set", REMEDY)
    cell = finished(options.folder)
    task, split = cell.task, options.split or cell.result["split"]
    model = options.model or cell.experiment.model
    data = cell.data(options.data)
    _check(task, asked, data)
    settings = {"device": options.device, **asked.model_dump(mode="json"), "run": str(options.folder)}
    settings |= {"split": split, "data": data and str(data), "model": model}
    outputs = Outputs(options.out, "evaluate", settings, NAMES)
    outputs.check()
    place = data or options.folder
    examples = subset(task.examples(place, split), asked.eval_examples or cell.settings.get("eval_examples"))
    found = _of_run(cell, task, examples, place, asked, options.device, model, options.download)
    scored, source = found.scored(task, examples), task.source(place, split)
    said = f"{options.folder}, {split} split" + f": {source}" * bool(source)
    print(f"{said}\n{in_words(found.answering)}\n{scored.text()}", end="")

    def write(folder: Path) -> None:
        images = [example.image for example in examples]
        sums = {key: per_image(values, images) for key, values in found.scores.statistics.items()}
        statistics = {key: values.sum(axis=0).tolist() for key, values in sums.items()}
        more = {"source": source, "answering": found.answering, "statistics": statistics}
        scored.frame().to_csv(folder / TABLE, index=False)
        write_json(folder / SCORES, {**settings, **more, **scored.json()})
        write_json(folder / PREDICTIONS, found.predictions)
        np.savez_compressed(folder / STATISTICS, **sums)

    outputs.save(write)
    return 0


def evaluate(
    model: str | Path | PreTrainedModel | PeftModel | ModelFamily | Tuned | None = None,
    task: str | Task | None = None,
    data: str | Path | Iterable[Mapping[str, Any]] | Mapping[str, Iterable[Mapping[str, Any]]] | None = None,
    *,
    split: str | None = None,
    device: str | None = None,
    **answers: Any,
) -> pd.DataFrame:
    """Scores of a model on a task, as ``attngraph evaluate`` writes them into ``scores.csv``.

    >>> attngraph.evaluate("runs/train/cells/pgnn/vqa/seed0")  # a finished run, on its own task
    >>> attngraph.evaluate(model, "vizwiz_caps", datasets.load_dataset(...), eval_examples=500)

    Args:
        model: the folder of a finished run; or a model without one: a shipped name, a folder, a name of the
            hub (``hub:NAME`` fetches it), a transformers model or PEFT model in memory that was loaded with
            ``from_pretrained``, a model family, or the result of a method's ``apply``. None: the mini-BLIP.
        task: name of a task, or a task; None for the run's.
        data: a folder of datasets, as for ``--data``; or records with the fields ``image``, ``text``
            and ``answer`` (:mod:`attngraph.experiments.data.records`): a ``datasets.Dataset``, a list of
            dictionaries, or a dictionary of such by split, as ``datasets.DatasetDict`` is. None for the run's
            data, or for tasks whose data are in a package.
        split: ``train``, ``validation`` or ``test``; None for the run's, or test. Records without splits are
            all scored.
        device: device of the model: ``cpu``, ``cuda`` ...; None for the device that a model in memory is on,
            and the CPU otherwise.
        answers: ``answering``, ``decoding``, ``ranking`` and ``eval_examples`` of
            :class:`attngraph.experiments.runs.experiment.Answers`, such as ``decoding={"num_beams": 5}``.

    Returns:
        A line for each score: ``column``, ``heading``, ``kind`` (None for all examples), ``score`` (a
        fraction; CIDEr at most 10), ``low`` and ``high`` (95 % interval over new images) and ``number`` of
        examples.

    Raises:
        UserError: in the same cases as the command, or if a record lacks a field.
    """
    check_device(device or CPU)
    asked = checked(answers, Answers, lambda field: "evaluate", IN_PYTHON)
    cell = _run_in(model)
    if task is None and cell is None:
        raise UserError("task is missing: name a task, or use the folder of a finished run as the model")
    if task is None:
        task = cell.task
    elif isinstance(task, str):
        (task,) = tasks_named([task]).values()
    elif not isinstance(task, Task):
        raise UserError(f"the task is of type {type(task).__name__}: use a task's name, or a Task")
    is_own = cell is not None and task is cell.task
    own_data = None if cell is None else cell.data(None)
    place = own_data or (Path() if cell is None else cell.folder)
    most = asked.eval_examples
    if data is None or isinstance(data, (str, Path)):
        own = None if task.packaged else own_data
        folder = own if data is None else Path(data)
        _check(task, asked, folder)
        place = folder or place
        split = split or (cell.result["split"] if cell else SPLIT)
        check_known([split], SPLITS, "split")
        examples = task.examples(place, split)
        most = most or (cell.settings.get("eval_examples") if is_own else task.budget.eval_examples)
    else:
        check_answering(task, asked.answering)
        require(*task.needs)
        examples = record_examples(_of_split(data, split), task.takes_text, task.file_format.labels)
    examples = subset(examples, most)
    found = (
        _of_model(model, task, examples, place, asked, device)
        if cell is None
        else _of_run(cell, task, examples, place, asked, device or CPU)
    )
    return found.scored(task, examples).frame()


@dataclass(frozen=True)
class _Found:
    """Answers to examples, by id, their scores, and the answering mode."""

    predictions: dict[str, str]
    scores: TaskScores
    answering: dict[str, Any]

    def scored(self, task: Task, examples: Sequence[Example]) -> Scored:
        return score_predictions(task, examples, self.predictions, scores=self.scores)


def _check(task: Task, asked: Answers, data: Path | None) -> None:
    check_answering(task, asked.answering)
    require(*task.needs)
    check_task_data(task, data)
    if data is not None:
        task.check(data)


def _run_in(model: Any) -> Finished | None:
    """The finished run in a folder; None for anything else."""
    if isinstance(model, (str, Path)) and (Path(model) / EXPERIMENT).is_file():
        return finished(Path(model))
    return None


def _of_split(data: Any, split: str | None) -> Iterable[Mapping[str, Any]]:
    if not isinstance(data, Mapping):
        if split is not None:
            raise UserError(f"split {split}: the records are not given by split: remove split")
        return data
    check_known([split or SPLIT], list(map(str, data)), "split of the records")
    return data[split or SPLIT]


def _of_run(
    cell: Finished,
    task: Task,
    examples: Sequence[Example],
    data: Path,
    asked: Answers,
    device: str,
    model: str | None = None,
    download: bool = False,
) -> _Found:
    """Answers of a finished run, in its answering mode unless ``asked`` changes it."""
    model = model or cell.experiment.model
    if task is cell.task and asked.answering is None:
        way = cell.way(data)
    else:
        way = way_of(task, data, asked.answering, model)
    way = changed_way(task, way, asked.details())
    with cpu_threads(cell.threads):
        tuned = cell.tuned(model, device, download)
        tuned.family.check_decoding(way)
        predictions = cell.answers(tuned, examples, way, task)
    return _Found(predictions, task.score(predictions, examples), described(way, tuned.family))


def _of_model(
    model: Any, task: Task, examples: Sequence[Example], data: Path, asked: Answers, device: str | None
) -> _Found:
    """Answers of a model without a run, in the task's answering mode unless ``asked`` changes it."""
    if isinstance(model, Tuned):
        tuned = model
    else:
        name, download = from_hub(model) if isinstance(model, str) else (model, False)
        tuned = Tuned(name if isinstance(name, ModelFamily) else load_family(name, download))
    family = tuned.family
    way = way_of(task, data, asked.answering, family.model)
    way = changed_way(task, way, asked.details())
    family.check_decoding(way)
    if device is not None:
        family.model.to(device)
    examined = TaskData(family, task, examples, released=getattr(way, "as_released", None))
    with undisturbed(family.model):
        predictions = predict(tuned, examined, way)
    return _Found(predictions, task.score(predictions, examples), described(way, family))
