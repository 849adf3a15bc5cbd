"""Pictures, questions and answers for a tiny mPLUG."""

from __future__ import annotations

import torch
from torch import Tensor

QUESTIONS = torch.tensor([[2, 5, 6, 7, 8], [2, 8, 6, 0, 0]])
ANSWERS = torch.tensor([[2, 7, 5, 8, 6, 3], [2, 6, 6, 8, 3, 0]])
PADDING = 0


def inputs(asks: bool = True) -> dict[str, Tensor]:
    """Two pictures with questions and answers, or with captions; the second of each is padded."""
    pixels = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(4))
    question = {"input_ids": QUESTIONS, "attention_mask": (QUESTIONS != PADDING).long()} if asks else {}
    return {
        "pixel_values": pixels,
        **question,
        "decoder_input_ids": ANSWERS,
        "decoder_attention_mask": (ANSWERS != PADDING).long(),
    }
