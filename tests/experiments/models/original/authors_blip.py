"""BLIP in its authors' names, small: random weights, and what they compute, in plain PyTorch.

Nothing here knows transformers' names, or what the package makes of a checkpoint.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] a picture of red blue ball star ##s what is the ?".split()
DEC, ENC = len(WORDS), len(WORDS) + 1
PATCH, ROWS, LAYERS, PLACES = 4, 3, 2, 20
SIDE = PATCH * ROWS
HEAD = 64
TEXTS = torch.tensor([[DEC, 5, 6, 7, 8, 10, 3, 0], [DEC, 13, 14, 15, 9, 11, 12, 3]])
MASK = (TEXTS != 0).long()
QUESTIONS = torch.tensor([[ENC, 13, 14, 15, 10, 16, 3], [ENC, 8, 10, 3, 0, 0, 0]])
ASKED = (QUESTIONS != 0).long()


class Drawn(dict):
    """Weights that are far from their usual start, so that no two can be taken for one another."""

    def __init__(self, seed: int):
        self.random = torch.Generator().manual_seed(seed)

    def linear(self, name: str, outputs: int, inputs: int) -> None:
        self[f"{name}.weight"] = torch.randn(outputs, inputs, generator=self.random) * 1.5 / math.sqrt(inputs)
        self[f"{name}.bias"] = torch.randn(outputs, generator=self.random) * 0.3

    def norm(self, name: str, width: int) -> None:
        self[f"{name}.weight"] = 1 + 0.3 * torch.randn(width, generator=self.random)
        self[f"{name}.bias"] = 0.3 * torch.randn(width, generator=self.random)

    def table(self, name: str, *shape: int) -> None:
        self[name] = 0.3 * torch.randn(*shape, generator=self.random)

    def bert(self, part: str, words: int, width: int, seen: int | None, types: int = 0) -> None:
        """Embeddings and layers; with cross-attention to states of a width ``seen``."""
        self[f"{part}.embeddings.position_ids"] = torch.arange(PLACES)[None]
        self.table(f"{part}.embeddings.word_embeddings.weight", words, width)
        self.table(f"{part}.embeddings.position_embeddings.weight", PLACES, width)
        if types:
            self.table(f"{part}.embeddings.token_type_embeddings.weight", types, width)
        self.norm(f"{part}.embeddings.LayerNorm", width)
        for layer in range(LAYERS):
            self.bert_layer(f"{part}.encoder.layer.{layer}", width, seen)

    def bert_layer(self, block: str, width: int, seen: int | None) -> None:
        for attention, inputs in (("attention", width), ("crossattention", seen)):
            if inputs is not None:
                self.linear(f"{block}.{attention}.self.query", width, width)
                self.linear(f"{block}.{attention}.self.key", width, inputs)
                self.linear(f"{block}.{attention}.self.value", width, inputs)
                self.linear(f"{block}.{attention}.output.dense", width, width)
                self.norm(f"{block}.{attention}.output.LayerNorm", width)
        self.linear(f"{block}.intermediate.dense", 2 * width, width)
        self.linear(f"{block}.output.dense", width, 2 * width)
        self.norm(f"{block}.output.LayerNorm", width)

    def predictions(self, part: str, words: str) -> None:
        """An output layer that shares the embeddings."""
        size, width = self[words].shape
        self[f"{part}.bias"] = torch.randn(size, generator=self.random)
        self.linear(f"{part}.transform.dense", width, width)
        self.norm(f"{part}.transform.LayerNorm", width)
        self[f"{part}.decoder.weight"], self[f"{part}.decoder.bias"] = self[words], self[f"{part}.bias"]

    def heads(self, seen: int, width: int) -> None:
        """Of pre-training."""
        for twin in ("", "_m"):
            self.linear(f"vision_proj{twin}", 8, seen)
            self.linear(f"text_proj{twin}", 8, width)
        self.linear("itm_head", 2, width)
        self["temp"] = torch.tensor(0.07)

    def queues(self) -> None:
        self.table("image_queue", 8, 12)
        self.table("text_queue", 8, 12)
        self["queue_ptr"] = torch.zeros(1, dtype=torch.long)


def _picture_side(drawn: Drawn, part: str, width: int) -> None:
    drawn.table(f"{part}.cls_token", 1, 1, width)
    drawn.table(f"{part}.pos_embed", 1, 1 + ROWS * ROWS, width)
    kernel = torch.randn(width, 3, PATCH, PATCH, generator=drawn.random)
    drawn[f"{part}.patch_embed.proj.weight"] = kernel / math.sqrt(3 * PATCH * PATCH)
    drawn.table(f"{part}.patch_embed.proj.bias", width)
    for layer in range(LAYERS):
        block = f"{part}.blocks.{layer}"
        drawn.norm(f"{block}.norm1", width)
        drawn.linear(f"{block}.attn.qkv", 3 * width, width)
        drawn.linear(f"{block}.attn.proj", width, width)
        drawn.norm(f"{block}.norm2", width)
        drawn.linear(f"{block}.mlp.fc1", 3 * width, width)
        drawn.linear(f"{block}.mlp.fc2", width, 3 * width)
    drawn.norm(f"{part}.norm", width)


def weights(kind: str, seed: int = 0, seen: int = 128, width: int = 128) -> dict[str, Tensor]:
    """A checkpoint: ``caption``, ``vqa`` or ``pretraining``; widths of pictures and texts."""
    drawn, size = Drawn(seed), len(WORDS) + 2
    _picture_side(drawn, "visual_encoder", seen)
    if kind != "caption":
        drawn.bert("text_encoder", size, width, seen)
    drawn.bert("text_decoder.bert", size, width, width if kind == "vqa" else seen)
    drawn.predictions("text_decoder.cls.predictions", "text_decoder.bert.embeddings.word_embeddings.weight")
    if kind == "pretraining":
        drawn.heads(seen, width)
        _picture_side(drawn, "visual_encoder_m", seen)
        drawn.bert("text_encoder_m", size, width, seen)
        drawn.queues()
    return dict(drawn)


def save_checkpoint(folder: Path, kind: str, name: str = "blip.pth", **options) -> Path:
    """A file as the authors publish it, with BERT's vocabulary beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"model": weights(kind, **options)}, folder / name)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return folder / name


# ---- what the weights compute ----------------------------------------------------------------------------


class Authors:
    """A checkpoint's forward passes in evaluation mode, in float64.

    Masks ``(b, m)`` say which states may be seen, ``allowed`` ``(b, n, m)`` which by each query.
    """

    def __init__(self, weights: dict[str, Tensor]):
        self.w = {name: x.double() if x.is_floating_point() else x for name, x in weights.items()}

    def linear(self, name: str, x: Tensor) -> Tensor:
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def norm(self, name: str, x: Tensor, eps: float = 1e-12) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
        return scaled * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    @staticmethod
    def attend(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None = None) -> Tensor:
        """Head by head: queries ``(b, n, d)``, keys and values ``(b, m, d)``."""
        heads = []
        for begin in range(0, q.shape[-1], HEAD):
            part = slice(begin, begin + HEAD)
            scores = q[..., part] @ k[..., part].mT / math.sqrt(HEAD)
            if allowed is not None:
                scores = scores.masked_fill(~allowed, -math.inf)
            heads.append(scores.softmax(-1) @ v[..., part])
        return torch.cat(heads, -1)

    def words(self, part: str, ids: Tensor) -> Tensor:
        table = f"{part}.embeddings"
        x = self.w[f"{table}.word_embeddings.weight"][ids]
        if f"{table}.token_type_embeddings.weight" in self.w:
            x = x + self.w[f"{table}.token_type_embeddings.weight"][0]
        x = x + self.w[f"{table}.position_embeddings.weight"][: ids.shape[1]]
        return self.norm(f"{table}.LayerNorm", x)

    def attention(self, name: str, x: Tensor, other: Tensor, allowed: Tensor) -> Tensor:
        q = self.linear(f"{name}.self.query", x)
        k, v = (self.linear(f"{name}.self.{part}", other) for part in ("key", "value"))
        found = self.linear(f"{name}.output.dense", self.attend(q, k, v, allowed))
        return self.norm(f"{name}.output.LayerNorm", x + found)

    def feed_forward(self, block: str, x: Tensor) -> Tensor:
        hidden = F.gelu(self.linear(f"{block}.intermediate.dense", x))
        return self.norm(f"{block}.output.LayerNorm", x + self.linear(f"{block}.output.dense", hidden))

    def crossing(self, part: str, x: Tensor, allowed: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        """Layers with cross-attention to states."""
        for layer in range(LAYERS):
            block = f"{part}.encoder.layer.{layer}"
            x = self.attention(f"{block}.attention", x, x, allowed)
            x = self.attention(f"{block}.crossattention", x, states, rows(mask, x))
            x = self.feed_forward(block, x)
        return x

    def picture(self, pixels: Tensor) -> Tensor:
        """``(b, 3, side, side)`` to states ``(b, 1 + rows * rows, width)``."""
        part = "visual_encoder"
        kernel = self.w[f"{part}.patch_embed.proj.weight"]
        patches = F.unfold(pixels, PATCH, stride=PATCH).mT @ kernel.flatten(1).T
        patches = patches + self.w[f"{part}.patch_embed.proj.bias"]
        first = self.w[f"{part}.cls_token"].expand(len(pixels), -1, -1)
        x = torch.cat([first, patches], 1) + self.w[f"{part}.pos_embed"]
        for layer in range(LAYERS):
            block = f"{part}.blocks.{layer}"
            q, k, v = self.linear(f"{block}.attn.qkv", self.norm(f"{block}.norm1", x, 1e-6)).chunk(3, -1)
            x = x + self.linear(f"{block}.attn.proj", self.attend(q, k, v))
            hidden = F.gelu(self.linear(f"{block}.mlp.fc1", self.norm(f"{block}.norm2", x, 1e-6)))
            x = x + self.linear(f"{block}.mlp.fc2", hidden)
        return self.norm(f"{part}.norm", x, 1e-6)

    def asked(self, ids: Tensor, mask: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """A question's states after it has looked at a picture's, and which may be seen."""
        seen, x = mask == 1, self.words("text_encoder", ids)
        whole = torch.ones(image.shape[:2], dtype=torch.bool)
        return self.crossing("text_encoder", x, rows(seen, x), image, whole), seen

    def written(self, ids: Tensor, mask: Tensor, states: Tensor, states_mask: Tensor | None = None) -> Tensor:
        """Next-token logits ``(b, n, vocabulary)`` of a text that looks at states."""
        count, part, head = ids.shape[1], "text_decoder.bert", "text_decoder.cls.predictions"
        causal = (mask == 1)[:, None] & torch.ones(count, count).tril().bool()
        if states_mask is None:
            states_mask = torch.ones(states.shape[:2], dtype=torch.bool)
        x = self.crossing(part, self.words(part, ids), causal, states, states_mask)
        x = self.norm(f"{head}.transform.LayerNorm", F.gelu(self.linear(f"{head}.transform.dense", x)))
        return self.linear(f"{head}.decoder", x)


def rows(seen: Tensor, queries: Tensor) -> Tensor:
    """The same values for every query, ``(b, n, m)``."""
    return seen[:, None].expand(-1, queries.shape[1], -1)


def logits_of_authors(state: dict[str, Tensor], pixels: Tensor, asks: bool) -> Tensor:
    """Of :data:`TEXTS`, as answers to :data:`QUESTIONS` or as captions."""
    authors = Authors(state)
    image = authors.picture(pixels.double())
    seen = authors.asked(QUESTIONS, ASKED, image) if asks else (image,)
    return authors.written(TEXTS, MASK, *seen).float()
