"""Pre-training batches: all the texts about an image in one decoder row.

A row attends to its image once, and a block-diagonal mask keeps its texts apart, so the loss is the same as
with one row per text, for a fraction of the cost.
"""

import os
import signal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedTokenizerBase

from experiments.models.generation import IGNORED
from experiments.pretraining.texts import pretraining_texts
from experiments.scenes.drawing import draw
from experiments.scenes.patches import patch_targets
from experiments.scenes.scene import generator, scenes
from experiments.training.stopping import SIGNALS, end_with_parent


class PackedSteps(Dataset):
    """Item i is the batch of step i; it depends on the seed and on i only, so a run can go on anywhere.

    Args:
        tokenizer: from :func:`~experiments.pretraining.tokenizer.build_tokenizer`.
        seed: of scenes and texts.
        steps: number of items.
        images: new scenes in each step.
        texts: texts written about each scene.
        row_length: tokens in a row; texts that do not fit are left out.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        seed: int,
        steps: int,
        images: int,
        texts: int,
        row_length: int,
    ) -> None:
        self.tokenizer, self.seed, self.steps = tokenizer, seed, steps
        self.images, self.texts, self.row_length = images, texts, row_length

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        """The batch of a step.

        Returns:
            ``pixels`` uint8 ``(images, 64, 64, 3)``, ``patch_shapes`` and ``patch_colors`` int64
            ``(images, 64)`` (see :func:`~experiments.scenes.patches.patch_targets`), and what :func:`pack`
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
        seen = {"pixels": pixels, "patch_shapes": shapes, "patch_colors": colors}
        return {**seen, **pack(self.tokenizer, texts, self.row_length)}


def batches(data: PackedSteps, first: int) -> DataLoader:
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


def pack(
    tokenizer: PreTrainedTokenizerBase, texts: list[list[tuple[str, str]]], row_length: int
) -> dict[str, Tensor]:
    """Packs each image's (prompt, answer) texts into one row.

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
