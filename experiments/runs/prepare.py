"""What cells share is made once, before anything long starts."""

from __future__ import annotations

from collections.abc import Sequence

import transformers

from attngraph.errors import UserError
from experiments.base.errors import first_line
from experiments.base.progress import note
from experiments.methods import method_named
from experiments.methods.parameters import count_parameters
from experiments.models import ModelFamily, load_family
from experiments.runs.cells import IMAGE_STATES, Cell, agreed, has_scores, is_finished
from experiments.runs.data import TaskData, subset
from experiments.runs.device import check_device, cpu_threads, half_precision, processes
from experiments.runs.execution import Execution
from experiments.runs.experiment import Scenes
from experiments.runs.features import FeatureCache
from experiments.runs.saved import read_config
from experiments.tasks import TASKS

Families = dict[tuple[str | None, int | None], ModelFamily]  # by name of the model and side of its pictures


def prepare(
    cells: Sequence[Cell],
    run: Execution,
    scenes: Scenes | None,
    download: bool = False,
    families: Families | None = None,
) -> None:
    """Draw the data, or read them, and compute the image states of the cells' examples. Of several processes
    the first one does it, and all meet the error if there is one.

    Args:
        cells: of a table or a search.
        run: where and how they run.
        scenes: that are drawn; None where the user named a folder of data, or nothing is drawn.
        download: fetch a model that is not on this machine.
        families: models that the first process has loaded already, as they are without a method.

    Raises:
        UserError: the model cannot be loaded or trained, or a folder of data or of a cell holds something
            else.
    """
    processes(run.device)  # before they can agree
    agreed(lambda: _prepare(cells, run, scenes, download, families or {}))


def trained_in_words(cell: Cell, family: ModelFamily) -> str:
    """What is trained, in words; the settings are tried on the model before anything is written.

    Args:
        cell: the experiment.
        family: its model, to which the method is applied in place.

    Raises:
        UserError: the method cannot take its settings.
    """
    method = method_named(cell.method)
    try:
        tuned = method.apply(family, cell.settings)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"settings: {method.name} cannot take them ({first_line(error)}): correct them, or leave them out"
        ) from None
    counted = count_parameters(tuned)
    words = f"{method.title} on {TASKS[cell.task].title}, seed {cell.seed}: {family.title}"
    if cell.recipe is None:
        return f"{words}, nothing is trained"
    recipe = cell.recipe
    return (
        f"{words}, {counted.trained:,} parameters are trained, {counted.shares['model']:.2%} of the model's "
        f"{counted.model:,}; {recipe.steps} steps of {recipe.batch_size} examples, learning rate "
        f"{recipe.learning_rate:g}"
    )


def check_recipes(cells: Sequence[Cell], device: str) -> None:
    """Checks that recipes can be followed here: batches divide evenly, the device has the precision.

    Raises:
        UserError: one can't.
    """
    count = processes(device).num_processes
    for recipe in {cell.recipe: None for cell in cells if cell.recipe is not None}:
        half_precision(device, recipe.precision)
        recipe.per_process(count, recipe.batch_size)


def _prepare(
    cells: Sequence[Cell],
    run: Execution,
    scenes: Scenes | None,
    download: bool,
    loaded: Families,
) -> None:
    transformers.utils.logging.disable_progress_bar()
    check_recipes(cells, run.device)
    todo = [cell for cell in cells if not has_scores(cell, run.out)]
    families = {
        (name, side): loaded.get((name, side)) or load_family(name, download, side)
        for name, side in dict.fromkeys((cell.model, cell.side) for cell in todo)
    }
    for (name, _), family in families.items():
        if not family.trains:
            raise UserError(
                f"--model {name} writes no answers, so it can't be trained on a task: give an "
                "image-and-text model that writes text"
            )
    for folder in {cell.folder(run.out): None for cell in cells}:
        if folder.is_dir() and any(folder.iterdir()):
            read_config(folder)  # an error where it is damaged, before anything is written
    if scenes is not None:
        scenes.draw(cells[0].data)
    for cell in cells:
        is_finished(cell, run)  # an error where its folder holds another experiment
    for cell in {(cell.task, cell.model, cell.side): cell for cell in todo}.values():
        cell.description()  # an error where annotations or a list of answers are damaged, before any picture
    if not run.is_local and not _is_here(run.device):
        note(f"this machine has no {run.device}: the machines that run cells compute image states")
        return
    cache = FeatureCache(run.out / IMAGE_STATES, run.cache_gb)
    with cpu_threads(run.threads):
        for family in families.values():
            family.model.to(run.device)
        changing = {cell.task for cell in todo if cell.recipe is not None and cell.recipe.augment}
        if changing and run.cache_gb:
            names = ", ".join(sorted(changing))
            note(f"{names}: pictures change in training, so image states are cached for scoring alone")
        for cell in {(cell.task, cell.model, cell.side): cell for cell in todo}.values():
            for split, count in (("train", cell.train_examples), (cell.split, cell.eval_examples)):
                if split == "train" and cell.task in changing:
                    continue
                found = TASKS[cell.task].examples(cell.data, split)
                TaskData(
                    families[cell.model, cell.side],
                    TASKS[cell.task],
                    subset(found, count),
                    "frozen",
                    cache,
                )


def _is_here(device: str) -> bool:
    try:
        check_device(device)
    except UserError:
        return False
    return True
