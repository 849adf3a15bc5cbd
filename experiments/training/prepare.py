"""What cells share is made once, before anything long starts."""

from __future__ import annotations

from collections.abc import Sequence

import transformers

from attngraph.errors import UserError
from experiments.configs.presets import Layouts
from experiments.methods import method_named
from experiments.models import ModelFamily, load_family
from experiments.progress import note
from experiments.scenes.write import Sizes, make_scenes, write_scenes
from experiments.tasks import TASKS
from experiments.training.cells import IMAGE_STATES, Cell, agreed, has_scores, is_finished
from experiments.training.data import TaskData, subset
from experiments.training.device import check_device, cpu_threads, half_precision, processes
from experiments.training.execution import Execution
from experiments.training.features import FeatureCache
from experiments.training.plan import Drawn
from experiments.training.saved import read_config
from experiments.training.sharding import check_shards

Families = dict[tuple[str | None, int | None], ModelFamily]  # by name of the model and side of its pictures


def prepare(
    cells: Sequence[Cell],
    run: Execution,
    sizes: Drawn | None,
    data_seed: int = 0,
    download: bool = False,
    families: Families | None = None,
) -> None:
    """Draw the data, or read them, and compute the image states of the cells' examples. Of several processes
    the first one does it, and all meet the error if there is one.

    Args:
        cells: of a table or a search.
        run: where and how they run.
        sizes, data_seed: of the drawn data sets; no sizes where the user named a folder of data.
        download: fetch a model that is not on this machine.
        families: models that the first process has loaded already, as they are without a method.

    Raises:
        UserError: the model cannot be loaded or trained, or a folder of data or of a cell holds something
            else.
    """
    processes(run.device)  # before they can agree
    agreed(lambda: _prepare(cells, run, sizes, data_seed, download, families or {}))


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
    sizes: Drawn | None,
    data_seed: int,
    download: bool,
    loaded: Families,
) -> None:
    transformers.utils.logging.disable_progress_bar()
    check_recipes(cells, run.device)
    todo = [cell for cell in cells if not has_scores(cell, run.out)]
    for cell in todo:
        if cell.recipe is not None:
            check_shards(method_named(cell.method), cell.recipe)
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
    if isinstance(sizes, Layouts):
        make_scenes(cells[0].data, data_seed, sizes.size)
    elif isinstance(sizes, Sizes):
        write_scenes(cells[0].data, data_seed, sizes)
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
