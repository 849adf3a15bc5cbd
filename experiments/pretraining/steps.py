"""The batches of pre-training: new scenes and texts in each step."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from experiments.pretraining.texts import pretraining_texts
from experiments.pretraining.words import Prompt
from experiments.scenes.drawing import draw, patch_targets
from experiments.scenes.scene import generator, scenes
from experiments.training.stopping import SIGNALS, end_with_parent

Arrange = Callable[[list[list[Prompt]]], dict[str, Tensor]]


class Steps(Dataset):
    """Item i is the batch of step i; it depends on the seed and on i only, so a run can go on anywhere.

    Args:
        arrange: makes tensors of each image's texts, such as
            :func:`~experiments.pretraining.packing.pack` with a tokenizer.
        seed: of scenes and texts.
        steps: number of items.
        images: new scenes in each step.
        texts: texts written about each scene.
    """

    def __init__(self, arrange: Arrange, seed: int, steps: int, images: int, texts: int) -> None:
        self.arrange, self.seed, self.steps, self.images, self.texts = arrange, seed, steps, images, texts

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        """The batch of a step.

        Returns:
            ``pixels`` uint8 ``(images, 64, 64, 3)``, ``patch_shapes`` and ``patch_colors`` int64
            ``(images, 64)`` (see :func:`~experiments.scenes.drawing.patch_targets`), and what ``arrange``
            returns.
        """
        drawn = list(scenes("train", self.images, self.seed, "pretrain", start=step * self.images))
        texts = [
            pretraining_texts(scene, generator(self.seed, 1, step, number), self.texts)
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
        worker_init_fn=_prepare_worker,
    )


def _prepare_worker(_: int) -> None:
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    for number in SIGNALS:  # the main process has handlers of its own
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the main process to handle
    end_with_parent()
