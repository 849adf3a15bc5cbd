"""Pre-training batches of BLIP: all the texts about an image in one decoder row.

A row attends to its image once, and a block-diagonal mask keeps its texts apart, so the loss is the same as
with one row per text, for a fraction of the cost.
"""

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from experiments.models.batch import IGNORED


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
