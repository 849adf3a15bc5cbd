"""The tokens of a batch's texts, as the analysis of graphs needs them beside the ids."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

# How vocabularies mark the pieces of a word: what continues it (BERT), what begins it (SentencePiece), the
# space before it in an alphabet of bytes (GPT-2), or what ends it (CLIP).
PIECE, START, BYTES, CLOSED = "##", "▁", "Ġ", "</w>"


@dataclass(frozen=True, eq=False)
class Text:
    """The tokens of a batch's texts, padding included.

    Args:
        tokens: ``b`` lists of ``n``.
        token_ids, special, padding: ``(b, n)``: ids, whether they are special tokens, whether they are
            padding.
        prompt: ``(b,)``, where the answer begins, padding before it included; None where unknown.
        pieces: how the vocabulary marks the pieces of words: ``PIECE``, ``START``, ``BYTES`` or ``CLOSED``.
    """

    tokens: list[list[str]]
    token_ids: Tensor
    special: Tensor
    padding: Tensor
    prompt: Tensor | None = None
    pieces: str = PIECE

    @staticmethod
    def of(
        tokenizer: PreTrainedTokenizerBase, ids: Tensor, mask: Tensor | None, prompt: Tensor | None = None
    ) -> Text:
        """The text of ids ``(b, n)``, of which ``mask`` is 0 at padding."""
        special = torch.isin(ids, torch.tensor(tokenizer.all_special_ids))
        padding = torch.zeros_like(special) if mask is None else mask == 0
        tokens = [tokenizer.convert_ids_to_tokens(row) for row in ids.tolist()]
        return Text(tokens, ids, special, padding, prompt, pieces_of(tokenizer))


def pieces_of(tokenizer: PreTrainedTokenizerBase) -> str:
    """How a vocabulary marks the pieces of words: ``PIECE``, ``START``, ``BYTES`` or ``CLOSED``."""
    words = tokenizer.tokenize("a a")
    if words[-1].endswith(CLOSED):
        return CLOSED
    return next((mark for mark in (START, BYTES) if any(word.startswith(mark) for word in words)), PIECE)
