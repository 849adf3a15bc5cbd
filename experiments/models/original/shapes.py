"""What the shapes of a checkpoint's tensors tell: all sizes but the number of heads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from attngraph.errors import UserError

HEAD = 64  # width of a head, in BERT and in the image encoders of BLIP and CLIP


class Shapes:
    """A checkpoint's tensors by name.

    Args:
        tensors: the checkpoint's.
        file: where they were read, for messages.
        model: whose they should be, for messages.
    """

    def __init__(self, tensors: Mapping[str, Tensor], file: Path, model: str):
        self.tensors, self.file, self.model = tensors, file, model

    def __call__(self, name: str, axes: int = 2) -> tuple[int, ...]:
        """The shape of a tensor.

        Raises:
            UserError: it is missing, empty, or has another number of axes.
        """
        shape = self.tensors[name].shape if name in self.tensors else None
        if shape is None or len(shape) != axes or 0 in shape:
            how = "missing" if shape is None else f"of the shape {tuple(shape)}"
            raise UserError(f"{self.file}: {name} is {how}, so it is no checkpoint of {self.model}")
        return tuple(shape)

    @property
    def places(self) -> int:
        """How long a text may be."""
        return self("text_decoder.bert.embeddings.position_embeddings.weight")[0]

    def rows(self, name: str, axes: int = 2) -> int:
        """Rows of patches in a picture, of the table of positions, which also has one for the class token.

        Raises:
            UserError: see :meth:`__call__`; or the patches fill no square.
        """
        shape = self(name, axes)
        patches = shape[-2] - 1
        if patches < 1 or math.isqrt(patches) ** 2 != patches:
            raise UserError(
                f"{self.file}: {name} ({' x '.join(map(str, shape))}) fits no square of patches with a class "
                f"token, so it is no checkpoint of {self.model}"
            )
        return math.isqrt(patches)

    def count(self, prefix: str) -> int:
        """Layers under a prefix, which are numbered from 0 on.

        Raises:
            UserError: there is none, or one before the last is missing.
        """
        rest = (name[len(prefix) :].partition(".")[0] for name in self.tensors if name.startswith(prefix))
        found = {int(part) for part in rest if part.isdigit()}
        missing = min(set(range(len(found) + 1)) - found)
        if not found or missing < len(found):
            raise UserError(
                f"{self.file}: layer {prefix}{missing} is missing, so it is no checkpoint of {self.model}"
            )
        return len(found)

    def heads(self, part: str, width: int) -> int:
        """Heads of a part with this width."""
        if width % HEAD:
            raise UserError(
                f"{self.file}: {part} is {width} wide; {self.model}'s heads are {HEAD} wide, which must "
                "divide it"
            )
        return width // HEAD
