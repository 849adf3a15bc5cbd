"""An epoch of adapters at BLIP-base's sizes: image states from the cache, or encoded in each step."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from transformers import BlipConfig, BlipForConditionalGeneration

from experiments.bench.measure import Run
from experiments.bench.pictures import made_examples
from experiments.methods import method_named
from experiments.models import load_family
from experiments.models.blip import BlipCaptioner
from experiments.tasks import TASKS
from experiments.training.data import TaskData
from experiments.training.features import FeatureCache
from experiments.training.recipe import Recipe
from experiments.training.trainer import train

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


def blip(side: int, layers: int, width: int, seed: int) -> BlipCaptioner:
    """BLIP-base with random weights, and the mini-BLIP's tokenizer."""
    tokenizer = load_family().tokenizer
    ends = {"bos_token_id": tokenizer.bos_token_id, "pad_token_id": tokenizer.pad_token_id}
    ends |= dict.fromkeys(("eos_token_id", "sep_token_id"), tokenizer.sep_token_id)
    shared = dict(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        projection_dim=width,
    )
    config = BlipConfig(
        text_config=shared | ends | dict(encoder_hidden_size=width, vocab_size=30_524),
        vision_config=shared | dict(image_size=side, patch_size=16, initializer_range=0.02),
        projection_dim=width,
        image_text_hidden_size=width,
        attn_implementation="eager",
    )
    torch.manual_seed(seed)
    return BlipCaptioner(BlipForConditionalGeneration(config).eval(), tokenizer)
