"""From an experiment's file to the cell that it is: what the file leaves open is decided here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attngraph.errors import UserError
from experiments.arguments import did_you_mean
from experiments.configs.experiment import Experiment, Training, experiment_of
from experiments.configs.settings import Settings
from experiments.known import check_known
from experiments.methods import Method, method_named
from experiments.scenes.write import Sizes
from experiments.tasks import TASKS, Task
from experiments.training.answering import check_answering
from experiments.training.cells import Cell
from experiments.training.plan import example_count, searched_for, steps_of
from experiments.training.recipe import Recipe


@dataclass(frozen=True)
class Resolved:
    """An experiment in which everything is decided.

    Args:
        cell: what runs.
        experiment: the same as a file.
        sizes: of the scenes that are drawn for it; None where it has other data.
    """

    cell: Cell
    experiment: Experiment
    sizes: Sizes | None


def resolved(experiment: Experiment, drawn: Path, chosen: Settings) -> Resolved:
    """The cell of an experiment.

    Args:
        experiment: as the user gave it.
        drawn: folder for drawn data.
        chosen: settings chosen on validation data.

    Raises:
        UserError: a name is unknown, something is missing, or changes nothing.
    """
    method, task = _method(experiment), _task(experiment)
    searched = searched_for(method, task, chosen) or task.name
    settings = settings_of(method, method.settings(chosen, searched), experiment.settings)
    sizes = experiment.scenes.drawn if experiment.data is None and task.drawn is not None else None
    data = drawn if experiment.data is None else Path(experiment.data)
    train_examples = experiment.train_examples or task.budget.train_examples
    recipe = None
    if method.trains:
        rate = experiment.recipe.learning_rate or method.rate(chosen, searched)
        recipe = _recipe(experiment, rate, task, sizes, data, train_examples)
    cell = Cell(
        method.name,
        method.name,
        settings,
        task.name,
        experiment.seed,
        recipe,
        data,
        experiment.model,
        split=experiment.split,
        train_examples=train_examples,
        eval_examples=experiment.eval_examples or task.budget.eval_examples,
        answering=experiment.answering,
        side=experiment.side,
        decoding=experiment.details(),
    )
    if sizes is None or not task.ranks:
        cell.way()  # an error where what was said of it does not fit
    return Resolved(cell, experiment_of(cell, None if sizes is None else experiment.scenes), sizes)


def settings_of(method: Method, own: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """A method's settings, some of which were given. Who names all of them gets these; else what is not given
    stays, also inside of a setting that has names of its own.

    Args:
        method: whose.
        own: its settings, complete.
        given: by the user.

    Raises:
        UserError: it has no such setting.
    """
    known = [*own, *(name for name in method.further_settings() if name not in own)]
    for name in given:
        if name not in known:
            has = f"choose from {', '.join(known)}" if known else "leave settings out"
            raise UserError(f"settings: {method.name} has no {name!r}{did_you_mean(name, known)}: {has}")
    if own.keys() <= given.keys():
        return dict(given)
    return {**own, **{name: _over(own.get(name), value) for name, value in given.items()}}


def _over(own: Any, given: Any) -> Any:
    return {**own, **given} if isinstance(own, Mapping) and isinstance(given, Mapping) else given


def _method(experiment: Experiment) -> Method:
    method = method_named(experiment.method)
    if method.repeats is not None:
        raise UserError(f"method {method.name} shows the runs of {method.repeats} again: give that one")
    if not method.trains and experiment.recipe != Training():
        raise UserError(f"recipe changes nothing, since {method.name} trains nothing: leave it out")
    return method


def _task(experiment: Experiment) -> Task:
    """The task, with what it needs."""
    check_known([experiment.task], list(TASKS), "task")
    task, data = TASKS[experiment.task], experiment.data
    if data is None:
        if task.data_set is not None:
            raise UserError(
                f"data is missing: give the folder that holds {task.data_set}, which {task.name} reads"
            )
    elif task.packaged:
        raise UserError(f"data {data}: the examples of {task.name} come with a package: leave data out")
    elif not Path(data).is_dir():
        raise UserError(f"data {data} is no folder: give the one that holds the data sets")
    task.check(None if data is None else Path(data))
    check_answering(task, experiment.answering)
    return task


def _recipe(
    experiment: Experiment, rate: float, task: Task, sizes: Sizes | None, data: Path, most: int | None
) -> Recipe:
    given: Any = experiment.recipe
    budget, fields = task.budget, given.model_dump()
    batch_size = given.batch_size or budget.batch_size
    steps = given.steps or budget.steps
    if (epochs := fields.pop("epochs")) is not None:
        examples = example_count(task, "train", sizes, data)
        steps = steps_of(epochs, min(examples, most or examples), batch_size)
    augment = budget.augment if given.augment is None else given.augment
    decided = dict(learning_rate=rate, steps=steps, batch_size=batch_size, augment=augment)
    try:
        return Recipe(**{**fields, **decided})
    except UserError as error:
        raise UserError(f"recipe: {error}") from None
