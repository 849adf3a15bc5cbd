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

    def picture_side(self, part: str, width: int) -> None:
        self.table(f"{part}.cls_token", 1, 1, width)
        self.table(f"{part}.pos_embed", 1, 1 + ROWS * ROWS, width)
        self[f"{part}.patch_embed.proj.weight"] = torch.randn(
            width, 3, PATCH, PATCH, generator=self.random
        ) / math.sqrt(3 * PATCH * PATCH)
        self.table(f"{part}.patch_embed.proj.bias", width)
        for layer in range(LAYERS):
            block = f"{part}.blocks.{layer}"
            self.norm(f"{block}.norm1", width)
            self.linear(f"{block}.attn.qkv", 3 * width, width)
            self.linear(f"{block}.attn.proj", width, width)
            self.norm(f"{block}.norm2", width)
            self.linear(f"{block}.mlp.fc1", 3 * width, width)
            self.linear(f"{block}.mlp.fc2", width, 3 * width)
        self.norm(f"{part}.norm", width)

    def text_side(self, part: str, width: int, seen: int) -> None:
        self[f"{part}.embeddings.position_ids"] = torch.arange(PLACES)[None]
        self.table(f"{part}.embeddings.word_embeddings.weight", len(WORDS) + 2, width)
        self.table(f"{part}.embeddings.position_embeddings.weight", PLACES, width)
        self.norm(f"{part}.embeddings.LayerNorm", width)
        for layer in range(LAYERS):
            block = f"{part}.encoder.layer.{layer}"
            for attention, inputs in (("attention", width), ("crossattention", seen)):
                self.linear(f"{block}.{attention}.self.query", width, width)
                self.linear(f"{block}.{attention}.self.key", width, inputs)
                self.linear(f"{block}.{attention}.self.value", width, inputs)
                self.linear(f"{block}.{attention}.output.dense", width, width)
                self.norm(f"{block}.{attention}.output.LayerNorm", width)
            self.linear(f"{block}.intermediate.dense", 2 * width, width)
            self.linear(f"{block}.output.dense", width, 2 * width)
            self.norm(f"{block}.output.LayerNorm", width)

    def writer(self, width: int, seen: int) -> None:
        self.text_side("text_decoder.bert", width, seen)
        head = "text_decoder.cls.predictions"
        self[f"{head}.bias"] = torch.randn(len(WORDS) + 2, generator=self.random)
        self.linear(f"{head}.transform.dense", width, width)
        self.norm(f"{head}.transform.LayerNorm", width)
        self[f"{head}.decoder.weight"] = self["text_decoder.bert.embeddings.word_embeddings.weight"]
        self[f"{head}.decoder.bias"] = self[f"{head}.bias"]


def weights(kind: str, seed: int = 0, seen: int = 128, width: int = 128) -> dict[str, Tensor]:
    """A checkpoint: ``caption``, ``vqa`` or ``pretraining``; widths of pictures and texts."""
    drawn = Drawn(seed)
    drawn.picture_side("visual_encoder", seen)
    if kind != "caption":
        drawn.text_side("text_encoder", width, seen)
    drawn.writer(width, width if kind == "vqa" else seen)
    if kind == "pretraining":
        for twin in ("", "_m"):
            drawn.linear(f"vision_proj{twin}", 8, seen)
            drawn.linear(f"text_proj{twin}", 8, width)
        drawn.linear("itm_head", 2, width)
        drawn["temp"] = torch.tensor(0.07)
        drawn.picture_side("visual_encoder_m", seen)
        drawn.text_side("text_encoder_m", width, seen)
        drawn.table("image_queue", 8, 12)
        drawn.table("text_queue", 8, 12)
        drawn["queue_ptr"] = torch.zeros(1, dtype=torch.long)
    return dict(drawn)


def save_checkpoint(folder: Path, kind: str, name: str = "blip.pth", **options) -> Path:
    """A file as the authors publish it, with BERT's vocabulary beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"model": weights(kind, **options)}, folder / name)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return folder / name


# ---- what the weights compute ----------------------------------------------------------------------------


class Authors:
    """A checkpoint's forward passes in evaluation mode."""

    def __init__(self, weights: dict[str, Tensor]):
        self.w = weights

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def _norm(self, name: str, x: Tensor, eps: float) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
        return scaled * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    @staticmethod
    def _attend(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None) -> Tensor:
        """Head by head: queries ``(b, n, d)``, keys and values ``(b, m, d)``, ``allowed`` ``(b, n, m)``."""
        heads = []
        for begin in range(0, q.shape[-1], HEAD):
            part = slice(begin, begin + HEAD)
            scores = q[..., part] @ k[..., part].mT / math.sqrt(HEAD)
            if allowed is not None:
                scores = scores.masked_fill(~allowed, -math.inf)
            heads.append(scores.softmax(-1) @ v[..., part])
        return torch.cat(heads, -1)

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
            q, k, v = self._linear(f"{block}.attn.qkv", self._norm(f"{block}.norm1", x, 1e-6)).chunk(3, -1)
            x = x + self._linear(f"{block}.attn.proj", self._attend(q, k, v, None))
            hidden = F.gelu(self._linear(f"{block}.mlp.fc1", self._norm(f"{block}.norm2", x, 1e-6)))
            x = x + self._linear(f"{block}.mlp.fc2", hidden)
        return self._norm(f"{part}.norm", x, 1e-6)

    def _text(self, part: str, ids: Tensor, allowed: Tensor, states: Tensor, seen: Tensor) -> Tensor:
        count = ids.shape[1]
        x = self.w[f"{part}.embeddings.word_embeddings.weight"][ids]
        x = x + self.w[f"{part}.embeddings.position_embeddings.weight"][:count]
        x = self._norm(f"{part}.embeddings.LayerNorm", x, 1e-12)
        for layer in range(LAYERS):
            block = f"{part}.encoder.layer.{layer}"
            for attention, other, mask in (("attention", None, allowed), ("crossattention", states, seen)):
                q, k, v = (
                    self._linear(
                        f"{block}.{attention}.self.{name}", x if name == "query" or other is None else other
                    )
                    for name in ("query", "key", "value")
                )
                found = self._linear(f"{block}.{attention}.output.dense", self._attend(q, k, v, mask))
                x = self._norm(f"{block}.{attention}.output.LayerNorm", x + found, 1e-12)
            hidden = F.gelu(self._linear(f"{block}.intermediate.dense", x))
            x = self._norm(
                f"{block}.output.LayerNorm", x + self._linear(f"{block}.output.dense", hidden), 1e-12
            )
        return x

    def question(self, ids: Tensor, mask: Tensor, states: Tensor) -> Tensor:
        """The question's states ``(b, n, width)`` after it has looked at a picture's."""
        allowed = (mask == 1)[:, None].expand(-1, ids.shape[1], -1)
        seen = torch.ones(len(ids), ids.shape[1], states.shape[1], dtype=torch.bool)
        return self._text("text_encoder", ids, allowed, states, seen)

    def logits(self, ids: Tensor, mask: Tensor, states: Tensor, states_mask: Tensor | None = None) -> Tensor:
        """Next-token logits ``(b, n, vocabulary)`` of a text that looks at states."""
        count = ids.shape[1]
        allowed = (mask == 1)[:, None] & torch.ones(count, count).tril().bool()
        seen = torch.ones(len(ids), count, states.shape[1], dtype=torch.bool)
        if states_mask is not None:
            seen = seen & (states_mask == 1)[:, None]
        x = self._text("text_decoder.bert", ids, allowed, states, seen)
        head = "text_decoder.cls.predictions"
        x = self._norm(
            f"{head}.transform.LayerNorm", F.gelu(self._linear(f"{head}.transform.dense", x)), 1e-12
        )
        return self._linear(f"{head}.decoder", x)
