"""What the layouts share: how much is drawn, streams of chance, pictures with their truth, JSON."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from experiments.files import write_json
from experiments.scenes.known import SCENES
from experiments.scenes.scene import Scene

QUALITY = 95  # of JPEG, with colours at full resolution: pixels differ by a few of 256 levels


class Amounts(NamedTuple):
    """How many examples each split has."""

    train: int
    validation: int
    test: int

    @staticmethod
    def of(size: int) -> Amounts:
        """A fifth as many for validation as for training, a third as many for test."""
        return Amounts(size, max(2, size // 5), max(2, size // 3))

    def items(self) -> Iterator[tuple[str, int]]:
        """Split -> amount."""
        yield from self._asdict().items()


def own_seed(name: str, seed: int) -> int:
    """A seed for a data set (or a part of one), so that no two of them draw the same scenes."""
    return int(np.random.SeedSequence((seed, zlib.crc32(name.encode()))).generate_state(1)[0])


def dump(file: Path, content: object) -> None:
    """Writes JSON in one line."""
    write_json(file, content, indent=None)


class Pictures:
    """Writes pictures and remembers what they show."""

    def __init__(self) -> None:
        self.shown: dict[str, dict] = {}

    def save(self, picture: Image.Image, file: Path, scene: Scene | None, **more: object) -> None:
        """Writes a picture.

        Args:
            picture: in RGB.
            file: ends in ``.jpg``.
            scene: what it shows; None where shapes do not stand where the scene says.
            more: further entries beside the scene's.
        """
        file.parent.mkdir(exist_ok=True)
        picture.save(file, "JPEG", quality=QUALITY, subsampling=0)
        if scene is not None:
            self.shown[file.name] = {**scene.to_dict(), **more}


@contextmanager
def drawing(root: Path) -> Iterator[Pictures]:
    """Makes a data set's folder; what its pictures show is written there when the block ends."""
    root.mkdir()
    pictures = Pictures()
    yield pictures
    dump(root / SCENES, pictures.shown)
