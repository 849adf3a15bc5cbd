"""mPLUG in its authors' names, small: random weights, and what they compute, in plain PyTorch.

Nothing here knows transformers' names, or what the package makes of a checkpoint.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.experiments.models.original.authors_blip import LAYERS, PATCH, ROWS, Authors, Drawn, rows

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] a red blue ball star ##s what is the ? stop".split()
CLS, SEP = 2, 3
SIDE = PATCH * ROWS
BUILT, RUN = 8, 6  # layers of the fusion
WIDTH = 128
TEXTS = torch.tensor([[CLS, 5, 6, 7, 8, 9, SEP, 0], [CLS, 8, 13, 7, 9, 10, 12, SEP]])
MASK = (TEXTS != 0).long()
QUESTIONS = torch.tensor([[CLS, 11, 12, 13, 8, 14], [CLS, 8, 14, 0, 0, 0]])
ASKED = (QUESTIONS != 0).long()


def _clip(drawn: Drawn, part: str, seen: int) -> None:
    drawn.table(f"{part}.positional_embedding", 7, 64)
    drawn.table(f"{part}.text_projection", 64, 32)
    drawn[f"{part}.logit_scale"] = torch.tensor(4.6)
    drawn.table(f"{part}.visual.class_embedding", seen)
    drawn.table(f"{part}.visual.positional_embedding", 1 + ROWS * ROWS, seen)
    drawn.table(f"{part}.visual.proj", seen, 32)
    kernel = torch.randn(seen, 3, PATCH, PATCH, generator=drawn.random)
    drawn[f"{part}.visual.conv1.weight"] = 1.5 / math.sqrt(3 * PATCH * PATCH) * kernel
    for name, width, layers in ((f"{part}.visual", seen, LAYERS), (part, 64, 1)):
        for layer in range(layers):
            block = f"{name}.transformer.resblocks.{layer}"
            drawn.linear("qkv", 3 * width, width)
            for end in ("weight", "bias"):
                drawn[f"{block}.attn.in_proj_{end}"] = drawn.pop(f"qkv.{end}")
            drawn.linear(f"{block}.attn.out_proj", width, width)
            drawn.linear(f"{block}.mlp.c_fc", 4 * width, width)
            drawn.linear(f"{block}.mlp.c_proj", width, 4 * width)
            drawn.norm(f"{block}.ln_1", width)
            drawn.norm(f"{block}.ln_2", width)
    drawn.norm(f"{part}.visual.ln_pre", seen)
    drawn.norm(f"{part}.visual.ln_post", seen)
    drawn.table(f"{part}.token_embedding.weight", 11, 64)
    drawn.norm(f"{part}.ln_final", 64)


def _model(drawn: Drawn, twin: str, seen: int, inner: str) -> None:
    size, fusion = len(WORDS), f"fusion_encoder{twin}"
    _clip(drawn, f"visual_encoder{twin}", seen)
    drawn.bert(f"text_encoder{twin}{inner}", size, WIDTH, None, types=2)
    drawn.bert(f"{fusion}{inner}", size, WIDTH, WIDTH, types=2)
    for layer in range(LAYERS, BUILT):
        drawn.bert_layer(f"{fusion}{inner}.encoder.layer.{layer}", WIDTH, WIDTH)
    if inner:
        drawn.predictions(f"{fusion}.cls.predictions", f"{fusion}.bert.embeddings.word_embeddings.weight")
    decoder = f"text_decoder{twin}"
    drawn.bert(f"{decoder}.bert", size, WIDTH, WIDTH, types=2)
    drawn.predictions(f"{decoder}.cls.predictions", f"{decoder}.bert.embeddings.word_embeddings.weight")
    if seen != WIDTH:
        drawn.linear(f"visn_fc{twin}", WIDTH, seen)
        drawn.norm(f"visn_layer_norm{twin}", WIDTH)


def weights(kind: str = "finetuned", seed: int = 0, seen: int = WIDTH) -> dict[str, Tensor]:
    """A checkpoint: ``finetuned``, ``distilled`` (with twins) or ``pretraining``; another width of the
    pictures than ``WIDTH`` makes it a large model, with stride 6."""
    drawn, inner = Drawn(seed), ".bert" if kind == "pretraining" else ""
    _model(drawn, "", seen, inner)
    if kind != "finetuned":
        _model(drawn, "_m", seen, inner)
    if kind == "pretraining":
        drawn.heads(WIDTH, WIDTH)
        drawn.queues()
    return dict(drawn)


def save_checkpoint(folder: Path, state: dict[str, Tensor], place: str = "model") -> Path:
    """A file as the authors' programs write it, with BERT's vocabulary beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({place: state, "epoch": 1}, folder / "mplug.pth")
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return folder / "mplug.pth"


# ---- what the weights compute ----------------------------------------------------------------------------


class MPlugAuthors(Authors):
    """A checkpoint's forward passes in evaluation mode."""

    def __init__(self, weights: dict[str, Tensor], stride: int = 3):
        pretrained = re.compile(r"^(text_encoder|fusion_encoder)\.bert\.")
        super().__init__({pretrained.sub(r"\1.", name): x for name, x in weights.items()})
        self.stride = stride

    def picture(self, pixels: Tensor) -> Tensor:
        part = "visual_encoder.visual"
        patches = F.unfold(pixels, PATCH, stride=PATCH).mT @ self.w[f"{part}.conv1.weight"].flatten(1).T
        first = self.w[f"{part}.class_embedding"].expand(len(pixels), 1, -1)
        x = torch.cat([first, patches], 1) + self.w[f"{part}.positional_embedding"]
        x = self.norm(f"{part}.ln_pre", x, 1e-5)
        for layer in range(LAYERS):
            block = f"{part}.transformer.resblocks.{layer}"
            both = self.norm(f"{block}.ln_1", x, 1e-5) @ self.w[f"{block}.attn.in_proj_weight"].T
            q, k, v = (both + self.w[f"{block}.attn.in_proj_bias"]).chunk(3, -1)
            x = x + self.linear(f"{block}.attn.out_proj", self.attend(q, k, v))
            hidden = self.linear(f"{block}.mlp.c_fc", self.norm(f"{block}.ln_2", x, 1e-5))
            x = x + self.linear(f"{block}.mlp.c_proj", hidden * torch.sigmoid(1.702 * hidden))
        x = self.norm(f"{part}.ln_post", x, 1e-5)
        if "visn_fc.weight" in self.w:
            x = self.norm("visn_layer_norm", self.linear("visn_fc", x))
        return x

    def asked(self, ids: Tensor, mask: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """States of image and question after they have seen each other, and which may be seen."""
        text, seen = self.words("text_encoder", ids), mask == 1
        for layer in range(LAYERS):
            block = f"text_encoder.encoder.layer.{layer}"
            text = self.attention(f"{block}.attention", text, text, rows(seen, text))
            text = self.feed_forward(block, text)
        count = image.shape[1]
        whole = torch.cat([torch.ones(len(image), count, dtype=torch.bool), seen], 1)
        for place in range(RUN):
            block = f"fusion_encoder.encoder.layer.{BUILT - RUN + place}"
            if place and place % self.stride == 0:
                both = torch.cat([image, text], 1)
                both = self.attention(f"{block}.attention", both, both, rows(whole, both))
                both = self.feed_forward(block, both)
                image, text = image + both[:, :count], both[:, count:]
            else:
                text = self.attention(f"{block}.attention", text, text, rows(seen, text))
                text = self.attention(f"{block}.crossattention", text, image, rows(whole[:, :count], text))
                text = self.feed_forward(block, text)
        return torch.cat([image, text], 1), whole


def logits_of_authors(state: dict[str, Tensor], pixels: Tensor, asks: bool, stride: int = 3) -> Tensor:
    """Of :data:`TEXTS`, as answers to :data:`QUESTIONS` or as captions."""
    authors = MPlugAuthors(state, stride)
    image = authors.picture(pixels.double())
    seen = authors.asked(QUESTIONS, ASKED, image) if asks else (image,)
    return authors.written(TEXTS, MASK, *seen).float()
