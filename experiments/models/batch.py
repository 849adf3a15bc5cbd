"""What goes into a model family, and what comes out: samples, the model's inputs with the tokens that they
hold, and the loss of each token."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from attngraph.experiments.models.images import Pictures
from attngraph.experiments.scenes.scene import Scene

IGNORED = -100  # label of tokens without a loss
# How vocabularies mark the pieces of a word: what continues it (BERT), what begins it (SentencePiece), the
# space before it in an alphabet of bytes (GPT-2), or what ends it (CLIP).
PIECE, START, BYTES, CLOSED = "##", "▁", "Ġ", "</w>"
Picture = Path | Image.Image | Tensor | None


@dataclass(frozen=True)
class Sample:
    """One example as a model reads it: an image, a prompt and the text that follows.

    Args:
        name: of the example, in messages and results.
        image: a file, a picture, the frozen image encoder's states of it ``(nodes, width)``, or None.
        prompt: the text before the answer.
        answer: the text after it: a training target, or what is read in an analysis. None: the model's own.
        scene: what the image shows, where that is known.
    """

    name: str
    image: Picture
    prompt: str = ""
    answer: str | None = None
    scene: Scene | None = None


@dataclass(frozen=True, eq=False)
class Text:
    """The tokens of a batch's texts, padding included.

    Args:
        tokens: ``b`` lists of ``n``.
        token_ids, special, padding: ``(b, n)``; the latter two say which they are.
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
    """How a vocabulary marks the pieces of words."""
    words = tokenizer.tokenize("a a")
    if words[-1].endswith(CLOSED):
        return CLOSED
    return next((mark for mark in (START, BYTES) if any(word.startswith(mark) for word in words)), PIECE)


@dataclass(frozen=True, eq=False)
class Batch:
    """Samples as the model gets them.

    Args:
        samples: which.
        inputs: keyword arguments for the model.
        text: what it reads: a decoder's text in BLIP and in models of one stack, the encoder's in
            encoder-decoders.
        decoder: of encoder-decoders, the decoder's own text.
        pictures: what it sees.
    """

    samples: list[Sample]
    inputs: dict[str, Tensor]
    text: Text | None = None
    decoder: Text | None = None
    pictures: Pictures | None = None

    @property
    def names(self) -> list[str]:
        """The samples' names."""
        return [sample.name for sample in self.samples]

    @property
    def scenes(self) -> list[Scene] | None:
        """What each picture shows; None where that is not known of all."""
        scenes = [sample.scene for sample in self.samples if sample.scene is not None]
        return scenes if self.pictures is not None and len(scenes) == len(self.samples) else None

    @property
    def written(self) -> Text | None:
        """The text that the model writes: the decoder's own where it has one."""
        return self.decoder or self.text

    def to(self, device: str | torch.device) -> Batch:
        """The same with its inputs on a device."""
        return replace(self, inputs={name: tensor.to(device) for name, tensor in self.inputs.items()})


def token_losses(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of each next token, ``(b, n - 1)``, in nats; 0 where there is no label.

    Args:
        logits: ``(b, n, vocabulary)``.
        labels: ``(b, n)``, not shifted; :data:`IGNORED` where there is no loss.
        label_smoothing: share of the target spread over the vocabulary.
    """
    targets = labels[:, 1:]
    losses = F.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(),
        targets.flatten(),
        ignore_index=IGNORED,
        label_smoothing=label_smoothing,
        reduction="none",
    )
    return losses.view(targets.shape)
