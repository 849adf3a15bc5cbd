"""States of a frozen image encoder, computed once, kept on disk and read from there: never all in memory.

The states of a set of pictures lie in one file, an array that is mapped into memory: for each picture its
state and a mark that says whether it is there. The file's name is a digest of the encoder, of how it is
computed, and of each picture's path, size and time: whatever differs has another file. Several commands may
fill one file at the same time, since they write the same numbers to the same places.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from attngraph.errors import UserError
from experiments.base.errors import first_line
from experiments.base.files import whole
from experiments.base.progress import Progress, note
from experiments.models.family import ModelFamily

FORMAT = 3  # raise it whenever the same pictures are read in another way
CHUNK = 64  # pictures that are encoded at a time
LIMIT_GB = 32.0  # of the folder


class Features:
    """The states ``(nodes, width)`` of pictures, by their paths.

    Args:
        rows: picture -> row.
        states: ``(pictures, nodes, width)``.
    """

    def __init__(self, rows: dict[Path, int], states: np.ndarray):
        self.rows, self.states = rows, states

    def __getitem__(self, path: Path) -> Tensor:
        return torch.from_numpy(self.states[self.rows[path]].copy())


class FeatureCache:
    """A folder of image states that many runs share.

    Args:
        folder: made when something is saved.
        limit_gb: size that the folder may have, in 10^9 bytes: pictures whose states find no room in it are
            encoded in every step; 0 for no cache.
    """

    def __init__(self, folder: Path, limit_gb: float = LIMIT_GB):
        self.folder, self.limit = folder, limit_gb * 1e9

    def features(self, family: ModelFamily, paths: Sequence[Path]) -> Features | None:
        """The states of pictures, computed unless the cache holds them.

        Args:
            family: the model, on its device.
            paths: pictures.

        Returns:
            None where the family computes no states, or where they find no room.

        Raises:
            UserError: a picture cannot be read, or the disk is full.
        """
        if not family.caches_features or self.limit <= 0:
            return None
        paths = list(dict.fromkeys(paths))
        file = self.folder / f"{_digest(family, paths)}.npy"
        while (array := self._array(file, family, len(paths))) is not None:
            missing = np.flatnonzero(array["done"] == 0).tolist()
            if not missing:
                return Features({path: row for row, path in enumerate(paths)}, array["state"])
            _fill(file, array, missing, paths, family)  # and look again: another command may have replaced it
        return None

    def _array(self, file: Path, family: ModelFamily, count: int) -> np.memmap | None:
        """The array in a file, new if there is none; None where a new one finds no room."""
        if (array := _opened(file, count)) is not None:
            return array
        shape = tuple(family.encode_images([Image.new("RGB", (64, 64))])[0].shape)
        record = np.dtype([("state", "<f4", shape), ("done", "<u4")])
        others = [other for other in self.folder.glob("*.npy") if not other.name.startswith(".")]
        if sum(other.stat().st_size for other in others) + record.itemsize * count > self.limit:
            return None
        with whole(file) as part:  # a file of zeros, which most disks do not store
            np.lib.format.open_memmap(part, mode="w+", dtype=record, shape=(count,))
        return _opened(file, count)


def _opened(file: Path, count: int) -> np.memmap | None:
    """The array in a file, read-only; None where there is none, or a damaged one, which is removed."""
    if not file.exists():
        return None
    try:
        array = np.lib.format.open_memmap(file, mode="r")
        if array.dtype.names != ("state", "done") or array.shape != (count,):
            raise ValueError("another array")
        return array
    except Exception as error:  # whatever is wrong with it
        note(f"{file} is damaged ({first_line(error)}): its image states are computed anew")
        file.unlink(missing_ok=True)
        return None


def _fill(
    file: Path, array: np.memmap, missing: Sequence[int], paths: Sequence[Path], family: ModelFamily
) -> None:
    """Compute states, and write each with its mark behind it. They are not written through the map: there a
    full disk would end the process.
    """
    with Progress(total=len(missing), desc="image states", unit="image", leave=False, delay=1) as bar:
        for start in range(0, len(missing), CHUNK):
            rows = missing[start : start + CHUNK]
            states = family.encode_images([paths[row] for row in rows]).float().cpu().numpy()
            try:
                with file.open("r+b") as out:
                    for row, state in zip(rows, states):
                        out.seek(array.offset + row * array.itemsize)
                        out.write(np.array((state, 1), array.dtype).tobytes())
            except FileNotFoundError:
                return  # another command has removed it
            except OSError as error:
                raise UserError(
                    f"{file}: image states cannot be saved ({first_line(error)}): make room on the disk, "
                    "give another --out, or encode images in every step with --on cache_gb=0"
                ) from error
            bar.update(len(rows))


def _digest(family: ModelFamily, paths: Sequence[Path]) -> str:
    """Tells an encoder, how it is computed, and pictures from all others."""
    encoder = family.image_encoder()
    about = (
        FORMAT,
        type(family).__qualname__,
        getattr(encoder, "config", ""),
        family.image_settings,
        f"{family.device.type} {torch.get_num_threads()}",  # the last digits depend on these
    )
    digest = hashlib.sha256("\n".join(map(str, about)).encode())
    for name, tensor in (*encoder.named_parameters(), *encoder.named_buffers()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    folders = {folder: os.path.realpath(folder) for folder in {path.parent for path in paths}}
    for path in paths:
        try:
            stat = path.stat()
        except OSError:
            raise UserError(f"image {path} not found: check the path, or write the data again") from None
        digest.update(f"{folders[path.parent]}/{path.name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:24]
