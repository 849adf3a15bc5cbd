"""Which words and which patches of a batch the nodes of an attention graph are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from analysis.maps import OTHERS
from attngraph import AttentionGraph

if TYPE_CHECKING:
    from experiments.source import Batch

MARKS = ("Ġ", "▁")  # where a word begins, in vocabularies of byte pairs and of SentencePiece
CLOSED = "</w>"  # where it ends, in CLIP's


@dataclass(frozen=True, eq=False)
class Text:
    """The tokens of a batch's texts, padding included.

    Args:
        tokens: ``b`` lists of ``n``.
        token_ids, special, padding: ``(b, n)``: ids, whether they are special tokens, whether they are padding.
        prompt: ``(b,)``, how many of the tokens, special ones included, come before the answer; None where unknown.
    """

    tokens: list[list[str]]
    token_ids: Tensor
    special: Tensor
    padding: Tensor
    prompt: Tensor | None = None

    @staticmethod
    def of(tokenizer: PreTrainedTokenizerBase, ids: Tensor, mask: Tensor | None, prompt: Tensor | None = None) -> Text:
        """The text of ids, of which ``mask`` is 0 at padding."""
        special = torch.isin(ids, torch.tensor(tokenizer.all_special_ids))
        padding = torch.zeros_like(special) if mask is None else mask == 0
        return Text([tokenizer.convert_ids_to_tokens(row) for row in ids.tolist()], ids, special, padding, prompt)


@dataclass(frozen=True, eq=False)
class Words:
    """What a side's nodes are. All ``(b, nodes)``.

    Args:
        there: which nodes are tokens of the text; others have ``""``, -1 and False in what follows.
        tokens: strings.
        token_ids, special, padding: as in :class:`Text`.
    """

    there: Tensor
    tokens: np.ndarray
    token_ids: Tensor
    special: Tensor
    padding: Tensor

    def whole(self) -> list[list[str]]:
        """See :func:`whole_words`."""
        return whole_words(self.tokens.tolist(), self.special | ~self.there)


def written(batch: Batch) -> Text | None:
    """The text that the model writes: the decoder's own where there is one."""
    if batch.decoder is not None or batch.tokens is None:
        return batch.decoder
    return Text(**{field.name: getattr(batch, field.name) for field in fields(Text)})


def words_of(batch: Batch, graph: AttentionGraph, side: int) -> Words | None:
    """The words that the query (0) or value nodes (1) are; None where they are none of the batch's.

    The nodes of an encoder-decoder's decoder (its causal self-attention, and the queries of its cross-attention) are the
    decoder's text. In a sequence of text and image, either all tokens are nodes, those that keep the images' places
    too, or the text nodes are the tokens in order.
    """
    decoder = batch.decoder is not None and graph.causal and (graph.kind == "self" or side == 0)
    if not decoder and batch.tokens is None:
        return None
    text = batch.decoder if decoder else batch  # they have the same fields
    b, nodes, width = graph.shape[0], graph.shape[2 + side], len(text.tokens[0])
    image = graph.is_image()[side]
    there = torch.ones(b, nodes, dtype=torch.bool) if image is None else ~image.cpu()
    if not there.any():
        return None
    if nodes == width:
        taken = there
    elif image is not None and (there.sum(1) == width).all():
        taken = torch.ones(b, width, dtype=torch.bool)
    else:
        return None
    tokens = np.full((b, nodes), "", dtype=object)
    tokens[there.numpy()] = np.array(text.tokens, dtype=object).reshape(b, width)[taken.numpy()]

    def put(given: Tensor | None, empty: int) -> Tensor:
        given = torch.full((b, width), empty) if given is None else given.cpu()
        return torch.full((b, nodes), empty, dtype=given.dtype).masked_scatter(there, given[taken])

    return Words(there, tokens, put(text.token_ids, -1), put(text.special, False), put(text.padding, False))


def patches_of(batch: Batch, graph: AttentionGraph, side: int) -> Tensor | None:
    """What the image nodes among the query (0) or value nodes (1) show, ``(b, nodes)``: places in ``PATCH_NAMES``, -1 for
    other nodes ([CLS], text). None where that is unknown."""
    image = graph.is_image()[side]
    if image is None or batch.patches is None:
        return None
    image, (b, patches) = image.cpu(), batch.patches.shape
    others = image.sum(1, keepdim=True) - patches  # they come first
    if (others < 0).any() or (others > OTHERS).any():
        return None
    place = image & (image.cumsum(1) > others)
    return torch.full(image.shape, -1).masked_scatter(place, batch.patches)


def whole_words(tokens: Sequence[Sequence[str]], special: Tensor) -> list[list[str]]:
    """The word that each token is, without its vocabulary's marks; ``""`` for a piece of a word."""
    marked = any(token.startswith(MARKS) for line in tokens for token in line)
    closed = any(token.endswith(CLOSED) for line in tokens for token in line)

    def begins(line: Sequence[str], apart: Sequence[bool], k: int) -> bool:
        if k in (0, len(line)) or apart[k - 1] or apart[k]:
            return True
        before, token = line[k - 1], line[k]
        if marked:
            return token.startswith(MARKS) or before in MARKS or not token[:1].isalnum() or not before[-1:].isalnum()
        return before.endswith(CLOSED) if closed else not token.startswith("##")

    found = []
    for line, apart in zip(tokens, special.tolist()):
        starts = [begins(line, [*apart, True], k) for k in range(len(line) + 1)]
        found.append([token.lstrip("".join(MARKS)).removesuffix(CLOSED) if starts[k] and starts[k + 1] else ""
                      for k, token in enumerate(line)])
    return found
