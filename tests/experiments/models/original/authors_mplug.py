"""mPLUG in its authors' names, small: random weights, and what they compute, in plain PyTorch.

Nothing here knows transformers' names, or what the package makes of a checkpoint.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.experiments.models.original.authors_blip import Authors, Drawn

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] a red blue ball star ##s what is the ? stop".split()
CLS, SEP = 2, 3
PATCH, ROWS, LAYERS, PLACES = 4, 3, 2, 20
SIDE = PATCH * ROWS
BUILT, RUN = 8, 6  # layers of the fusion
WIDTH = 128


class _Drawn(Drawn):
    def clip(self, part: str, seen: int) -> None:
        self.table(f"{part}.positional_embedding", 7, 64)
        self.table(f"{part}.text_projection", 64, 32)
        self[f"{part}.logit_scale"] = torch.tensor(4.6)
        self.table(f"{part}.visual.class_embedding", seen)
        self.table(f"{part}.visual.positional_embedding", 1 + ROWS * ROWS, seen)
        self.table(f"{part}.visual.proj", seen, 32)
        scale = 1.5 / math.sqrt(3 * PATCH * PATCH)
        self[f"{part}.visual.conv1.weight"] = scale * torch.randn(
            seen, 3, PATCH, PATCH, generator=self.random
        )
        for name, width, layers in ((f"{part}.visual", seen, LAYERS), (part, 64, 1)):
            for layer in range(layers):
                block = f"{name}.transformer.resblocks.{layer}"
                self.linear("qkv", 3 * width, width)
                for end in ("weight", "bias"):
                    self[f"{block}.attn.in_proj_{end}"] = self.pop(f"qkv.{end}")
                self.linear(f"{block}.attn.out_proj", width, width)
                self.linear(f"{block}.mlp.c_fc", 4 * width, width)
                self.linear(f"{block}.mlp.c_proj", width, 4 * width)
                self.norm(f"{block}.ln_1", width)
                self.norm(f"{block}.ln_2", width)
        self.norm(f"{part}.visual.ln_pre", seen)
        self.norm(f"{part}.visual.ln_post", seen)
        self.table(f"{part}.token_embedding.weight", 11, 64)
        self.norm(f"{part}.ln_final", 64)

    def bert(self, part: str, layers: int, crosses: bool) -> None:
        self[f"{part}.embeddings.position_ids"] = torch.arange(PLACES)[None]
        self.table(f"{part}.embeddings.word_embeddings.weight", len(WORDS), WIDTH)
        self.table(f"{part}.embeddings.position_embeddings.weight", PLACES, WIDTH)
        self.table(f"{part}.embeddings.token_type_embeddings.weight", 2, WIDTH)
        self.norm(f"{part}.embeddings.LayerNorm", WIDTH)
        for layer in range(layers):
            block = f"{part}.encoder.layer.{layer}"
            for attention in ("attention", "crossattention")[: 1 + crosses]:
                for name in ("query", "key", "value"):
                    self.linear(f"{block}.{attention}.self.{name}", WIDTH, WIDTH)
                self.linear(f"{block}.{attention}.output.dense", WIDTH, WIDTH)
                self.norm(f"{block}.{attention}.output.LayerNorm", WIDTH)
            self.linear(f"{block}.intermediate.dense", 2 * WIDTH, WIDTH)
            self.linear(f"{block}.output.dense", WIDTH, 2 * WIDTH)
            self.norm(f"{block}.output.LayerNorm", WIDTH)

    def head(self, part: str, words: str) -> None:
        self[f"{part}.bias"] = torch.randn(len(WORDS), generator=self.random)
        self.linear(f"{part}.transform.dense", WIDTH, WIDTH)
        self.norm(f"{part}.transform.LayerNorm", WIDTH)
        self[f"{part}.decoder.weight"], self[f"{part}.decoder.bias"] = self[words], self[f"{part}.bias"]

    def model(self, twin: str, seen: int, pretraining: bool) -> None:
        text, fusion = ("text_encoder", "fusion_encoder")
        self.clip(f"visual_encoder{twin}", seen)
        inner = ".bert" if pretraining else ""
        self.bert(f"{text}{twin}{inner}", LAYERS, False)
        self.bert(f"{fusion}{twin}{inner}", BUILT, True)
        if pretraining:
            words = f"{fusion}{twin}.bert.embeddings.word_embeddings.weight"
            self.head(f"{fusion}{twin}.cls.predictions", words)
        self.bert(f"text_decoder{twin}.bert", LAYERS, True)
        words = f"text_decoder{twin}.bert.embeddings.word_embeddings.weight"
        self.head(f"text_decoder{twin}.cls.predictions", words)
        if seen != WIDTH:
            self.linear(f"visn_fc{twin}", WIDTH, seen)
            self.norm(f"visn_layer_norm{twin}", WIDTH)


def weights(kind: str = "finetuned", seed: int = 0, seen: int = WIDTH) -> dict[str, Tensor]:
    """A checkpoint: ``finetuned``, ``distilled`` (with twins) or ``pretraining``.

    Args:
        kind: which.
        seed: of the draw.
        seen: width of the pictures; another one than ``WIDTH`` makes it a large model, with stride 6.
    """
    drawn = _Drawn(seed)
    drawn.model("", seen, kind == "pretraining")
    if kind != "finetuned":
        drawn.model("_m", seen, kind == "pretraining")
    if kind == "pretraining":
        for twin in ("", "_m"):
            drawn.linear(f"vision_proj{twin}", 8, WIDTH)
            drawn.linear(f"text_proj{twin}", 8, WIDTH)
        drawn.linear("itm_head", 2, WIDTH)
        drawn["temp"] = torch.tensor(0.07)
        drawn.table("image_queue", 8, 12)
        drawn.table("text_queue", 8, 12)
        drawn["queue_ptr"] = torch.zeros(1, dtype=torch.long)
    return dict(drawn)


def save_checkpoint(folder: Path, state: dict[str, Tensor], place: str = "model") -> Path:
    """A file as the authors' programs write it, with BERT's vocabulary beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({place: state, "epoch": 1}, folder / "mplug.pth")
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return folder / "mplug.pth"


# ---- what the weights compute ----------------------------------------------------------------------------


class MPlugAuthors(Authors):
    """A fine-tuned checkpoint's forward passes in evaluation mode."""

    def __init__(self, weights: dict[str, Tensor], stride: int = 3):
        super().__init__(weights)
        self.stride = stride

    def picture(self, pixels: Tensor) -> Tensor:
        """``(b, 3, side, side)`` to states ``(b, 1 + rows * rows, WIDTH)``."""
        part = "visual_encoder.visual"
        patches = F.unfold(pixels, PATCH, stride=PATCH).mT @ self.w[f"{part}.conv1.weight"].flatten(1).T
        first = self.w[f"{part}.class_embedding"].expand(len(pixels), 1, -1)
        x = torch.cat([first, patches], 1) + self.w[f"{part}.positional_embedding"]
        x = self._norm(f"{part}.ln_pre", x, 1e-5)
        for layer in range(LAYERS):
            block = f"{part}.transformer.resblocks.{layer}"
            both = self._norm(f"{block}.ln_1", x, 1e-5) @ self.w[f"{block}.attn.in_proj_weight"].T
            q, k, v = (both + self.w[f"{block}.attn.in_proj_bias"]).chunk(3, -1)
            x = x + self._linear(f"{block}.attn.out_proj", self._attend(q, k, v, None))
            hidden = self._linear(f"{block}.mlp.c_fc", self._norm(f"{block}.ln_2", x, 1e-5))
            x = x + self._linear(f"{block}.mlp.c_proj", hidden * torch.sigmoid(1.702 * hidden))
        x = self._norm(f"{part}.ln_post", x, 1e-5)
        if "visn_fc.weight" in self.w:
            x = self._norm("visn_layer_norm", self._linear("visn_fc", x), 1e-12)
        return x

    def _attention(self, name: str, x: Tensor, other: Tensor, allowed: Tensor) -> Tensor:
        q = self._linear(f"{name}.self.query", x)
        k, v = (self._linear(f"{name}.self.{part}", other) for part in ("key", "value"))
        found = self._linear(f"{name}.output.dense", self._attend(q, k, v, allowed))
        return self._norm(f"{name}.output.LayerNorm", x + found, 1e-12)

    def _feed_forward(self, block: str, x: Tensor) -> Tensor:
        hidden = F.gelu(self._linear(f"{block}.intermediate.dense", x))
        return self._norm(
            f"{block}.output.LayerNorm", x + self._linear(f"{block}.output.dense", hidden), 1e-12
        )

    def _words(self, part: str, ids: Tensor) -> Tensor:
        table = f"{part}.embeddings"
        x = (
            self.w[f"{table}.word_embeddings.weight"][ids]
            + self.w[f"{table}.token_type_embeddings.weight"][0]
        )
        x = x + self.w[f"{table}.position_embeddings.weight"][: ids.shape[1]]
        return self._norm(f"{table}.LayerNorm", x, 1e-12)

    def fused(self, ids: Tensor, mask: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """States and mask of image and question, after they have seen each other."""
        text, seen = self._words("text_encoder", ids), mask == 1
        for layer in range(LAYERS):
            block = f"text_encoder.encoder.layer.{layer}"
            text = self._attention(f"{block}.attention", text, text, _rows(seen, text))
            text = self._feed_forward(block, text)
        count = image.shape[1]
        whole = torch.cat([torch.ones(len(image), count, dtype=torch.bool), seen], 1)
        for place in range(RUN):
            block = f"fusion_encoder.encoder.layer.{BUILT - RUN + place}"
            if place and place % self.stride == 0:
                both = torch.cat([image, text], 1)
                both = self._attention(f"{block}.attention", both, both, _rows(whole, both))
                both = self._feed_forward(block, both)
                image, text = image + both[:, :count], both[:, count:]
            else:
                text = self._attention(f"{block}.attention", text, text, _rows(seen, text))
                text = self._attention(f"{block}.crossattention", text, image, _rows(whole[:, :count], text))
                text = self._feed_forward(block, text)
        return torch.cat([image, text], 1), whole

    def logits(self, ids: Tensor, mask: Tensor, states: Tensor, states_mask: Tensor | None = None) -> Tensor:
        count, part = ids.shape[1], "text_decoder.bert"
        causal = (mask == 1)[:, None] & torch.ones(count, count).tril().bool()
        if states_mask is None:
            states_mask = torch.ones(states.shape[:2], dtype=torch.bool)
        x = self._words(part, ids)
        for layer in range(LAYERS):
            block = f"{part}.encoder.layer.{layer}"
            x = self._attention(f"{block}.attention", x, x, causal)
            x = self._attention(f"{block}.crossattention", x, states, _rows(states_mask, x))
            x = self._feed_forward(block, x)
        head = "text_decoder.cls.predictions"
        x = F.gelu(self._linear(f"{head}.transform.dense", x))
        return self._linear(f"{head}.decoder", self._norm(f"{head}.transform.LayerNorm", x, 1e-12))


def _rows(seen: Tensor, queries: Tensor) -> Tensor:
    """The same values for every query, ``(b, n, m)``."""
    return seen[:, None].expand(-1, queries.shape[1], -1)
