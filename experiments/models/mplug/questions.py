"""Questions as mPLUG reads them: ``[CLS] question``, without an end token."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

QUESTION, QUESTION_IN_PARTS = 25, 80  # tokens in training, without and with further parts


def question_batch(
    tokenizer: PreTrainedTokenizerBase, questions: Sequence[str], training: bool = False
) -> dict[str, Tensor]:
    """``question_ids`` and ``question_mask`` ``(b, n)``, padded on the right.

    Args:
        tokenizer: BERT's, or one like it.
        questions: texts, further parts after ``[SEP]``.
        training: whether long ones are cut as mPLUG cuts them in training.
    """
    rows = []
    for ids in tokenizer(list(questions), add_special_tokens=False, verbose=False)["input_ids"]:
        most = tokenizer.model_max_length
        if training:
            most = min(most, QUESTION_IN_PARTS if tokenizer.sep_token_id in ids else QUESTION)
        rows.append(torch.tensor([tokenizer.cls_token_id, *ids[: most - 1]]))
    padded = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=tokenizer.pad_token_id)
    lengths = torch.tensor([len(row) for row in rows])
    return {
        "question_ids": padded,
        "question_mask": (torch.arange(padded.shape[1]) < lengths[:, None]).long(),
    }
