"""States of a frozen image encoder, computed once, kept on disk and read from there: never all in memory."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import write_array_header_1_0
from torch import Tensor

from attngraph.errors import UserError
from experiments.files import whole
from experiments.models.family import ModelFamily
from experiments.progress import Progress

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

        A file's name is a digest of the family's name, the encoder's configuration and weights, the kind of
        device, the number of threads, and the images' names, sizes and times, so a stale file is never read.
        None where the family computes none, or where the file would be larger than the limit: the images are
        then encoded in every step.

        Raises:
            UserError: the disk has no room for the file. Without it scores would differ in their last digits,
                so that is for the user to choose.
        """
        paths = list(dict.fromkeys(paths))
        if not family.caches_features or self.limit <= 0:
            return None
        file = self.folder / f"{_digest(family, paths)}.npy"
        if not _is_whole(file, len(paths)):
            first = family.encode_images(paths[:1])[0].float().cpu()
            size = first.numel() * 4 * len(paths)
            if size > self.limit:
                return None
            self._check_room(size)
            self._write(file, family, paths, tuple(first.shape))
        return Features(file, paths)

    def _check_room(self, size: int) -> None:
        nearest = next(folder for folder in (self.folder, *self.folder.absolute().parents) if folder.exists())
        disk = shutil.disk_usage(nearest)
        if size > disk.free - RESERVE * disk.total:
            raise UserError(
                f"{self.folder}: the image states take {size / 1e6:,.1f} MB, and {RESERVE:.0%} of the disk "
                f"must stay free ({disk.free / 1e6:,.1f} of {disk.total / 1e6:,.1f} MB are free): make room, "
                "give another --out, or encode images in every step with --cache-gb 0"
            )

    def _write(self, file: Path, family: ModelFamily, paths: Sequence[Path], shape: tuple[int, ...]) -> None:
        header = {"descr": "<f4", "fortran_order": False, "shape": (len(paths), *shape)}
        # Written, not mapped into memory: there a full disk would end the process instead of raising OSError.
        bar = Progress(total=len(paths), desc="image states", unit="image", leave=False, delay=1)
        with whole(file) as part, open(part, "wb") as states, bar:
            write_array_header_1_0(states, header)
            for start in range(0, len(paths), CHUNK):
                chunk = family.encode_images(paths[start : start + CHUNK])
                states.write(chunk.float().cpu().numpy().astype("<f4", copy=False).tobytes())
                bar.update(len(chunk))


def _digest(family: ModelFamily, paths: Sequence[Path]) -> str:
    encoder = family.image_encoder()
    computed = f"{family.device.type} {torch.get_num_threads()}"  # the last digits depend on these
    about = f"{type(family).__qualname__} {getattr(encoder, 'config', '')} {computed}"
    digest = hashlib.sha256(about.encode())
    for name, parameter in encoder.named_parameters():
        digest.update(name.encode())
        digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    for path in paths:
        stat = path.stat()
        digest.update(f"{path.name} {stat.st_size} {stat.st_mtime_ns}".encode())
    return digest.hexdigest()[:24]


def _is_whole(file: Path, images: int) -> bool:
    try:
        states = np.load(file, mmap_mode="r")
    except (OSError, EOFError, ValueError, SyntaxError):  # the header is a Python expression
        return False
    is_array = isinstance(states, np.ndarray)  # a zip file makes a dictionary
    return is_array and states.ndim == 3 and states.dtype == np.float32 and len(states) == images
