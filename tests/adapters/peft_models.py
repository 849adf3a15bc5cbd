"""The models of ``tests/attngraph/zoo.py`` that graph adapters are tried in, and batches for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import transformers as hf
from torch import Tensor

from tests.attngraph.reading import zoo
from tests.attngraph.reading.zoo import FAMILIES as ZOO
from tests.attngraph.reading.zoo import IMAGE, VOCABULARY, far_from_zero


@dataclass(frozen=True)
class Family:
    """A kind of model.

    Args:
        kind: ``encoder``, ``decoder`` or ``seq2seq``.
        adapted: where the names of adapted modules start by default.
        new: makes the model with its initial weights.
        images: what goes with the text, from its token ids.
        image_tokens: how many image tokens the text starts with.
    """

    kind: str
    adapted: tuple[str, ...]
    new: Callable[[], hf.PreTrainedModel]
    images: Callable[[Tensor], dict] = lambda ids: {}
    image_tokens: int = 0

    def make(self) -> hf.PreTrainedModel:
        """The model with weights far from zero, so that no term can hide."""
        return far_from_zero(self.new(), 0)

    def batch(self, b: int = 2, n: int = 6, seed: int = 0) -> dict[str, Tensor]:
        """Images and ``n`` words without padding; for a seq2seq model also ``n`` words of output."""
        draw = torch.Generator().manual_seed(seed)
        ids, output = (torch.randint(IMAGE + 1, VOCABULARY, (b, n), generator=draw) for _ in range(2))
        ids = torch.cat([torch.full((b, self.image_tokens), IMAGE), ids], 1)
        batch = dict(input_ids=ids, attention_mask=torch.ones_like(ids), **self.images(ids))
        return batch | dict(decoder_input_ids=output) if self.kind == "seq2seq" else batch


def pixels(ids: Tensor) -> dict[str, Tensor]:
    return dict(pixel_values=zoo.normal(len(ids), 3, 8, 8))


def patches(ids: Tensor) -> dict[str, Tensor]:
    return dict(
        pixel_values=zoo.normal(16 * len(ids), 48),
        image_grid_thw=torch.tensor([[1, 4, 4]] * len(ids)),
        mm_token_type_ids=(ids == IMAGE).int(),
    )


def prefix_and_pixels(ids: Tensor) -> dict[str, Tensor]:
    """The image and two words see each other; the words after them are in order."""
    return zoo.prefix_types(ids, 6) | pixels(ids)


def tiles(ids: Tensor) -> dict[str, Tensor]:
    mask = torch.ones(len(ids), 1, 2, dtype=torch.long)
    return dict(
        pixel_values=zoo.normal(len(ids), 1, 2, 3, 8, 8),
        aspect_ratio_ids=torch.full((len(ids), 1), 2),
        aspect_ratio_mask=mask,
        cross_attention_mask=mask[:, None].expand(-1, ids.shape[1], -1, -1),
    )


FAMILIES = {
    "bert": Family("encoder", ("bert.encoder",), lambda: hf.BertForMaskedLM(hf.BertConfig(**zoo.TEXT))),
    "gpt2": Family("decoder", ("transformer.h",), ZOO["gpt2"].make),
    "llama": Family("decoder", ("model.layers",), ZOO["llama"].make),
    "t5": Family("seq2seq", ("encoder.block", "decoder.block"), ZOO["t5"].make),
    "bart": Family("seq2seq", ("model.encoder", "model.decoder"), ZOO["bart"].make),
    "blip": Family("decoder", ("text_decoder.bert.encoder",), ZOO["blip"].make, pixels),
    "llava": Family("decoder", ("model.language_model.layers",), ZOO["llava"].make, pixels, 4),
    "qwen2-vl": Family("decoder", ("model.language_model.layers",), ZOO["qwen2-vl"].make, patches, 4),
    "paligemma": Family(
        "decoder", ("model.language_model.layers",), ZOO["paligemma"].make, prefix_and_pixels, 4
    ),
    "mllama": Family("decoder", ("model.language_model.layers",), ZOO["mllama"].make, tiles),
}

FEW = ["bert", "gpt2", "llama", "t5", "blip", "paligemma", "mllama"]
"""The families that differ in how they are read: a bidirectional encoder; fused projections in ``Conv1D``;
rotated and grouped heads; position biases; a class of attention of its own, with an image in
cross-attention; a prefix that sees itself; gated cross-attention."""


def by_family(names=tuple(FAMILIES), values=lambda name: (name,)) -> list:
    """Test parameters: ``values(family)`` for each family; those that are not :data:`FEW` are slow."""
    slow = pytest.mark.slow
    return [pytest.param(*values(x), id=x, marks=[] if x in FEW else slow) for x in names]
