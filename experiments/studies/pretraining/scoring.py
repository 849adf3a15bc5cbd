"""What a pre-trained model can do: scores on held-out pre-training scenes, per kind of prompt."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from attngraph.errors import UserError
from experiments.base.errors import first_line
from experiments.base.progress import Progress
from experiments.base.shipped import DEFAULT, SHIPPED
from experiments.models.batch import IGNORED, Sample, token_losses
from experiments.models.family import Decoding, ModelFamily
from experiments.scenes.drawing import draw
from experiments.scenes.scene import Scene, generator, scenes
from experiments.studies.pretraining.texts import KINDS

SCORES = "scores.json"
SCENES = 600
BATCH = 200
TOLERANCE = 0.05  # of a new run of the recipe: the average score
CHECK_TOLERANCE = 0.01  # of the same checkpoint scored on another machine: every score


def skill_scores(family: ModelFamily, count: int, prompts_captions: bool) -> dict[str, float]:
    """Scores on ``count`` held-out scenes, with one text of each kind about each scene that allows it.

    Args:
        family: the model.
        count: of scenes.
        prompts_captions: whether captions have a prompt.

    Returns:
        ``exact_<kind>``: share of generated answers that equal the true one, for each kind of prompt but
        captions, whose wording is free; ``exact_average``: the mean of these; ``caption_loss``: mean loss per
        caption token.
    """
    family.model.eval()
    shown = list(scenes("validation", count, 0, "pretrain"))
    states = family.encode_images([draw(scene) for scene in shown])
    exact, caption_loss = {}, 0.0
    for kind, rows, prompts, answers in Progress(texts_by_kind(shown), "scoring", len(KINDS), leave=False):
        if kind == "caption" and not prompts_captions:
            prompts = [""] * len(prompts)
        samples = [
            Sample(f"{kind} {row}", states[row], prompt, answer)
            for row, prompt, answer in zip(rows, prompts, answers, strict=True)
        ]
        if kind == "caption":
            caption_loss = _mean_loss(family, samples)
            continue
        guesses = []
        for start in range(0, len(samples), BATCH):
            guesses += family.generate(samples[start : start + BATCH], Decoding(max_new_tokens=32))
        hits = [
            guess == written(family.tokenizer, answer) for guess, answer in zip(guesses, answers, strict=True)
        ]
        exact[f"exact_{kind}"] = float(np.mean(hits))
    scores = {**exact, "exact_average": float(np.mean(list(exact.values()))), "caption_loss": caption_loss}
    return {name: round(value, 4) for name, value in scores.items()}


def texts_by_kind(shown: list[Scene]) -> Iterator[tuple[str, list[int], list[str], list[str]]]:
    """Yields, for each kind of text: its name, indices of scenes, prompts and answers."""
    for kind, write in sorted(KINDS.items()):
        pairs = [(index, write(scene, generator(7, index))) for index, scene in enumerate(shown)]
        written = [(index, *pair) for index, pair in pairs if pair]
        if written:
            rows, prompts, answers = map(list, zip(*written, strict=True))
            yield kind, rows, prompts, answers


def written(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """A text as the model would write it: through the tokenizer and back."""
    return tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"])


@torch.no_grad()
def _mean_loss(family: ModelFamily, samples: list[Sample]) -> float:
    inputs = family.to_device(family.training_inputs(samples))
    labels = inputs.pop("labels")
    return (token_losses(family.logits(inputs), labels).sum() / (labels[:, 1:] != IGNORED).sum()).item()


def saved_scores(folder: Path) -> tuple[str, dict[str, float]]:
    """The model's name and the scores that were saved with a checkpoint.

    Raises:
        UserError: ``scores.json`` is missing or damaged.
    """
    file = folder / SCORES
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        name, scores = content.get("run", {}).get("model", DEFAULT), content["scores"]
        if name not in SHIPPED:
            raise ValueError(f"{name} is no model that is pre-trained")
        if not scores or not all(math.isfinite(value) for value in scores.values()):
            raise ValueError("a score is no number")
        return name, scores
    except FileNotFoundError:
        raise UserError(f"{file} not found; give the folder of a finished `attngraph pretrain`") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{file} is damaged ({first_line(error)}); run `attngraph pretrain` again") from None
