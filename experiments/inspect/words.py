"""The words and patches of a batch that the nodes of an attention graph represent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from transformers.convert_slow_tokenizer import bytes_to_unicode

from attngraph import AttentionGraph
from attngraph.analysis.patches import patch_grid
from attngraph.analysis.relevance import image_nodes
from attngraph.experiments.models.batch import BYTES, CLOSED, PIECE, START, Batch
from attngraph.experiments.scenes.drawing import patch_targets
from attngraph.experiments.scenes.scene import HUGE_SHAPES, Scene

ROTATED = (
    "queries could be read only with rotary positions: distances and angles to values depend on the "
    "positions of tokens"
)
PATCH_NAMES = ("background", *HUGE_SHAPES)


@dataclass(frozen=True, eq=False)
class Words:
    """The tokens of a side's nodes. All ``(b, nodes)``.

    Args:
        is_token: whether nodes are tokens of the text; others have ``""``, -1 and False in the other fields.
        tokens: strings.
        token_ids, special, padding, pieces: as in :class:`~attngraph.experiments.models.batch.Text`.
        whole: whether every token of the text is a node, including placeholders of images.
    """

    is_token: Tensor
    tokens: np.ndarray
    token_ids: Tensor
    special: Tensor
    padding: Tensor
    pieces: str
    whole: bool

    def node(self, place: Tensor) -> Tensor:
        """The nodes of the tokens at positions ``(b,)`` of the text."""
        return place if self.whole else (self.is_token.int().cumsum(1) <= place[:, None]).int().sum(1)

    def place(self, node: Tensor) -> Tensor:
        """The positions of the nodes ``(b,)`` in the text."""
        return node if self.whole else self.is_token.int().cumsum(1).gather(1, node[:, None])[:, 0] - 1

    def lines(self) -> Iterator[tuple[list[str], list[bool], str]]:
        """Each example's arguments for :func:`whole_words` and :func:`word_spans`."""
        apart = (self.special | ~self.is_token).tolist()
        return zip(self.tokens.tolist(), apart, [self.pieces] * len(self.tokens))


def words_of(batch: Batch, graph: AttentionGraph, side: int) -> Words | None:
    """The words of the query (0) or value nodes (1); None if these are not words of the batch.

    The nodes of an encoder-decoder's decoder (its causal self-attention, and the queries of its
    cross-attention) are the decoder's text. In a sequence of text and image, either all tokens are nodes,
    including placeholders of images, or the text nodes are the tokens in order.
    """
    text = batch.decoder if in_decoder(batch, graph, side) else batch.text
    if text is None or len(text.tokens) != graph.shape[0]:
        return None
    b, nodes, width = graph.shape[0], graph.shape[2 + side], len(text.tokens[0])
    image = graph.is_image()[side]
    if image is None or image.all():
        return None
    is_token = ~image.cpu()
    whole = nodes == width
    if not whole and (is_token.sum(1) != width).any():
        return None
    in_text = is_token if whole else torch.ones(b, width, dtype=torch.bool)  # which tokens are nodes

    def on_nodes(of_tokens: Tensor, empty: int) -> Tensor:
        on_all = torch.full((b, nodes), empty, dtype=of_tokens.dtype)
        return on_all.masked_scatter(is_token, of_tokens.cpu()[in_text])

    tokens = np.full((b, nodes), "", dtype=object)
    tokens[is_token.numpy()] = np.array(text.tokens, dtype=object).reshape(b, width)[in_text.numpy()]
    ids, special = on_nodes(text.token_ids, -1), on_nodes(text.special, False)
    return Words(is_token, tokens, ids, special, on_nodes(text.padding, False), text.pieces, whole)


def in_decoder(batch: Batch, graph: AttentionGraph, side: int) -> bool:
    """Whether the query (0) or value nodes (1) belong to an encoder-decoder's decoder."""
    return batch.decoder is not None and graph.causal and (graph.kind == "self" or side == 0)


def grids_of(batch: Batch, image: Tensor) -> list[tuple[int, int, int]] | None:
    """Rows and columns of each image's patches, and the number of image nodes before them; ``image`` ``(b,
    nodes)`` marks image nodes. None if this is unknown: images are cropped or tiled, or their patches do not
    form a grid.
    """
    pictures = batch.pictures
    if pictures is None or pictures.grids is None or not pictures.whole or len(image) != len(batch.samples):
        return None
    try:
        return [patch_grid(int(nodes.sum()), grid) for nodes, grid in zip(image, pictures.grids)]
    except ValueError:
        return None


def patches_of(batch: Batch, graph: AttentionGraph, side: int) -> Tensor | None:
    """Content of the image nodes among the query (0) or value nodes (1): indices in :data:`PATCH_NAMES`
    ``(b, nodes)``, -1 for other nodes ([CLS], text). None if it is unknown: there are no scenes, or the
    patches are not a square grid of a whole image.
    """
    image, scenes = image_nodes(graph, side).cpu(), batch.scenes
    grids = None if scenes is None or not image.any() else grids_of(batch, image)
    if grids is None or any(rows != columns for rows, columns, _ in grids):
        return None
    shown = torch.full(image.shape, -1)
    for scene, nodes, (rows, _, others), line in zip(scenes, image, grids, shown):
        line[nodes.nonzero()[others:, 0]] = _shown(scene, rows)
    return shown


@lru_cache(maxsize=1024)  # the same scenes come in every layer, on both sides
def _shown(scene: Scene, side: int) -> Tensor:
    return torch.from_numpy(patch_targets(scene, side)[0])


def word_spans(line: Sequence[str], apart: Sequence[bool], pieces: str) -> list[tuple[range, str]]:
    """The words of a line of tokens: the positions of their pieces, and the word without its vocabulary's
    marks.

    Args:
        line: the tokens.
        apart: whether tokens are outside of words (special tokens, placeholders of images); blanks and
            newlines are, too.
        pieces: see :class:`~attngraph.experiments.models.batch.Text`.
    """
    texts = [_raw(token, pieces) for token in line]

    def begins(k: int) -> bool:
        if pieces == PIECE:
            return not line[k].startswith(PIECE)
        if pieces == CLOSED:
            return line[k - 1].endswith(CLOSED)
        before, text = texts[k - 1].decode(errors="ignore"), texts[k].decode(errors="ignore")
        if text[:1].isspace() or before[-1:].isspace():
            return True
        # Either may be no more than a part of a letter, and then goes on.
        return bool(before and text) and not (text[0].isalnum() and before[-1].isalnum())

    words: list[list[int]] = []
    previous = None
    for k, no_word in enumerate(apart):
        if no_word or not texts[k].strip():
            previous = None
            continue
        if previous is None or begins(k):
            words.append([])
        words[-1].append(k)
        previous = k
    return [
        (range(word[0], word[-1] + 1), b"".join(texts[k] for k in word).decode(errors="replace").strip())
        for word in words
    ]


def whole_words(line: Sequence[str], apart: Sequence[bool], pieces: str) -> list[str]:
    """The word of each token, without its vocabulary's marks; ``""`` for a piece of a word, the token itself
    if it is outside of words.
    """
    words = [token if no_word else "" for token, no_word in zip(line, apart)]
    for span, word in word_spans(line, apart, pieces):
        if len(span) == 1:
            words[span[0]] = word
    return words


def _raw(token: str, pieces: str) -> bytes:
    """The UTF-8 bytes of a token in a text; a token may be only a part of a character."""
    if pieces == BYTES:
        return bytes(_BYTE.get(letter, 32) for letter in token)
    if pieces == START:
        return token.replace(START, " ").encode()
    return (token.removesuffix(CLOSED) if pieces == CLOSED else token.removeprefix(PIECE)).encode()


# In the vocabularies of GPT-2, Llama 3 and Qwen.
_BYTE = {letter: byte for byte, letter in bytes_to_unicode().items()}
