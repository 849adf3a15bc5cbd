"""States of a frozen image encoder, computed once, kept on disk and read from there: never all in memory.

Each state is kept under a key of its own, which follows from the encoder, the processor's settings and the
picture; so tasks that show the same pictures share their states. States lie in *shards*: files of some dozens
of them, written whole or not at all and never changed. Several commands may use one folder: each finds the
shards that the others have written, and where two write the same states at the same time, nothing is lost but
time.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from attngraph.errors import UserError
from experiments.errors import first_line
from experiments.files import whole
from experiments.models.family import ModelFamily
from experiments.progress import Progress, note

FORMAT = 2  # raise it whenever the same pictures are read in another way
SHARD = 64  # states in a file, encoded at a time
RECORD = 256  # bytes that a file holds beside each state, at most
LIMIT_GB = 32.0  # of the folder
RESERVE = 0.1  # share of the disk that stays free
SUFFIX = ".safetensors"


class Shard:
    """An open file of states. It is mapped into memory, so it can be read even after it has been removed.

    Raises:
        Exception: of one kind or another: the file is damaged.
    """

    def __init__(self, file: Path):
        self.file = file
        self.tensors = safe_open(file, framework="pt")
        self.checksums: dict[str, int] = json.loads(self.tensors.metadata()["checksums"])
        self.keys = set(self.tensors.keys())
        if self.keys != set(self.checksums):
            raise ValueError("keys and checksums differ")
        self.checked: set[str] = set()

    def __getitem__(self, key: str) -> Tensor:
        """A state ``(nodes, width)``.

        Raises:
            UserError: its bytes are not those that were written.
        """
        state = self.tensors.get_tensor(key)
        if key not in self.checked:
            if _checksum(key, state) != self.checksums[key]:
                self.file.unlink(missing_ok=True)
                raise UserError(
                    f"{self.file} was damaged on the disk and has been removed: run the same command again, "
                    "which computes its image states anew; a run goes on from its last saved state"
                )
            self.checked.add(key)
        return state


class Features:
    """The states ``(nodes, width)`` of pictures, by their paths.

    Args:
        keys: picture -> key.
        shards: key -> where its state is.
    """

    def __init__(self, keys: Mapping[Path, str], shards: Mapping[str, Shard]):
        self.keys, self.shards = keys, shards

    def __getitem__(self, path: Path) -> Tensor:
        key = self.keys[path]
        return self.shards[key][key].clone()


class FeatureCache:
    """A folder of image states that many runs share.

    It never holds more than the limit: states that were used the longest time ago make room for new ones. A
    set of pictures whose states are larger than the limit is not cached, but encoded in every step.

    Args:
        folder: made when something is saved.
        limit_gb: size of the folder, in 10^9 bytes; 0 for no cache.
    """

    def __init__(self, folder: Path, limit_gb: float = LIMIT_GB):
        self.folder, self.limit = folder, limit_gb * 1e9

    def features(self, family: ModelFamily, paths: Sequence[Path]) -> Features | None:
        """The states of pictures, computed unless the cache holds them.

        Keys are digests of: the family's name, the encoder's configuration and weights, the settings by which
        pictures are prepared, the kind of device and the number of threads (the last digits depend on them);
        and of the picture's path, size and time.

        Args:
            family: the model, on its device.
            paths: pictures.

        Returns:
            None where the family computes no states, or where they would be larger than the limit.

        Raises:
            UserError: the disk has no room. Without states scores could differ in their last digits, so that
                is for the user to choose. Or a picture cannot be read.
        """
        paths = list(dict.fromkeys(paths))
        if not family.caches_features or self.limit <= 0:
            return None
        encoder = _encoder_digest(family)
        keys = _keys(encoder, paths)
        shards = self._open(encoder, set(keys.values()))
        missing = [path for path in keys if keys[path] not in shards]
        size = _state_bytes(family, shards) + RECORD
        if size * len(keys) > self.limit:
            return None
        if missing:
            self._check_disk(size * len(missing))
            self._write(family, encoder, {path: keys[path] for path in missing}, shards)
        return Features(keys, shards)

    def _open(self, encoder: str, wanted: set[str]) -> dict[str, Shard]:
        """Where the wanted states are. Damaged files are removed."""
        found: dict[str, Shard] = {}
        for file in sorted(self.folder.glob(f"{encoder}-*{SUFFIX}")):
            if (shard := self._opened(file)) is not None and (keys := shard.keys & wanted):
                found |= dict.fromkeys(keys, shard)
                _touch(file)
        return found

    def _opened(self, file: Path) -> Shard | None:
        try:
            return Shard(file)
        except FileNotFoundError:  # another command made room
            return None
        except Exception as error:  # whatever is wrong with it
            note(f"{file} is damaged ({first_line(error)}): its image states are computed anew")
            file.unlink(missing_ok=True)
            return None

    def _make_room(self, size: int) -> None:
        """Remove the files that were used the longest time ago until so many bytes more are below the limit.
        Whoever has them open can read them still.
        """
        stats = {file: _stat(file) for file in self.folder.glob(f"*{SUFFIX}")}
        held = [(stat.st_mtime_ns, stat.st_size, file) for file, stat in stats.items() if stat]
        total = sum(size for _, size, _ in held)
        for _, freed, file in sorted(held):
            if total + size <= self.limit:
                break
            file.unlink(missing_ok=True)
            total -= freed

    def _check_disk(self, size: int) -> None:
        nearest = next(folder for folder in (self.folder, *self.folder.absolute().parents) if folder.exists())
        disk = shutil.disk_usage(nearest)
        if size > disk.free - RESERVE * disk.total:
            raise UserError(
                f"{self.folder}: the image states take {size / 1e6:,.1f} MB, and {RESERVE:.0%} of the disk "
                f"must stay free ({disk.free / 1e6:,.1f} of {disk.total / 1e6:,.1f} MB are free): make room, "
                "give another --out, or encode images in every step with --cache-gb 0"
            )

    def _write(
        self,
        family: ModelFamily,
        encoder: str,
        missing: Mapping[Path, str],
        shards: dict[str, Shard],
    ) -> None:
        """Encode pictures, shard by shard; ``shards`` gets what comes out."""
        paths = list(missing)
        with Progress(total=len(paths), desc="image states", unit="image", leave=False, delay=1) as bar:
            for start in range(0, len(paths), SHARD):
                chunk = paths[start : start + SHARD]
                states = family.encode_images(chunk).float().cpu().contiguous()
                shard = self._save(encoder, {missing[path]: state for path, state in zip(chunk, states)})
                shards |= dict.fromkeys(shard.keys, shard)
                bar.update(len(chunk))

    def _save(self, encoder: str, states: dict[str, Tensor]) -> Shard:
        checksums = {key: _checksum(key, state) for key, state in states.items()}
        name = hashlib.sha256("".join(sorted(states)).encode()).hexdigest()[:16]
        file = self.folder / f"{encoder}-{name}{SUFFIX}"
        content = save(states, {"checksums": json.dumps(checksums)})
        self._make_room(len(content))
        with whole(file) as part:
            # Written, not mapped into memory: there a full disk would end the process instead of raising
            # OSError.
            part.write_bytes(content)
            shard = Shard(part)  # before another command can remove it to make room
        shard.file = file
        return shard


def _encoder_digest(family: ModelFamily) -> str:
    encoder = family.image_encoder()
    computed = f"{family.device.type} {torch.get_num_threads()}"  # the last digits depend on these
    parts = (
        FORMAT,
        type(family).__qualname__,
        getattr(encoder, "config", ""),
        family.image_settings,
        computed,
    )
    digest = hashlib.sha256("\n".join(map(str, parts)).encode())
    for name, tensor in (*encoder.named_parameters(), *encoder.named_buffers()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:24]


def _keys(encoder: str, paths: Sequence[Path]) -> dict[Path, str]:
    """Picture -> key of its state."""
    folders = {folder: os.path.realpath(folder) for folder in {path.parent for path in paths}}
    keys = {}
    for path in paths:
        if (stat := _stat(path)) is None:
            raise UserError(f"image {path} not found: check the path, or write the data again")
        about = f"{encoder} {folders[path.parent]}/{path.name} {stat.st_size} {stat.st_mtime_ns}"
        keys[path] = hashlib.sha256(about.encode()).hexdigest()[:32]
    return keys


def _state_bytes(family: ModelFamily, shards: Mapping[str, Shard]) -> int:
    """The size of a state in float32."""
    if shards:
        key, shard = next(iter(shards.items()))
        return 4 * shard.tensors.get_tensor(key).numel()
    return 4 * family.encode_images([Image.new("RGB", (64, 64))])[0].numel()


def _checksum(key: str, state: Tensor) -> int:
    return zlib.crc32(state.numpy().data, zlib.crc32(f"{key} {tuple(state.shape)} {state.dtype}".encode()))


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


def _touch(file: Path) -> None:
    """Note that a file is in use."""
    with suppress(OSError):  # another user's, or gone
        os.utime(file)
