"""Reading pictures of 64 px as training does: the data of a task, a loader, the model's inputs."""

from __future__ import annotations

import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from torch.utils.data import DataLoader

from experiments.bench.measure import Run
from experiments.datasets.example import Example
from experiments.models import load_family
from experiments.tasks import TASKS
from experiments.training.data import TaskData
from experiments.training.features import FeatureCache
from experiments.training.loading import begin_loader
from experiments.training.order import StepSampler

BASELINE = "one second, in which training may want them"
ALONE, LOADED, CHANGED = "read in the run itself", "read by a loader", "read and changed by a loader"
TARGETS = {LOADED: 1.0, CHANGED: 1.0}
SIDE, BATCH = 64, 50
LOADER = dict(num_workers=1, multiprocessing_context="fork", worker_init_fn=begin_loader)


def runs(options: dict) -> dict[str, Run]:
    """Read so many pictures, each for another question.

    Args:
        options: ``count``, ``seed``, ``tiny``.
    """
    count = BATCH if options.get("tiny") else options["count"]
    folder = tempfile.TemporaryDirectory(prefix="attngraph-bench-")
    examples = made_examples(Path(folder.name), count, SIDE, options["seed"])
    family = load_family()

    def read(changed: bool, **loader) -> None:
        cache = FeatureCache(Path(folder.name), 0)
        data = TaskData(family, TASKS["vqa"], examples, "trained", cache, augment=changed)
        sampler = StepSampler(count, BATCH, options["seed"], count // BATCH)
        for inputs in DataLoader(
            data, batch_size=BATCH, sampler=sampler, collate_fn=family.training_inputs, **loader
        ):
            assert inputs["pixel_values"].shape == (BATCH, 3, SIDE, SIDE)

    return {
        BASELINE: partial(time.sleep, count / 1000),
        ALONE: partial(read, False),
        LOADED: partial(read, False, **LOADER),
        CHANGED: partial(read, True, **LOADER),
    }


def made_examples(folder: Path, count: int, side: int, seed: int) -> list[Example]:
    """Questions about pictures of coloured squares, saved as PNG."""
    draw = np.random.default_rng(seed)
    examples = []
    for number in range(count):
        coarse = draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((side, side), Image.Resampling.NEAREST).save(folder / f"{number}.png")
        question = "what color is the circle to the left of the square ?"
        examples.append(Example(str(number), folder / f"{number}.png", question, ("blue",), "color"))
    return examples
