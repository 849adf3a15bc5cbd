"""A pre-training run in a folder, which can be stopped at any time and goes on where it was."""

from __future__ import annotations

import csv
import io
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from attngraph.errors import UserError
from experiments.base.errors import first_line
from experiments.base.files import published, whole, write_bytes, write_json
from experiments.base.outputs import TRAINING_STATE, Outputs
from experiments.base.progress import Progress
from experiments.models.generation import IGNORED, encode_images
from experiments.models.images import normalise
from experiments.models.loading import load_family
from experiments.models.weights import quiet_transformers
from experiments.runs.data import begin_loader
from experiments.runs.device import mixed_precision, training_precision
from experiments.scenes.drawing import COLOR_CLASSES, SHAPE_CLASSES, draw, patch_targets
from experiments.scenes.scene import generator, scenes
from experiments.studies.pretraining import scoring
from experiments.studies.pretraining.minis import Mini, Recipe, Texts
from experiments.studies.pretraining.texts import pretraining_texts

SAVE_SECONDS = 120
LOG_STEPS = 20
LOG = "training_log.csv"
MODEL = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json")
NAMES = (*MODEL, "tokenizer_config.json", LOG, scoring.SCORES, TRAINING_STATE)


# ---- batches -----------------------------------------------------------------------------------------------


class Steps(Dataset):
    """Item i is the batch of step i; it depends on the seed and on i only, so a run can go on anywhere.

    Args:
        arrange: makes tensors of each image's texts, such as
            :func:`~experiments.studies.pretraining.minis.pack` with a tokenizer.
        seed: of scenes and texts.
        recipe: how many steps, images and texts.
    """

    def __init__(self, arrange: Callable[[Texts], dict[str, Tensor]], seed: int, recipe: Recipe) -> None:
        self.arrange, self.seed, self.recipe = arrange, seed, recipe

    def __len__(self) -> int:
        return self.recipe.steps

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        """The batch of a step.

        Returns:
            ``pixels`` uint8 ``(images, 64, 64, 3)``, ``patch_shapes`` and ``patch_colors`` int64
            ``(images, 64)`` (see :func:`~experiments.scenes.drawing.patch_targets`), and what ``arrange``
            returns.
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


def batches(data: Steps, first: int) -> DataLoader:
    """The steps from number ``first`` on, made ahead by one background process where there are two cores."""
    workers = 1 if (os.cpu_count() or 1) > 1 else 0
    return DataLoader(
        data,
        batch_size=None,
        sampler=range(first, len(data)),
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        worker_init_fn=begin_loader,
    )


# ---- losses ------------------------------------------------------------------------------------------------


def text_loss(parts: Sequence[tuple[Tensor, dict[str, Tensor]]]) -> Tensor:
    r"""Weighted cross-entropy of the next token over answers and end tokens.

    With the log-probability :math:`\ell_i` of target :math:`i` and the batch's weights :math:`w_i`:

    .. math:: -\sum_i w_i \ell_i \Big/ \sum_i w_i

    Args:
        parts: the batch in one or several parts: logits ``(rows, length, vocabulary)``, and the ``labels``
            and ``weights`` ``(rows, length)`` of these rows, as
            :func:`~experiments.studies.pretraining.minis.pack` makes them.
    """
    logits = torch.cat([scores[:, :-1].flatten(0, 1) for scores, _ in parts])
    targets, weights = (
        torch.cat([batch[name][:, 1:].flatten() for _, batch in parts]) for name in ("labels", "weights")
    )
    losses = F.cross_entropy(logits.float(), targets, ignore_index=IGNORED, reduction="none")
    return (losses * weights).sum() / weights.sum()


def patch_loss(scores: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Mean cross-entropy of the shape, plus that of the colour, of the thing that each patch shows.

    From the texts alone the image encoder learns shapes slowly: a text says little about where in the picture
    its words come from.

    Args:
        scores: ``(images, patches, SHAPE_CLASSES + COLOR_CLASSES)``.
        batch: holds ``patch_shapes`` and ``patch_colors``, ``(images, patches)``.
    """
    shapes, colors = scores.float().flatten(0, 1).split((SHAPE_CLASSES, COLOR_CLASSES), dim=-1)
    return F.cross_entropy(shapes, batch["patch_shapes"].flatten()) + F.cross_entropy(
        colors, batch["patch_colors"].flatten()
    )


# ---- the run -----------------------------------------------------------------------------------------------


def pretrain(mini: Mini, out: Path, steps: int | None, seed: int, device: str = "cpu") -> dict[str, float]:
    """Trains, or goes on with the unfinished run that the folder holds; then scores the saved weights.

    Args:
        mini: which model.
        out: the checkpoint's folder.
        steps: of the optimiser; None for as many as the recipe says.
        seed: of the weights and of the scenes.
        device: ``cpu`` or ``cuda``.

    Returns:
        The scores, see :func:`~experiments.studies.pretraining.scoring.skill_scores`.

    Raises:
        UserError: the folder holds something else or a finished checkpoint, or it cannot be written.
    """
    recipe = mini.recipe if steps is None else replace(mini.recipe, steps=steps)
    settings = {"model": mini.name, "seed": seed, **asdict(recipe)}
    outputs = Outputs(out, "pretrain", settings, NAMES)
    with outputs.alone():
        if (out / scoring.SCORES).exists() and not (out / TRAINING_STATE).exists():
            raise UserError(
                f"{out} holds a finished checkpoint; choose another --out, or score it with --check {out}"
            )
        outputs.claim()
        with _saving(out):
            log, seconds = _train(mini, out, recipe, seed, device)
            with whole(out / LOG) as part, open(part, "w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([["step", "loss", "seconds"], *log])
        family = load_family(out)  # the saved float16 weights are scored, not those in memory
        family.model.to(device)
        scores = scoring.skill_scores(family, scoring.SCENES, mini.prompts_captions)
        run = {
            **settings,
            "precision": training_precision(device),
            "date": date.today().isoformat(),
            "minutes": round(seconds / 60, 1),
            "machine": f"{platform.machine()}, {device}, {torch.get_num_threads()} threads",
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "scenes": scoring.SCENES,
        }
        write_json(out / scoring.SCORES, {"run": run, "scores": scores}, indent=2)
        (out / TRAINING_STATE).unlink()
    return scores


def _train(mini: Mini, out: Path, recipe: Recipe, seed: int, device: str) -> tuple[list[list[float]], float]:
    """Trains to the last step and saves the model in float16; the log (step, running mean of the text loss,
    seconds) and the seconds in all.
    """
    torch.manual_seed(seed)
    tokenizer = mini.tokenizer()
    model = mini.build(tokenizer).to(device).train()
    # Says what each patch shows; dropped with the training state.
    head = nn.Linear(model.config.vision_config.hidden_size, SHAPE_CLASSES + COLOR_CLASSES).to(device)
    trained = nn.ModuleDict({"model": model, "head": head})
    optimizer = torch.optim.AdamW(
        recipe.parameter_groups(trained), lr=recipe.learning_rate, betas=recipe.betas, fused=True
    )
    begun = _restore(out / TRAINING_STATE, trained, optimizer, device)
    step, seconds, running, log = (begun[name] for name in ("step", "seconds", "running", "log"))

    def learn(batch: dict[str, Tensor]) -> float:
        """One optimiser step; the loss of the texts."""
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
        return loss.item()

    def save_state() -> None:
        state = {"step": step, "seconds": seconds, "running": running, "log": log}
        content = io.BytesIO()
        torch.save({**state, "trained": trained.state_dict(), "optimizer": optimizer.state_dict()}, content)
        write_bytes(out / TRAINING_STATE, content.getvalue())

    save_state()  # from now on the folder is known to be unfinished
    data = Steps(partial(mini.arrange, tokenizer), seed, recipe)
    bar = Progress(
        batches(data, step), initial=step, total=recipe.steps, desc="pretrain", unit="step", smoothing=0.02
    )
    began, saved = time.monotonic() - seconds, time.monotonic()
    for batch in bar:
        loss = learn({name: tensor.to(device) for name, tensor in batch.items()})
        step += 1
        seconds = time.monotonic() - began
        running = loss if running is None else 0.98 * running + 0.02 * loss
        if step % LOG_STEPS == 0 or step == recipe.steps:
            log.append([step, round(running, 4), round(seconds, 1)])
            bar.set_postfix(loss=f"{running:.3f}", refresh=False)
        if time.monotonic() - saved > SAVE_SECONDS:
            save_state()
            saved = time.monotonic()
    save_state()
    with published(out) as folder, quiet_transformers():
        tokenizer.save_pretrained(folder)
        model.cpu().half().save_pretrained(folder)
    return log, seconds


def _restore(file: Path, trained: nn.Module, optimizer: torch.optim.Optimizer, device: str) -> dict[str, Any]:
    """How far the unfinished run is, whose weights are taken up; step 0 where there is none.

    Raises:
        UserError: its state is damaged.
    """
    if not file.exists():
        return {"step": 0, "seconds": 0.0, "running": None, "log": []}
    try:
        state = torch.load(file, map_location=device, weights_only=True)
        trained.load_state_dict(state["trained"])
        optimizer.load_state_dict(state["optimizer"])
        return {name: state[name] for name in ("step", "seconds", "running", "log")}
    except Exception as error:
        raise UserError(
            f"{file} cannot be read ({type(error).__name__}: {first_line(error)}); choose another --out, "
            f"or delete {file.parent} to begin anew"
        ) from None


@contextmanager
def _saving(out: Path) -> Iterator[None]:
    """One line where the disk is full: safetensors has an error of its own for it."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{out} cannot be saved to ({type(error).__name__}: {first_line(error)}); make room on the disk, "
            "and the same command goes on from the last state that was saved"
        ) from error
