"""Pre-training of the mini-BLIP and the mini-mPLUG from scratch on synthetic scenes.

Every step generates new scenes with several texts about each
(:mod:`~attngraph.experiments.studies.pretrain_texts`). :data:`MINIS` has the definitions of both models,
:func:`pretrain` trains a model and saves it in a folder, and :func:`skill_scores` measures a model's skills.
"""

from __future__ import annotations

import math
import string
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import transformers
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from transformers import BertTokenizerFast, PreTrainedModel, PreTrainedTokenizerBase

from attngraph.experiments.base.config import Config, read_config
from attngraph.experiments.base.files import write_json
from attngraph.experiments.base.outputs import Outputs
from attngraph.experiments.base.progress import Progress
from attngraph.experiments.base.shipped import CHECKPOINTS, DEFAULT
from attngraph.experiments.models.batch import Sample, token_losses
from attngraph.experiments.models.blip import build_model
from attngraph.experiments.models.family import Decoding, ModelFamily
from attngraph.experiments.models.generation import IGNORED, decoder_logits, encode_images, sequence_batch
from attngraph.experiments.models.images import normalise
from attngraph.experiments.models.loading import load_family
from attngraph.experiments.models.mplug import MPlug, question_batch
from attngraph.experiments.models.mplug.modeling import build_mini
from attngraph.experiments.models.weights import quiet_transformers
from attngraph.experiments.runs.device import mixed_precision, training_precision
from attngraph.experiments.scenes.drawing import COLOR_CLASSES, SHAPE_CLASSES, draw, patch_targets
from attngraph.experiments.scenes.scene import generator, scenes
from attngraph.experiments.scenes.words import all_words
from attngraph.experiments.studies.pretrain_texts import CAPTION_PROMPTS, KINDS, Prompt, pretraining_texts

Texts = list[list[Prompt]]  # of each image
Read = list[tuple[Tensor, dict[str, Tensor]]]  # logits, and their labels and weights

ROW_LENGTH = 128  # tokens in the packed row of an image
LOG_STEPS = 20
LOG, SCORES = "training_log.csv", "scores.json"
NAMES = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json")
NAMES += ("tokenizer_config.json", LOG, SCORES)
SCENES, BATCH = 600, 200  # that are scored; answers at once
TOLERANCE = 0.01  # of the same checkpoint scored on another machine: every score


# ---- the tokenizer -----------------------------------------------------------------------------------------

SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]"]  # BLIP: [DEC] starts, [SEP] ends
MAX_TOKENS = 128

# Every word of the public easy-VQA data set, spelled out so that it need not be installed.
EASY_VQA_WORDS = """
    a any black blue brown circle color contain does gray green have image in is no not of present rectangle
    red shape teal the there triangle what yellow yes
""".split()


def build_tokenizer(words: Iterable[str]) -> BertTokenizerFast:
    """A tokenizer of BLIP's type for ``words``: greedy WordPiece of lower-case texts, in which each of these
    words and those of easy-VQA is one token. Any other lower-case ASCII word is split into known pieces and
    characters, so that [UNK] does not occur (except for words of more than 100 characters, BERT's limit).

    Args:
        words: lower-case words in any order; those with punctuation inside are split into pieces.
    """
    characters = [c for c in map(chr, range(33, 127)) if not c.isupper()]
    continuations = ["##" + c for c in string.ascii_lowercase + string.digits]
    whole = sorted({w for w in (*words, *EASY_VQA_WORDS) if w.isalnum() and w.islower()})
    tokens = dict.fromkeys([*SPECIAL_TOKENS, *characters, *continuations, *whole])
    # Given as vocab=, not vocab_file=: the latter silently yields an empty vocabulary in transformers 5.
    return BertTokenizerFast(
        vocab={token: index for index, token in enumerate(tokens)},
        do_lower_case=True,
        bos_token="[DEC]",
        model_max_length=MAX_TOKENS,
    )


# ---- mini-BLIP: a row for each image -----------------------------------------------------------------------


def pack(tokenizer: PreTrainedTokenizerBase, texts: Texts, row_length: int = ROW_LENGTH) -> dict[str, Tensor]:
    """Packs each image's (prompt, answer) texts into one row, in the format of BLIP.

    A row attends to its image once, and a block-diagonal mask separates its texts, so the loss is the same as
    with one row per text, for a fraction of the cost.

    Returns:
        ``input_ids``, ``position_ids``, ``labels`` and ``segments``, each ``(images, row_length)`` int64, and
        ``weights``, float32. Positions restart in each text; labels are as in
        :func:`~attngraph.experiments.models.generation.sequence_batch`; segments number the texts of a row
        from 1 and are 0 on padding. An answer of :math:`n` tokens has the weight :math:`n^{-1/2}` per token,
        since otherwise captions, with mostly predictable wording, would dominate answers of one word.
    """
    pairs = [pair for row in texts for pair in row]
    prompts, answers = (
        iter(tokenizer(list(part), add_special_tokens=False)["input_ids"])
        for part in zip(*pairs, strict=True)
    )
    ids = np.full((len(texts), row_length), tokenizer.pad_token_id)
    labels = np.full_like(ids, IGNORED)
    positions, segments = np.zeros_like(ids), np.zeros_like(ids)
    weights = np.zeros(ids.shape, np.float32)
    for row, row_texts in enumerate(texts):
        start = 0
        for number in range(1, len(row_texts) + 1):
            prefix = [tokenizer.bos_token_id, *next(prompts)]
            answer = [*next(answers), tokenizer.sep_token_id]
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


def block_causal_mask(segments: Tensor) -> Tensor:
    """Additive attention mask ``(B, 1, L, L)``: a token sees itself and the earlier tokens of its text."""
    allowed = (segments[:, :, None] == segments[:, None, :]).tril()
    return torch.zeros(allowed.shape, device=segments.device).masked_fill(~allowed, -1e9).unsqueeze(1)


def read_packed(model: PreTrainedModel, states: Tensor, batch: dict[str, Tensor]) -> Read:
    """mini-BLIP: all texts about an image in one row of the decoder, each with its prompt before it."""
    masked = {**batch, "attention_mask": block_causal_mask(batch["segments"])}
    return [(decoder_logits(model, states, masked), batch)]


# ---- mini-mPLUG: a row for each text -----------------------------------------------------------------------


def rows(tokenizer: PreTrainedTokenizerBase, texts: Texts) -> dict[str, Tensor]:
    """Each image's (prompt, answer) texts, one per row: captions, without a prompt, and questions.

    The states that mPLUG's decoder attends to depend on the question, so texts cannot share a row as in BLIP.
    Image features are repeated instead.

    Returns:
        For captions, and for questions if there are any: ``image`` ``(b,)``, index of each text's image; the
        result of :func:`~attngraph.experiments.models.generation.sequence_batch` for the answers; and their
        ``weights``, as in :func:`pack`. For questions also the result of
        :func:`~attngraph.experiments.models.mplug.question_batch`. Keys begin with ``caption.`` or
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


def read_rows(model: PreTrainedModel, states: Tensor, batch: dict[str, Tensor]) -> Read:
    """mini-mPLUG: questions and captions in separate rows, which share the features of their image."""
    read = []
    for name in ("caption.", "question."):
        part = {key.removeprefix(name): value for key, value in batch.items() if key.startswith(name)}
        if part:
            own = states.index_select(0, part["image"])
            seen = model.encoder_states(own, part.get("question_ids"), part.get("question_mask"))
            logits = decoder_logits(model, seen.last_hidden_state, part, seen.attention_mask)
            read.append((logits, part))
    return read


# ---- the two models ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    """Data of each step, and settings of AdamW."""

    steps: int = 8000
    images: int = 16  # new ones in each step; few, so that there are many steps
    texts: int = 8  # about each image, one of them a caption
    learning_rate: float = 1e-3  # at its highest
    warmup_steps: int = 300  # linear; a cosine down to 1 % follows
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.05  # on matrices, but not on embeddings
    clip: float = 1.0  # norm of the gradient
    patch_weight: float = 1.0  # of the auxiliary loss (:func:`patch_loss`)

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
    """A small model with its format of pre-training texts.

    Args:
        name: name of the shipped checkpoint, see :mod:`attngraph.experiments.base.shipped`.
        recipe: recipe of the shipped checkpoint.
        starts: start token of generated texts.
        build: makes a newly initialised model for a tokenizer.
        arrange: makes tensors from the tokenizer and the texts about some images.
        read: maps the model, image features ``(images, nodes, width)`` and these tensors to the logits and
            labels for :func:`text_loss`.
    """

    name: str
    recipe: Recipe
    starts: str
    build: Callable[[PreTrainedTokenizerBase], PreTrainedModel]
    arrange: Callable[[PreTrainedTokenizerBase, Texts], dict[str, Tensor]]
    read: Callable[[PreTrainedModel, Tensor, dict[str, Tensor]], Read]

    @property
    def checkpoint(self) -> Path:
        """The folder of the shipped checkpoint."""
        return CHECKPOINTS / self.name

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of all words of the scenes."""
        tokenizer = build_tokenizer(all_words())
        tokenizer.bos_token = self.starts
        return tokenizer


MINIS = {
    mini.name: mini
    for mini in (
        Mini(DEFAULT, Recipe(), "[DEC]", build_model, pack, read_packed),
        Mini("mini-mplug", Recipe(texts=5), "[CLS]", build_mini, rows, read_rows),
    )
}


# ---- training ----------------------------------------------------------------------------------------------


class Steps(Dataset):
    """Item i is the batch of step i; it depends on the seed and on i only.

    Args:
        arrange: makes tensors from each image's texts, such as :func:`pack` with a tokenizer.
        seed: seed of scenes and texts.
        recipe: numbers of steps, images and texts.
    """

    def __init__(self, arrange: Callable[[Texts], dict[str, Tensor]], seed: int, recipe: Recipe) -> None:
        self.arrange, self.seed, self.recipe = arrange, seed, recipe

    def __len__(self) -> int:
        return self.recipe.steps

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        """The batch of a step.

        Returns:
            ``pixels`` uint8 ``(images, 64, 64, 3)``, ``patch_shapes`` and ``patch_colors`` int64
            ``(images, 64)`` (see :func:`~attngraph.experiments.scenes.drawing.patch_targets`), and the result
            of ``arrange``.
        """
        images = self.recipe.images
        drawn = list(scenes("train", images, self.seed, "pretrain", start=step * images))
        texts = [
            pretraining_texts(scene, generator(self.seed, 1, step, number), self.recipe.texts)
            for number, scene in enumerate(drawn)
        ]
        pixels = torch.from_numpy(np.stack([np.asarray(draw(scene)) for scene in drawn]))
        shapes, colors = (
            torch.from_numpy(np.stack(targets)) for targets in zip(*map(patch_targets, drawn), strict=True)
        )
        return {"pixels": pixels, "patch_shapes": shapes, "patch_colors": colors, **self.arrange(texts)}


def text_loss(parts: Sequence[tuple[Tensor, dict[str, Tensor]]]) -> Tensor:
    r"""Weighted cross-entropy of the next token over answers and end tokens.

    With the log-probability :math:`\ell_i` of target :math:`i` and the batch's weights :math:`w_i`:

    .. math:: -\sum_i w_i \ell_i \Big/ \sum_i w_i

    Args:
        parts: the batch in one or several parts: logits ``(rows, length, vocabulary)``, and the ``labels``
            and ``weights`` ``(rows, length)`` of these rows, as in the result of :func:`pack`.
    """
    logits = torch.cat([scores[:, :-1].flatten(0, 1) for scores, _ in parts])
    targets, weights = (
        torch.cat([batch[name][:, 1:].flatten() for _, batch in parts]) for name in ("labels", "weights")
    )
    losses = F.cross_entropy(logits.float(), targets, ignore_index=IGNORED, reduction="none")
    return (losses * weights).sum() / weights.sum()


def patch_loss(scores: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Mean cross-entropy of the shape, plus that of the colour, of the thing in each patch.

    From texts alone the image encoder learns shapes slowly, since texts contain little information about
    positions in the image.

    Args:
        scores: ``(images, patches, SHAPE_CLASSES + COLOR_CLASSES)``.
        batch: contains ``patch_shapes`` and ``patch_colors``, ``(images, patches)``.
    """
    shapes, colors = scores.float().flatten(0, 1).split((SHAPE_CLASSES, COLOR_CLASSES), dim=-1)
    return F.cross_entropy(shapes, batch["patch_shapes"].flatten()) + F.cross_entropy(
        colors, batch["patch_colors"].flatten()
    )


def pretrain(mini: Mini, out: Path, steps: int | None, seed: int, device: str = "cpu") -> dict[str, float]:
    """Train a model and score the saved weights; the checkpoint is moved to the folder at the end.

    Args:
        mini: the model.
        out: the checkpoint's folder.
        steps: number of optimiser steps; None for the recipe's.
        seed: seed of the weights and of the scenes.
        device: ``cpu`` or ``cuda``.

    Returns:
        The scores, see :func:`skill_scores`.

    Raises:
        UserError: the folder contains something else.
    """
    recipe = mini.recipe if steps is None else replace(mini.recipe, steps=steps)
    settings = {"model": mini.name, "seed": seed, **asdict(recipe)}
    outputs = Outputs(out, "pretrain", settings, NAMES)
    with outputs.alone():
        began = time.monotonic()
        tokenizer, model, log = _trained(mini, recipe, seed, device)
        run = {
            **settings,
            "precision": training_precision(device),
            "minutes": round((time.monotonic() - began) / 60, 1),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "scenes": SCENES,
        }
        with outputs.writing() as folder:
            log.to_csv(folder / LOG, index=False)
            with quiet_transformers():
                tokenizer.save_pretrained(folder)
                model.cpu().half().save_pretrained(folder)
            family = load_family(folder)  # the saved float16 weights are scored, not those in memory
            family.model.to(device)
            scores = skill_scores(family, SCENES)
            write_json(folder / SCORES, {"run": run, "scores": scores}, indent=2)
    return scores


def _trained(
    mini: Mini, recipe: Recipe, seed: int, device: str
) -> tuple[PreTrainedTokenizerBase, PreTrainedModel, pd.DataFrame]:
    """Tokenizer, model, and the log: step, running mean of the text loss, seconds."""
    torch.manual_seed(seed)
    tokenizer = mini.tokenizer()
    model = mini.build(tokenizer).to(device).train()
    # Says what each patch shows; not saved.
    head = nn.Linear(model.config.vision_config.hidden_size, SHAPE_CLASSES + COLOR_CLASSES).to(device)
    trained = nn.ModuleDict({"model": model, "head": head})
    optimizer = torch.optim.AdamW(
        recipe.parameter_groups(trained), lr=recipe.learning_rate, betas=recipe.betas, fused=True
    )
    data = Steps(partial(mini.arrange, tokenizer), seed, recipe)
    ahead = DataLoader(data, batch_size=None, num_workers=1, prefetch_factor=4)
    bar = Progress(ahead, total=recipe.steps, desc="pretrain", unit="step", smoothing=0.02)
    began, running, log = time.monotonic(), None, []
    for step, batch in enumerate(bar):
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate(step)
        with mixed_precision(device):
            states = encode_images(model, normalise(batch["pixels"]))
            loss = text_loss(mini.read(model, states, batch))
            total = loss + recipe.patch_weight * patch_loss(head(states[:, 1:]), batch)
        total.backward()
        nn.utils.clip_grad_norm_(trained.parameters(), recipe.clip)
        optimizer.step()
        optimizer.zero_grad()
        running = loss.item() if running is None else 0.98 * running + 0.02 * loss.item()
        if (step + 1) % LOG_STEPS == 0 or step + 1 == recipe.steps:
            log.append((step + 1, round(running, 4), round(time.monotonic() - began, 1)))
            bar.set_postfix(loss=f"{running:.3f}", refresh=False)
    return tokenizer, model, pd.DataFrame(log, columns=["step", "loss", "seconds"])


# ---- scores on held-out scenes -----------------------------------------------------------------------------


def skill_scores(family: ModelFamily, count: int) -> dict[str, float]:
    """Scores on ``count`` held-out scenes, with one text of each possible kind about each scene.

    Returns:
        ``exact_<kind>``: fraction of generated answers that equal the correct one, for each kind of prompt
        except captions, whose wording varies; ``exact_average``: the mean of these; ``caption_loss``: mean
        loss per caption token.
    """
    family.model.eval()
    tokenizer = family.tokenizer
    shown = list(scenes("validation", count, 0, "pretrain"))
    states = family.encode_images([draw(scene) for scene in shown])
    exact, caption_loss = {}, 0.0
    for kind, write in Progress(sorted(KINDS.items()), "scoring", leave=False):
        written = [
            (state, write(scene, generator(7, k))) for k, (state, scene) in enumerate(zip(states, shown))
        ]
        samples = [Sample(kind, state, *text) for state, text in written if text]
        if not samples:
            continue
        if kind == "caption":
            if family.name == MPlug.name:  # whose captions have no prompt
                samples = [replace(sample, prompt="") for sample in samples]
            caption_loss = _mean_loss(family, samples)
            continue
        guesses = []
        for start in range(0, len(samples), BATCH):
            guesses += family.generate(samples[start : start + BATCH], Decoding(max_new_tokens=32))
        # as the model would write them: through the tokenizer and back
        right = [
            tokenizer.decode(tokenizer(sample.answer, add_special_tokens=False)["input_ids"])
            for sample in samples
        ]
        hits = [guess == answer for guess, answer in zip(guesses, right, strict=True)]
        exact[f"exact_{kind}"] = float(np.mean(hits))
    scores = {**exact, "exact_average": float(np.mean(list(exact.values()))), "caption_loss": caption_loss}
    return {name: round(value, 4) for name, value in scores.items()}


@torch.no_grad()
def _mean_loss(family: ModelFamily, samples: list[Sample]) -> float:
    inputs = family.to_device(family.training_inputs(samples))
    labels = inputs.pop("labels")
    return (token_losses(family.logits(inputs), labels).sum() / (labels[:, 1:] != IGNORED).sum()).item()


class _Saved(Config):
    run: Any = None
    scores: Annotated[dict[str, Annotated[float, Field(allow_inf_nan=False)]], Field(min_length=1)]


def saved_scores(folder: Path) -> dict[str, float]:
    """The scores saved with a checkpoint.

    Raises:
        UserError: ``scores.json`` is missing or damaged.
    """
    return read_config(folder / SCORES, _Saved, "use the folder of a finished `attngraph pretrain`").scores
