"""What cells share is made once, before anything long starts."""

from __future__ import annotations

from collections.abc import Sequence

import transformers

from experiments.models import load_family
from experiments.scenes.write import Sizes, write_scenes
from experiments.tasks import TASKS
from experiments.training.cells import IMAGE_STATES, Cell
from experiments.training.data import subset
from experiments.training.device import processes
from experiments.training.features import FeatureCache
from experiments.training.runner import Execution

DATA_SEED = 0  # of the drawn data sets


def prepare(cells: Sequence[Cell], run: Execution, sizes: Sizes, download: bool = False) -> None:
    """Draw the data and compute the image states of the cells' examples.

    Raises:
        UserError: the model cannot be loaded, or the folder of the data holds something else.
    """
    transformers.utils.logging.disable_progress_bar()
    with processes(run.device).main_process_first():
        family = load_family(cells[0].model, download)
        family.model.to(run.device)
        write_scenes(cells[0].data, DATA_SEED, sizes)
        cache = FeatureCache(run.out / IMAGE_STATES, run.cache_gb)
        for cell in {cell.task: cell for cell in cells}.values():
            for split, count in (("train", cell.train_examples), (cell.split, cell.eval_examples)):
                examples = subset(TASKS[cell.task].examples(cell.data, split), count)
                cache.features(family, [example.image for example in examples])
