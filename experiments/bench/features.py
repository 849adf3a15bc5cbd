"""An epoch of adapters at BLIP-base's sizes: image states from the cache, or encoded in each step."""

from __future__ import annotations

import tempfile
from pathlib import Path

from experiments.bench.full_size import blip
from experiments.bench.measure import Run
from experiments.bench.pictures import made_examples
from experiments.methods import method_named
from experiments.tasks import TASKS
from experiments.training.data import TaskData
from experiments.training.features import FeatureCache
from experiments.training.recipe import Recipe
from experiments.training.train import train

BASELINE, CACHED = "images encoded in each step", "image states from the cache"
TARGETS = {CACHED: 0.33}
METHOD = "gcn"  # the vanilla adapter: the cheapest step, of which the images take the largest share
SETTINGS = {"gnn": METHOD, "join": "replace", "reduction": 8}
GIGABYTES = 8.0


def runs(options: dict) -> dict[str, Run]:
    """An epoch, everything in it: reading, batches, forward, backward, AdamW, the last saved state.

    Args:
        options: ``images``, ``batch``, ``side`` (pixels), ``layers``, ``seed``, ``tiny``.
    """
    tiny = options.get("tiny")
    images, batch, side, layers = (
        (2, 1, 32, 1) if tiny else (options[name] for name in ("images", "batch", "side", "layers"))
    )
    folder = tempfile.TemporaryDirectory(prefix="attngraph-bench-")
    family = blip(side, layers, 64 if tiny else 768, options["seed"])
    tuned = method_named(METHOD).apply(family, SETTINGS)
    examples = made_examples(Path(folder.name), images, side, options["seed"])
    recipe = Recipe(1e-4, images // batch, batch)

    def epoch(limit_gb: float) -> None:
        cache = FeatureCache(Path(folder.name) / "states", limit_gb)
        data = TaskData(family, TASKS["vqa"], examples, "frozen", cache)
        with tempfile.TemporaryDirectory(dir=folder.name) as out:
            train(tuned, data, recipe, options["seed"], Path(out))

    return {BASELINE: lambda: epoch(0), CACHED: lambda: epoch(GIGABYTES)}
