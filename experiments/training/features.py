"""States of a frozen image encoder, computed once, kept on disk and read from there: never all in memory."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor

from experiments.files import whole
from experiments.models.family import ModelFamily

CHUNK = 256  # images encoded at a time
LIMIT_GB = 32.0  # of one file; larger ones are not made
RESERVE = 0.1  # share of the disk that stays free


class Features:
    """The states ``(nodes, width)`` of images, by their paths. The file is mapped into memory, not read."""

    def __init__(self, file: Path, paths: Sequence[Path]):
        self.file, self.place = file, {path: k for k, path in enumerate(paths)}

    @cached_property
    def states(self) -> np.ndarray:
        """``(images, nodes, width)``, on disk."""
        return np.load(self.file, mmap_mode="r")

    def __getitem__(self, path: Path) -> Tensor:
        return torch.from_numpy(np.array(self.states[self.place[path]]))


class FeatureCache:
    """A folder of features that many runs share.

    Args:
        folder: made when something is saved.
        limit_gb: size of the largest file that is made, in 10^9 bytes; 0 for no cache.
    """

    def __init__(self, folder: Path, limit_gb: float = LIMIT_GB):
        self.folder, self.limit = folder, limit_gb * 1e9

    def features(self, family: ModelFamily, paths: Sequence[Path]) -> Features | None:
        """The features of images, computed unless the cache holds them.

        A file's name is a digest of the family's name, the encoder's configuration and weights, and the
        images' names, sizes and times, so a stale file is never read. None where the family computes none,
        where the file would be larger than the limit, or where the disk has no room for it: the images are
        then encoded in every step.
        """
        paths = list(dict.fromkeys(paths))
        if not family.caches_features or self.limit <= 0:
            return None
        file = self.folder / f"{_digest(family, paths)}.npy"
        if not _is_whole(file, len(paths)):
            first = family.encode_images(paths[:1])[0].float().cpu()
            if not self._fits(first.numel() * 4 * len(paths)):
                return None
            self._write(file, family, paths, tuple(first.shape))
        return Features(file, paths)

    def _fits(self, size: int) -> bool:
        nearest = next(folder for folder in (self.folder, *self.folder.absolute().parents) if folder.exists())
        disk = shutil.disk_usage(nearest)
        return size <= self.limit and size <= disk.free - RESERVE * disk.total

    def _write(self, file: Path, family: ModelFamily, paths: Sequence[Path], shape: tuple[int, ...]) -> None:
        with whole(file) as part:
            states = open_memmap(part, "w+", np.float32, (len(paths), *shape))
            for start in range(0, len(paths), CHUNK):
                chunk = family.encode_images(paths[start : start + CHUNK])
                states[start : start + CHUNK] = chunk.float().cpu().numpy()
            states.flush()
            del states


def _digest(family: ModelFamily, paths: Sequence[Path]) -> str:
    encoder = family.image_encoder()
    digest = hashlib.sha256(f"{type(family).__qualname__} {getattr(encoder, 'config', '')}".encode())
    for name, parameter in encoder.named_parameters():
        digest.update(name.encode())
        digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    for path in paths:
        stat = path.stat()
        digest.update(f"{path.name} {stat.st_size} {stat.st_mtime_ns}".encode())
    return digest.hexdigest()[:24]


def _is_whole(file: Path, images: int) -> bool:
    try:
        return len(np.load(file, mmap_mode="r")) == images
    except (OSError, EOFError, ValueError):
        return False
