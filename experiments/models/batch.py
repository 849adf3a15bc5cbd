"""What goes into a model family, and what comes out as the model's inputs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from experiments.models.pictures import Pictures
from experiments.models.text import Text
from experiments.scenes.scene import Scene

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
        inputs = {name: tensor.to(device) for name, tensor in self.inputs.items()}
        return Batch(self.samples, inputs, self.text, self.decoder, self.pictures)
