"""Completes the file of a run: fields that the file does not set get their values here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attngraph.errors import UserError
from attngraph.experiments.methods import Method, method_named
from attngraph.experiments.methods.method import known_methods
from attngraph.experiments.methods.settings import Choice, Settings
from attngraph.experiments.runs.answering import check_answering
from attngraph.experiments.runs.experiment import Cell, Experiment, Recipe, Scenes
from attngraph.experiments.tasks import TASKS, Task, tasks_named
from attngraph.extras import require
from attngraph.names import did_you_mean


def cell_of(
    experiment: Experiment, drawn: Path, chosen: Settings, counted: dict[str, int] | None = None
) -> Cell:
    """The run of an experiment, with values for all fields.

    Args:
        experiment: the experiment of a user or of a table.
        drawn: folder for synthetic data.
        chosen: settings chosen on validation data, :func:`written_out`.
        counted: task -> its number of training examples, from an earlier call on the same data; updated here.

    Raises:
        UserError: an inconsistent recipe.
    """
    method, task = method_named(experiment.method), TASKS[experiment.task]
    is_drawn = experiment.data is None and not task.packaged
    more: dict[str, Any] = {
        "label": method.name,
        "method": method.name,
        "settings": settings_of(method, method.settings(chosen, task.name), experiment.settings),
        "data": experiment.data or drawn,
        "scenes": (experiment.scenes or Scenes()) if is_drawn else None,
        "recipe": None,
        "train_examples": experiment.train_examples or task.budget.train_examples,
        "eval_examples": experiment.eval_examples or task.budget.eval_examples,
    }
    cell = Cell(**{**dict(experiment), **more})
    if not method.trains:
        return cell
    rate = experiment.recipe.learning_rate or method.rate(chosen, task.name)
    recipe = _recipe(experiment.recipe, rate, cell, {} if counted is None else counted)
    return cell.model_copy(update={"recipe": recipe})


def _recipe(given: Recipe, rate: float, cell: Cell, counted: dict[str, int]) -> Recipe:
    """The training recipe of a run; passes over the training examples are converted to steps."""
    task = TASKS[cell.task]
    batch_size = given.batch_size or task.budget.batch_size
    steps = given.steps or task.budget.steps
    if given.epochs is not None:
        if task.name not in counted:
            drawn = None if cell.scenes is None else cell.scenes.count(task)
            counted[task.name] = len(task.examples(cell.data, "train")) if drawn is None else drawn
        examples = min(counted[task.name], cell.train_examples or counted[task.name])
        # what does not fill a batch is left out of an epoch, see attngraph.experiments.runs.data
        steps = max(1, round(given.epochs * (examples // min(batch_size, examples))))
    augment = task.budget.augment if given.augment is None else given.augment
    if given.patience is not None and given.validate_every is None:
        raise UserError("recipe: patience counts validations: set validate_every, too")
    decided = dict(learning_rate=rate, steps=steps, epochs=None, batch_size=batch_size, augment=augment)
    return given.model_copy(update=decided)


def decided(experiment: Experiment, drawn: Path, chosen: Settings) -> Cell:
    """The run of a user's experiment, with values for all fields.

    Args:
        experiment: the user's experiment.
        drawn: folder for synthetic data.
        chosen: settings chosen on validation data.

    Raises:
        UserError: a name is unknown, or a field is missing or has no effect.
    """
    method = method_named(experiment.method)
    if method.repeats is not None:
        raise UserError(f"method {method.name} repeats the runs of {method.repeats}: use that method")
    if not method.trains and experiment.recipe != Recipe():
        raise UserError(f"recipe has no effect, since {method.name} does not train: remove it")
    (task,) = tasks_named([experiment.task]).values()
    experiment = experiment.model_copy(update={"method": method.name, "task": task.name})
    data, scenes = experiment.data, experiment.scenes or Scenes()
    if data is None:
        if task.data_set is not None:
            raise UserError(
                f"data is missing: set it to the folder with {task.data_set}, which {task.name} needs"
            )
    elif task.packaged:
        raise UserError(f"data {data}: the examples of {task.name} are in a package: remove data")
    elif not data.is_dir():
        raise UserError(f"data {data} is not a folder: use the folder of the datasets")
    elif scenes != Scenes():
        raise UserError(f"scenes has no effect, since data is {data}: remove one of them")
    if scenes.is_official:
        raise UserError(
            "scenes: layouts and published are for tables only: generate datasets with attngraph data make"
        )
    task.check(data)
    require(*task.needs)
    check_answering(task, experiment.answering)
    cell = cell_of(experiment, drawn, written_out(chosen))
    if cell.scenes is None or not task.ranks:
        cell.way()  # an error where what was said of it does not fit
    return cell


def settings_of(method: Method, own: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """A method's settings, some of them replaced. If all settings are given, these are used; otherwise the
    others keep their values, also in nested settings.

    Args:
        method: the method.
        own: all of its settings.
        given: the user's settings.

    Raises:
        UserError: the method has no such setting.
    """
    known = [*own, *(name for name in method.further_settings() if name not in own)]
    for name in given:
        if name not in known:
            has = f"choose from {', '.join(known)}" if known else "remove settings"
            raise UserError(f"settings: {method.name} has no {name!r}{did_you_mean(name, known)}: {has}")
    if own.keys() <= given.keys():
        return dict(given)
    return {**own, **{name: _over(own.get(name), value) for name, value in given.items()}}


def _over(own: Any, given: Any) -> Any:
    return {**own, **given} if isinstance(own, Mapping) and isinstance(given, Mapping) else given


def written_out(settings: Settings, given: Settings | None = None) -> Settings:
    """Settings with an entry for every method and task for which settings were chosen. A task that is like
    another task, and a method that follows another method, have its entry, unless they have a separate one.

    Args:
        settings: content of a settings file.
        given: settings that replace them, field by field.
    """
    given = given or Settings()
    found: dict[str, dict[str, Choice]] = {}
    methods = {name: method_named(name) for name in known_methods()}
    for name, method in sorted(methods.items(), key=lambda item: item[1].leader != item[0]):
        for task in TASKS.values():
            own = settings.choice(name, task.name) or settings.choice(name, task.like or task.name)
            choice = own or found.get(method.leader, {}).get(task.name)
            for above in filter(None, (given.choice(name, task.like or ""), given.choice(name, task.name))):
                said = {field: getattr(above, field) for field in above.model_fields_set}
                choice = above if choice is None else choice.model_copy(update=said)
            if choice is not None:
                found.setdefault(name, {})[task.name] = choice
    reduction = given.reduction if "reduction" in given.model_fields_set else settings.reduction
    return Settings(reduction=reduction, methods=found)


def check_task_data(task: Task, data: Path | None) -> None:
    """Raise :class:`~attngraph.UserError` if a command on one task lacks its folder of data, or has one
    although the examples are in a package.
    """
    if task.packaged and data is not None:
        raise UserError(f"--data {data}: the examples of {task.name} are in a package: remove --data")
    if not task.packaged and data is None:
        raise UserError(f"--data is missing: use the folder with the data of {task.name}")
