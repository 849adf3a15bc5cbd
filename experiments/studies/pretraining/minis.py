"""The models that ``attngraph pretrain`` makes, by their names: all in which they differ."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from experiments.base.shipped import CHECKPOINTS, DEFAULT
from experiments.models.blip import build_model
from experiments.models.generation import IGNORED, decoder_logits, sequence_batch
from experiments.models.mplug import question_batch
from experiments.models.mplug.modeling import build_mini
from experiments.scenes.words import all_words
from experiments.studies.pretraining.prompts import Prompt
from experiments.studies.pretraining.texts import CAPTION_PROMPTS
from experiments.studies.pretraining.tokenizer import build_tokenizer

Texts = list[list[Prompt]]  # of each image


@dataclass(frozen=True)
class Recipe:
    """What is drawn in each step and how it is learned; the command's options are the steps only.

    Args:
        steps: optimiser steps.
        images: new images in each step; few, so that there are many steps.
        texts: texts about each image, one of them a caption.
        learning_rate: of AdamW, at its highest.
        warmup_steps: of the learning rate, linear; a cosine down to 1 % follows.
        betas: of AdamW.
        weight_decay: on matrices, but not on embeddings.
        clip: norm of the gradient.
        patch_weight: of the auxiliary loss (:func:`~experiments.studies.pretraining.run.patch_loss`).
    """

    steps: int = 8000
    images: int = 16
    texts: int = 8
    learning_rate: float = 1e-3
    warmup_steps: int = 300
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.05
    clip: float = 1.0
    patch_weight: float = 1.0

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))

    def parameter_groups(self, model: nn.Module) -> list[dict]:
        """Weight decay on matrices only, not on biases, norms and embeddings."""
        decayed, free = [], []
        for name, parameter in model.named_parameters():
            (decayed if parameter.dim() > 1 and "embedding" not in name else free).append(parameter)
        return [{"params": decayed, "weight_decay": self.weight_decay}, {"params": free, "weight_decay": 0.0}]


@dataclass
class Mini:
    """A small model and how it reads pre-training texts.

    Args:
        name: of the shipped checkpoint, see :mod:`experiments.base.shipped`.
        recipe: by which the shipped checkpoint was trained.
        starts: the token that begins what the decoder writes.
        prompts_captions: whether captions have a prompt.
        build: makes the model of a tokenizer, freshly initialised.
        arrange: makes tensors of the tokenizer and the texts about some images.
        read: from the model, the image encoder's states ``(images, nodes, width)`` and such tensors to the
            logits and labels that :func:`~experiments.studies.pretraining.run.text_loss` takes.
    """

    name: str
    recipe: Recipe
    starts: str
    prompts_captions: bool
    build: Callable[[PreTrainedTokenizerBase], PreTrainedModel]
    arrange: Callable[[PreTrainedTokenizerBase, Texts], dict[str, Tensor]]
    read: Callable[[PreTrainedModel, Tensor, dict[str, Tensor]], list[tuple[Tensor, dict[str, Tensor]]]]

    @property
    def checkpoint(self) -> Path:
        """The folder of the shipped checkpoint."""
        return CHECKPOINTS / self.name

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of all words of the scenes."""
        tokenizer = build_tokenizer(all_words())
        tokenizer.bos_token = self.starts
        return tokenizer


# ---- mini-BLIP: a row for each image -----------------------------------------------------------------------


def pack(
    tokenizer: PreTrainedTokenizerBase, texts: list[list[tuple[str, str]]], row_length: int
) -> dict[str, Tensor]:
    """Packs each image's (prompt, answer) texts into one row, as BLIP reads them.

    A row attends to its image once, and a block-diagonal mask keeps its texts apart, so the loss is the same
    as with one row per text, for a fraction of the cost.

    Returns:
        ``input_ids``, ``position_ids``, ``labels`` and ``segments``, each ``(images, row_length)`` int64, and
        ``weights``, float32. Positions start anew in each text; labels are as in
        :func:`~experiments.models.generation.sequence_batch`; segments number the texts of a row from 1 and
        are 0 on padding. An answer of :math:`n` tokens weighs :math:`n^{-1/2}` per token, else captions, of
        mostly predictable wording, would drown the answers of one word.
    """
    encoded = iter(_encode(tokenizer, [pair for row in texts for pair in row]))
    ids = np.full((len(texts), row_length), tokenizer.pad_token_id)
    labels = np.full_like(ids, IGNORED)
    positions, segments = np.zeros_like(ids), np.zeros_like(ids)
    weights = np.zeros(ids.shape, np.float32)
    for row, row_texts in enumerate(texts):
        start = 0
        for number in range(1, len(row_texts) + 1):
            prefix, answer = next(encoded)
            middle, end = start + len(prefix), start + len(prefix) + len(answer)
            if end > row_length:
                continue
            ids[row, start:end] = prefix + answer
            labels[row, middle:end] = answer
            weights[row, middle:end] = len(answer) ** -0.5
            positions[row, start:end] = np.arange(end - start)
            segments[row, start:end] = number
            start = end
    arrays = {
        "input_ids": ids,
        "position_ids": positions,
        "labels": labels,
        "segments": segments,
        "weights": weights,
    }
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _encode(tokenizer, pairs: list[tuple[str, str]]) -> list[tuple[list[int], list[int]]]:
    """Ids of ``[DEC] prompt`` and of ``answer [SEP]``, for many pairs at once."""
    options = dict(add_special_tokens=False, return_attention_mask=False, return_token_type_ids=False)
    prompts = tokenizer([prompt for prompt, _ in pairs], **options)["input_ids"]
    answers = tokenizer([answer for _, answer in pairs], **options)["input_ids"]
    return [
        ([tokenizer.bos_token_id, *prompt], [*answer, tokenizer.sep_token_id])
        for prompt, answer in zip(prompts, answers, strict=True)
    ]


def block_causal_mask(segments: Tensor) -> Tensor:
    """Additive attention mask ``(B, 1, L, L)``: a token sees itself and the earlier tokens of its text."""
    allowed = (segments[:, :, None] == segments[:, None, :]).tril()
    return torch.zeros(allowed.shape, device=segments.device).masked_fill(~allowed, -1e9).unsqueeze(1)


def read_packed(
    model: PreTrainedModel, states: Tensor, batch: dict[str, Tensor]
) -> list[tuple[Tensor, dict[str, Tensor]]]:
    """mini-BLIP: all texts about an image in one row of the decoder, each with its prompt before it."""
    masked = {**batch, "attention_mask": block_causal_mask(batch["segments"])}
    return [(decoder_logits(model, states, masked), batch)]


# ---- mini-mPLUG: a row for each text -----------------------------------------------------------------------


def rows(tokenizer: PreTrainedTokenizerBase, texts: list[list[Prompt]]) -> dict[str, Tensor]:
    """Each image's (prompt, answer) texts, one in a row: captions, whose prompt is left out, and questions.

    The states of image and question that mPLUG's decoder looks at are a text's own, so texts cannot share a
    row as BLIP's do. What the image encoder sees is repeated instead.

    Returns:
        For captions, and where there are any for questions: ``image`` ``(b,)``, the image that each text is
        about; what :func:`~experiments.models.generation.sequence_batch` makes of the answers; and their
        ``weights``, as in :func:`pack`. For questions also what
        :func:`~experiments.models.mplug.question_batch` returns. Keys begin with ``caption.`` or
        ``question.``.
    """
    numbered = [(image, *text) for image, row in enumerate(texts) for text in row]
    captions = [text for text in numbered if text[1] in CAPTION_PROMPTS]
    questions = [text for text in numbered if text[1] not in CAPTION_PROMPTS]
    batch = {}
    for name, chosen in (("caption", captions), ("question", questions)):
        if not chosen:
            continue
        images, prompts, answers = map(list, zip(*chosen, strict=True))
        written = sequence_batch(tokenizer, [""] * len(answers), answers)
        targets = written["labels"] != IGNORED
        written["weights"] = targets * targets.sum(1, keepdim=True) ** -0.5
        asked = question_batch(tokenizer, prompts, training=True) if name == "question" else {}
        for key, value in {"image": torch.tensor(images), **written, **asked}.items():
            batch[f"{name}.{key}"] = value
    return batch


def read_rows(
    model: PreTrainedModel, states: Tensor, batch: dict[str, Tensor]
) -> list[tuple[Tensor, dict[str, Tensor]]]:
    """mini-mPLUG: questions and captions in rows of their own, which share the states of their image."""
    read = []
    for name in ("caption.", "question."):
        part = {key.removeprefix(name): value for key, value in batch.items() if key.startswith(name)}
        if part:
            own = states.index_select(0, part["image"])
            seen = model.looked_at(own, part.get("question_ids"), part.get("question_mask"))
            logits = decoder_logits(model, seen.last_hidden_state, part, seen.attention_mask)
            read.append((logits, part))
    return read


ROW_LENGTH = 128  # tokens in the packed row of an image
MINIS = {
    DEFAULT: Mini(
        name=DEFAULT,
        recipe=Recipe(),
        starts="[DEC]",
        prompts_captions=True,
        build=build_model,
        arrange=partial(pack, row_length=ROW_LENGTH),
        read=read_packed,
    ),
    "mini-mplug": Mini(
        name="mini-mplug",
        recipe=Recipe(texts=5),
        starts="[CLS]",
        prompts_captions=False,
        build=build_mini,
        arrange=rows,
        read=read_rows,
    ),
}
