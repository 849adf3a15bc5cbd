"""Models at work: training steps with and without cached image states, answers, pictures on their way in."""

from __future__ import annotations

import random
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from peft import get_peft_model
from PIL import Image
from torch.utils.data import DataLoader
from transformers import BlipConfig, BlipForConditionalGeneration, BlipTextConfig
from transformers.models.blip.modeling_blip_text import BlipTextLMHeadModel

from adapters import GraphAdapterConfig
from adapters.peft import optimizer_groups
from experiments.data.example import Example
from experiments.methods import method_named
from experiments.models import Ranking, Sample, load_family
from experiments.models.batch import token_losses
from experiments.models.blip import BlipCaptioner
from experiments.models.family import ModelFamily
from experiments.models.mini_blip import WORDS
from experiments.models.ranking import PAIRS, shortlist
from experiments.runs.data import FeatureCache, StepSampler, TaskData, begin_loader
from experiments.runs.experiment import Recipe
from experiments.runs.train import train
from experiments.studies.bench.measure import Run
from experiments.tasks import TASKS

# ---- a training step of a text decoder: p-adapters against vanilla adapters --------------------------------

VANILLA, P_ADAPTERS = "vanilla adapters", "p-adapters"
SCHEMES = {VANILLA: "gcn", P_ADAPTERS: "pgnn"}


def training(options: dict) -> dict[str, Run]:
    """Forward, backward and an AdamW step of a decoder with BLIP's layers and random weights.

    Args:
        options: ``b``, ``n`` text tokens, ``m`` image tokens, ``layers``, ``width``, ``heads``, ``words``,
            ``join``, ``seed``; ``name`` of the only run to make: the memory of one holds no other's model.
    """
    names = [options["name"]] if "name" in options else SCHEMES
    return {name: _step(SCHEMES[name], options) for name in names}


def _step(gnn: str, options: dict) -> Run:
    width, words = options["width"], options["words"]
    torch.manual_seed(options["seed"])
    config = BlipTextConfig(
        vocab_size=words,
        hidden_size=width,
        encoder_hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=options["layers"],
        num_attention_heads=options["heads"],
        is_decoder=True,
        attn_implementation="eager",
        bos_token_id=1,
        eos_token_id=2,
        sep_token_id=2,
        pad_token_id=0,
    )
    adapted = get_peft_model(BlipTextLMHeadModel(config), GraphAdapterConfig(gnn=gnn, join=options["join"]))
    optimizer = torch.optim.AdamW(optimizer_groups(adapted, 5e-4, 0.05))
    text = torch.randint(3, words, (options["b"], options["n"]))
    image = torch.randn(options["b"], options["m"], width)
    adapted.train()

    def step() -> None:
        optimizer.zero_grad()
        adapted(text, encoder_hidden_states=image, labels=text, is_decoder=True).loss.backward()
        optimizer.step()

    return step


# ---- ranking a list of answers with the mini-BLIP ----------------------------------------------------------

IN_FULL = "the short-listed answers each in full, as in BLIP's code"
FROM_CACHE = "from the prompts' cache"
LONGEST = 4  # words of an answer


def answers(options: dict) -> dict[str, Run]:
    """Rank made lists for made questions.

    Args:
        options: ``questions``, ``answers``, ``k``, ``seed``.
    """
    family, draw = load_family(), random.Random(options["seed"])
    torch.manual_seed(options["seed"])
    words = sorted(word for word in family.tokenizer.get_vocab() if word.isalpha())
    image = torch.randn_like(family.blank_image())
    samples = [
        Sample(str(number), image, " ".join(draw.choices(words, k=draw.randint(4, 12))))
        for number in range(options["questions"])
    ]
    made: dict[str, None] = {}
    while len(made) < options["answers"]:
        made[" ".join(draw.choices(words, k=draw.randint(1, LONGEST)))] = None
    ranking = Ranking(tuple(made), options["k"])
    return {
        IN_FULL: lambda: in_full(family, samples, ranking),
        FROM_CACHE: lambda: family.rank(samples, ranking),
    }


@torch.no_grad()
def in_full(family: ModelFamily, samples: list[Sample], ranking: Ranking) -> torch.Tensor:
    """The best answer's place for each sample: the same short list, then each answer of it with its prompt in
    passes of as many pairs as :mod:`experiments.models.ranking` takes without a cache."""
    listed = [torch.empty(0)] * len(samples)
    for part in family.openings(samples, ranking.answers):
        logits, _ = part.begin()
        firsts = torch.tensor([answer[0] for answer in part.answers])
        for sample, places in zip(part.samples, shortlist(logits.log_softmax(-1)[:, firsts], ranking.k)):
            listed[sample] = places
    pairs = [
        replace(sample, answer=ranking.answers[place])
        for sample, places in zip(samples, listed)
        for place in places.tolist()
    ]
    scores = []
    for start in range(0, len(pairs), PAIRS):
        inputs = family.to_device(family.training_inputs(pairs[start : start + PAIRS]))
        labels = inputs.pop("labels")
        scores.append(-token_losses(family.logits(inputs), labels).sum(1))
    best = torch.cat(scores).view(len(samples), -1).argmax(1, keepdim=True)
    return torch.stack(listed).gather(1, best)[:, 0]


# ---- an epoch of adapters: image states from the cache, or encoded in each step ----------------------------

ENCODED, CACHED = "images encoded in each step", "image states from the cache"
METHOD = "gcn"  # the vanilla adapter: the cheapest step, of which the images take the largest share
SETTINGS = {"gnn": METHOD, "join": "replace", "reduction": 8}
GIGABYTES = 8.0
HEAD = 64  # width of an attention head


def features(options: dict) -> dict[str, Run]:
    """An epoch, everything in it: reading, batches, forward, backward, AdamW, the last saved state.

    Args:
        options: ``images``, ``batch``, ``side`` (pixels), ``layers``, ``width``, ``seed``.
    """
    folder = tempfile.TemporaryDirectory(prefix="attngraph-bench-")
    family = blip(options["side"], options["layers"], options["width"], options["seed"])
    tuned = method_named(METHOD).apply(family, SETTINGS)
    examples = made_examples(Path(folder.name), options["images"], options["side"], options["seed"])
    recipe = Recipe(1e-4, options["images"] // options["batch"], options["batch"])

    def epoch(limit_gb: float) -> None:
        cache = FeatureCache(Path(folder.name) / "states", limit_gb)
        data = TaskData(family, TASKS["vqa"], examples, "frozen", cache)
        with tempfile.TemporaryDirectory(dir=folder.name) as out:
            train(tuned, data, recipe, options["seed"], Path(out))

    return {ENCODED: lambda: epoch(0), CACHED: lambda: epoch(GIGABYTES)}


def blip(side: int, layers: int, width: int, seed: int) -> BlipCaptioner:
    """A BLIP with random weights, of which the cost of training does not depend, and mini-BLIP's tokenizer.

    Args:
        side: of the pictures, in pixels.
        layers: of the image encoder and of the decoder.
        width: of both.
        seed: of the weights.
    """
    tokenizer = load_family().tokenizer
    ends = {"bos_token_id": tokenizer.bos_token_id, "pad_token_id": tokenizer.pad_token_id}
    ends |= dict.fromkeys(("eos_token_id", "sep_token_id"), tokenizer.sep_token_id)
    shared = dict(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // HEAD,
        projection_dim=width,
    )
    config = BlipConfig(
        text_config=shared | ends | dict(encoder_hidden_size=width, vocab_size=WORDS),
        vision_config=shared | dict(image_size=side, patch_size=16, initializer_range=0.02),
        projection_dim=width,
        image_text_hidden_size=width,
        attn_implementation="eager",
    )
    torch.manual_seed(seed)
    return BlipCaptioner(BlipForConditionalGeneration(config).eval(), tokenizer)


# ---- pictures of 64 px from files to a model's inputs ------------------------------------------------------

SECOND = "one second, in which training may want them"
ALONE, LOADED, CHANGED = "read in the run itself", "read by a loader", "read and changed by a loader"
SIDE, BATCH = 64, 50


def pictures(options: dict) -> dict[str, Run]:
    """Read so many pictures as training does, each for another question: task's data, loader, inputs.

    Args:
        options: ``count``, ``seed``.
    """
    count = options["count"]
    folder = tempfile.TemporaryDirectory(prefix="attngraph-bench-")
    examples = made_examples(Path(folder.name), count, SIDE, options["seed"])
    family = load_family()
    loader = dict(num_workers=1, multiprocessing_context="fork", worker_init_fn=begin_loader)

    def read(changed: bool, **loader) -> None:
        cache = FeatureCache(Path(folder.name), 0)
        data = TaskData(family, TASKS["vqa"], examples, "trained", cache, augment=changed)
        sampler = StepSampler(count, BATCH, options["seed"], count // BATCH)
        for inputs in DataLoader(
            data, batch_size=BATCH, sampler=sampler, collate_fn=family.training_inputs, **loader
        ):
            assert inputs["pixel_values"].shape == (BATCH, 3, SIDE, SIDE)

    return {
        SECOND: partial(time.sleep, count / 1000),
        ALONE: partial(read, False),
        LOADED: partial(read, False, **loader),
        CHANGED: partial(read, True, **loader),
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
