"""Which words and which patches of a batch the nodes of an attention graph are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from analysis.maps import patch_grid
from analysis.relevance import image_nodes
from attngraph import AttentionGraph
from experiments.scenes.patches import patch_targets
from experiments.scenes.scene import Scene

if TYPE_CHECKING:
    from experiments.inspect.source import Batch

ROTATED = (
    "queries could be read only with rotary positions in them: distances and angles to values depend on where tokens "
    "stand"
)
PIECE, START, BYTES, CLOSED = (
    "##",
    "▁",
    "Ġ",
    "</w>",
)  # how words are cut: what goes on is marked (BERT), what begins
# (SentencePiece), a blank before it in an alphabet of bytes (GPT-2), or what ends (CLIP)


@dataclass(frozen=True, eq=False)
class Text:
    """The tokens of a batch's texts, padding included.

    Args:
        tokens: ``b`` lists of ``n``.
        token_ids, special, padding: ``(b, n)``: ids, whether they are special tokens, whether they are padding.
        prompt: ``(b,)``, where the answer begins, padding before it included; None where unknown.
        pieces: what the vocabulary marks of words that are cut into pieces: ``PIECE``, ``START``, ``BYTES`` or ``CLOSED``.
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
        """The text of ids, of which ``mask`` is 0 at padding."""
        special = torch.isin(ids, torch.tensor(tokenizer.all_special_ids))
        padding = torch.zeros_like(special) if mask is None else mask == 0
        words = tokenizer.tokenize("a a")
        pieces = next(
            (kind for kind in (START, BYTES) if any(word.startswith(kind) for word in words)), PIECE
        )
        pieces = CLOSED if words[-1].endswith(CLOSED) else pieces
        return Text(
            [tokenizer.convert_ids_to_tokens(row) for row in ids.tolist()],
            ids,
            special,
            padding,
            prompt,
            pieces,
        )


@dataclass(frozen=True, eq=False)
class Words:
    """What a side's nodes are. All ``(b, nodes)``.

    Args:
        there: which nodes are tokens of the text; others have ``""``, -1 and False in what follows.
        tokens: strings.
        token_ids, special, padding, pieces: as in :class:`Text`.
        all: whether every token of the text is a node, those that keep the images' places too.
    """

    there: Tensor
    tokens: np.ndarray
    token_ids: Tensor
    special: Tensor
    padding: Tensor
    pieces: str
    all: bool

    def node(self, place: Tensor) -> Tensor:
        """Which nodes the tokens at places ``(b,)`` of the text are."""
        return place if self.all else (self.there.int().cumsum(1) <= place[:, None]).int().sum(1)

    def place(self, node: Tensor) -> Tensor:
        """At which places of the text the nodes ``(b,)`` stand."""
        return node if self.all else self.there.int().cumsum(1).gather(1, node[:, None])[:, 0] - 1

    def lines(self) -> Iterator[tuple[list[str], list[bool], str]]:
        """Each example's arguments for :func:`whole_words` and :func:`word_spans`."""
        return zip(
            self.tokens.tolist(), (self.special | ~self.there).tolist(), [self.pieces] * len(self.tokens)
        )


def words_of(batch: Batch, graph: AttentionGraph, side: int) -> Words | None:
    """The words that the query (0) or value nodes (1) are; None where they are none of the batch's.

    The nodes of an encoder-decoder's decoder (its causal self-attention, and the queries of its cross-attention) are the
    decoder's text. In a sequence of text and image, either all tokens are nodes, those that keep the images' places
    too, or the text nodes are the tokens in order.
    """
    decoder = batch.decoder is not None and graph.causal and (graph.kind == "self" or side == 0)
    text = batch.decoder if decoder else batch.text
    if text is None or len(text.tokens) != graph.shape[0]:
        return None
    b, nodes, width = graph.shape[0], graph.shape[2 + side], len(text.tokens[0])
    image = graph.is_image()[side]
    if image is None:
        return None
    there = ~image.cpu()
    if not there.any():
        return None
    if nodes == width:
        taken = there
    elif (there.sum(1) == width).all():
        taken = torch.ones(b, width, dtype=torch.bool)
    else:
        return None
    tokens = np.full((b, nodes), "", dtype=object)
    tokens[there.numpy()] = np.array(text.tokens, dtype=object).reshape(b, width)[taken.numpy()]

    def put(given: Tensor | None, empty: int) -> Tensor:
        given = torch.full((b, width), empty) if given is None else given.cpu()
        return torch.full((b, nodes), empty, dtype=given.dtype).masked_scatter(there, given[taken])

    return Words(
        there,
        tokens,
        put(text.token_ids, -1),
        put(text.special, False),
        put(text.padding, False),
        text.pieces,
        nodes == width,
    )


def patches_of(batch: Batch, graph: AttentionGraph, side: int) -> Tensor | None:
    """What the image nodes among the query (0) or value nodes (1) show, ``(b, nodes)``: places in ``PATCH_NAMES``, -1 for
    other nodes ([CLS], text). None where that is unknown: no scenes, or no patches of whole pictures in a square."""
    image, pictures = image_nodes(graph, side).cpu(), batch.pictures
    if (
        batch.scenes is None
        or pictures is None
        or pictures.grids is None
        or not pictures.whole
        or not image.any()
    ):
        return None
    if len(image) != len(batch.scenes):  # parts of pictures
        return None
    shown = torch.full(image.shape, -1)
    for scene, nodes, grid, line in zip(batch.scenes, image, pictures.grids, shown):
        try:
            rows, columns, others = patch_grid(int(nodes.sum()), grid)
        except ValueError:
            return None
        if rows != columns:
            return None
        line[nodes.nonzero()[others:, 0]] = _shown(scene, rows)
    return shown


@lru_cache(maxsize=1024)  # the same scenes come in every layer, on both sides
def _shown(scene: Scene, side: int) -> Tensor:
    return torch.from_numpy(patch_targets(scene, side)[0])


def word_spans(line: Sequence[str], apart: Sequence[bool], pieces: str) -> list[tuple[range, str]]:
    """The words of a line of tokens: the places of their pieces, and the word without its vocabulary's marks.

    Args:
        apart: which tokens belong to no word (special tokens, an image's places); blanks and newlines do neither.
        pieces: see :class:`Text`.
    """
    texts = [_raw(token, pieces) for token in line]

    def begins(k: int) -> bool:
        before, text = texts[k - 1].decode(errors="ignore"), texts[k].decode(errors="ignore")
        if pieces == PIECE:
            return not line[k].startswith(PIECE)
        if pieces == CLOSED:
            return line[k - 1].endswith(CLOSED)
        if text[:1].isspace() or before[-1:].isspace():
            return True
        return bool(before and text) and not (
            text[0].isalnum() and before[-1].isalnum()
        )  # either may be part of a letter

    found: list[list[int]] = []
    last = None
    for k, gone in enumerate(apart):
        if gone or not texts[k].strip():
            last = None
            continue
        if last is None or begins(k):
            found.append([k])
        else:
            found[-1].append(k)
        last = k
    return [
        (range(some[0], some[-1] + 1), b"".join(texts[k] for k in some).decode(errors="replace").strip())
        for some in found
    ]


def whole_words(line: Sequence[str], apart: Sequence[bool], pieces: str) -> list[str]:
    """The word that each token is, without its vocabulary's marks; ``""`` for a piece of a word, the token itself where it
    belongs to no word."""
    found = ["" if not gone else token for token, gone in zip(line, apart)]
    for span, word in word_spans(line, apart, pieces):
        if len(span) == 1:
            found[span[0]] = word
    return found


def _raw(token: str, pieces: str) -> bytes:
    """What a token stands for in a text, in UTF-8; a token may be a part of a character only."""
    if pieces == BYTES:
        return bytes(_BYTE.get(letter, 32) for letter in token)
    if pieces == START:
        return token.replace(START, " ").encode()
    return (token.removesuffix(CLOSED) if pieces == CLOSED else token.removeprefix(PIECE)).encode()


_BYTE = {
    letter: byte for byte, letter in bytes_to_unicode().items()
}  # in the vocabularies of GPT-2, Llama 3, Qwen
