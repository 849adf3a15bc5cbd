"""What a pre-trained model can do: scores on held-out pre-training scenes, per kind of prompt."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import BlipForConditionalGeneration, PreTrainedTokenizerBase

from attngraph.errors import UserError
from experiments.errors import first_line
from experiments.models.generation import decoder_loss, frozen_image_states, generate_text, sequence_batch
from experiments.models.mini_blip import preprocess
from experiments.pretraining.texts import KINDS
from experiments.progress import Progress
from experiments.scenes.drawing import draw
from experiments.scenes.scene import Scene, generator, scenes

SCENES = 600
BATCH = 200
TOLERANCE = 0.05  # of a new run of the recipe: the average score
CHECK_TOLERANCE = 0.01  # of the same checkpoint scored on another machine: every score


def skill_scores(
    model: BlipForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, count: int
) -> dict[str, float]:
    """Scores on ``count`` held-out scenes, with one text of each kind about each scene that allows it.

    Returns:
        ``exact_<kind>``: share of generated answers that equal the true one, for each kind of prompt but
        captions, whose wording is free; ``exact_average``: the mean of these; ``caption_loss``: mean loss per
        caption token.
    """
    model = model.eval()
    shown = list(scenes("validation", count, 0, "pretrain"))
    states = frozen_image_states(model, preprocess([draw(scene) for scene in shown]).to(model.device))
    exact, caption_loss = {}, 0.0
    for kind, rows, prompts, answers in Progress(texts_by_kind(shown), "scoring", len(KINDS), leave=False):
        if kind == "caption":
            caption_loss = _mean_loss(model, tokenizer, states[rows], prompts, answers)
            continue
        guesses = []
        for start in range(0, len(rows), BATCH):
            part = slice(start, start + BATCH)
            guesses += generate_text(model, tokenizer, states[rows[part]], prompts[part], max_new_tokens=32)
        hits = [guess == written(tokenizer, answer) for guess, answer in zip(guesses, answers, strict=True)]
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
def _mean_loss(model, tokenizer, states: Tensor, prompts: list[str], answers: list[str]) -> float:
    batch = sequence_batch(tokenizer, prompts, answers)
    return decoder_loss(
        model, states, {name: tensor.to(states.device) for name, tensor in batch.items()}
    ).item()


def saved_scores(folder: Path) -> dict[str, float]:
    """The scores that were saved with a checkpoint.

    Raises:
        UserError: ``scores.json`` is missing or damaged.
    """
    file = folder / "scores.json"
    try:
        scores = json.loads(file.read_text(encoding="utf-8"))["scores"]
        if not scores or not all(math.isfinite(value) for value in scores.values()):
            raise ValueError("a score is no number")
        return scores
    except FileNotFoundError:
        raise UserError(f"{file} not found; give the folder of a finished `attngraph pretrain`") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{file} is damaged ({first_line(error)}); run `attngraph pretrain` again") from None
