"""Data of a run: examples in the order given by its seed, as samples, with cached image features.

The order is a function of the seed and the step only. So an interrupted run continues as if it had not been
interrupted, several processes together see the same examples as one process, and nothing depends on the
number of processes that read images.
"""

from __future__ import annotations

import hashlib
import math
import multiprocessing
import os
import random
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import numpy as np
import torch
from filelock import FileLock
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from attngraph.errors import UserError
from attngraph.experiments.base.files import whole
from attngraph.experiments.base.messages import first_line
from attngraph.experiments.base.progress import Progress, note
from attngraph.experiments.data.example import Example
from attngraph.experiments.data.tables import Examples
from attngraph.experiments.models.augment import TrainingTransform, names_sides
from attngraph.experiments.models.batch import Sample
from attngraph.experiments.models.family import ModelFamily
from attngraph.experiments.models.images import open_image
from attngraph.experiments.tasks.task import Task

FORMAT = 4  # of cached states: raise it whenever the same pictures are read in another way
CHUNK = 64  # pictures that are encoded at a time
LIMIT_GB = 32.0  # of a folder of cached states
LOADERS = 4  # processes that read pictures for a GPU
SHARED_MEMORY = 2**30  # bytes: where there is less (containers), batches of loaders might not fit


def subset(examples: Sequence[Example], count: int | None) -> Sequence[Example]:
    """A fixed random subset (the same for every method and seed), or all."""
    if count is None or count >= len(examples):
        return examples
    places = random.Random(0).sample(range(len(examples)), count)
    return examples.take(places) if isinstance(examples, Examples) else [examples[k] for k in places]


# ---- the order -------------------------------------------------------------------------------------------


class Place(NamedTuple):
    """The next example of a run: its position, a uniform random number for the choice of its target, and the
    seed of the augmentation of its image.
    """

    position: int
    draw: float
    seed: int = 0


@lru_cache(maxsize=2)
def order_of(
    examples: int, seed: int, epoch: int, picture: Tensor | None = None, together: int = 1
) -> Tensor:
    """The order of an epoch's examples: a permutation.

    Args:
        picture: index of each example's image, from 0, ``(examples,)``; required for ``together``.
        together: number of consecutive examples of the same image, if it has that many. The groups and their
            order are random.
    """
    generator = torch.Generator().manual_seed(1_000_003 * seed + epoch)
    order = torch.randperm(examples, generator=generator)
    if picture is None or together == 1:
        return order
    order = order[picture[order].argsort(stable=True)]
    number = picture[order]
    is_first = (torch.arange(examples) - torch.searchsorted(number, number)) % together == 0
    group = is_first.cumsum(0) - 1
    groups = torch.randperm(int(group[-1]) + 1, generator=generator)
    return order[groups[group].argsort(stable=True)]


def places_of(
    examples: int, batch_size: int, seed: int, step: int, picture: Tensor | None = None, together: int = 1
) -> list[Place]:
    """The examples of a step. Each epoch has its own order (:func:`order_of`), and examples that do not fill
    a batch are skipped.
    """
    batch_size = min(batch_size, examples)
    epoch, k = divmod(step, examples // batch_size)
    order = order_of(examples, seed, epoch, picture, together)
    draws = torch.rand(batch_size, generator=torch.Generator().manual_seed(7_368_787 * seed + 31 + step))
    positions = order[k * batch_size : (k + 1) * batch_size].tolist()
    return [
        Place(position, draw, _picture_seed(seed, step, number))
        for number, (position, draw) in enumerate(zip(positions, draws.tolist()))
    ]


def _picture_seed(seed: int, step: int, number: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed} {step} {number}".encode(), digest_size=7).digest())


# ---- samples ---------------------------------------------------------------------------------------------


class TaskData(Dataset):
    """A split of a task as samples of a model family, with images as required by the method.

    Images are opened when they are needed; an unreadable image is an error.

    Args:
        family: the model, in place on its device.
        task: the task.
        examples: examples of the split.
        cache: cache of image features; without it, and if the image encoder is trained, images are encoded in
            every step.
        hide: whether the model gets an empty image.
        augment: whether images are augmented randomly; image features are not cached in this case.
        released: model whose released code's prompts are used, see
            :class:`attngraph.experiments.models.family.Decoding`; None for the family's prompts.

    Attributes:
        features: cached image features, if any.
    """

    def __init__(
        self,
        family: ModelFamily,
        task: Task,
        examples: Sequence[Example],
        cache: FeatureCache | None = None,
        hide: bool = False,
        augment: bool = False,
        released: str | None = None,
    ):
        self.family, self.task, self.examples = family, task, examples
        self.prompts = released or family.name  # whose
        self.blank = family.blank_image() if hide else None
        changes = augment and not hide
        self.transform = TrainingTransform(family.image_side) if changes else None
        self.features = None
        if cache is not None and not (hide or changes or family.trains_image_encoder()):
            self.features = cache.features(family, pictures(examples))

    @property
    def reads_pictures(self) -> bool:
        """Whether samples contain images that have not been read yet."""
        return self.blank is None and self.features is None

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, place: Place) -> Sample:
        """The sample of a training example, with the target chosen by its random number."""
        place = Place(*place)
        sample = self.sample(place.position, place.draw)
        if self.transform is None:
            return sample
        mirrors = self.task.mirrors and not names_sides(f"{sample.prompt} {sample.answer}")
        return replace(sample, image=self.transform(open_image(sample.image), place.seed, mirrors))

    def sample(self, position: int, draw: float | None = None) -> Sample:
        """The sample at a position; without an answer if there is no random number."""
        example = self.examples[position]
        sample = self.task.sample(example, self.prompts, draw)
        if self.blank is not None:
            return replace(sample, image=self.blank)
        return sample if self.features is None else replace(sample, image=self.features[example.image])

    def first(self, count: int) -> list[Sample]:
        """The samples of this many examples, with the first of their targets."""
        return [self.sample(position, draw=0.0) for position in range(min(count, len(self)))]


def pictures(examples: Sequence[Example]) -> list[Path]:
    """Each image once, in the order of the examples."""
    if isinstance(examples, Examples):
        return examples.images()
    return list(dict.fromkeys(example.image for example in examples))


def picture_numbers(examples: Sequence[Example]) -> Tensor:
    """Index of each example's image in :func:`pictures`, int64 ``(examples,)``."""
    if isinstance(examples, Examples):
        return torch.from_numpy(examples.image_numbers())
    numbers = {path: number for number, path in enumerate(pictures(examples))}
    return torch.tensor([numbers[example.image] for example in examples])


# ---- processes that read pictures while a run computes -----------------------------------------------------


def loader_options(reads_pictures: bool, device: torch.device) -> dict[str, Any]:
    """Options of a DataLoader: one process for a run on CPUs, up to :data:`LOADERS` for a run on a GPU; none
    if there are no images to read, or if processes cannot be forked safely.
    """
    if not reads_pictures or sys.platform != "linux" or shutil.disk_usage("/dev/shm").free < SHARED_MEMORY:
        return {}
    share = (os.cpu_count() or 1) // max(1, torch.cuda.device_count())
    workers = 1 if device.type == "cpu" else max(1, min(LOADERS, share))
    return {"num_workers": workers, "multiprocessing_context": "fork"}


# ---- cached states of pictures -----------------------------------------------------------------------------


class Features:
    """Image features ``(nodes, width)`` by path. While a tensor of an image is in use, such as by a sample of
    the same batch, the same tensor is returned again.

    Args:
        paths: images, in the order of the rows.
        states: ``(images, nodes, width)``.
    """

    def __init__(self, paths: Sequence[Path], states: np.ndarray):
        self.rows, self.states = {path: row for row, path in enumerate(paths)}, states
        self._held: WeakValueDictionary[Path, Tensor] = WeakValueDictionary()

    def __getitem__(self, path: Path) -> Tensor:
        states = self._held.get(path)
        if states is None:
            states = self._held[path] = torch.from_numpy(self.states[self.rows[path]].copy())
        return states


class FeatureCache:
    """A folder of features of a frozen image encoder, shared by many runs and never completely in memory.

    The features of a set of images are one file, a memory-mapped array. The file's name is a digest of the
    encoder, of the conditions of its computation, and of each image's path, size and modification time. One
    process fills a file; others that need the same file wait.

    Args:
        folder: created when something is saved.
        limit_gb: maximum size of the folder, in 10^9 bytes: images whose features do not fit are encoded in
            every step; 0 for no cache. Processes that fill files at the same time do not count each other's
            files.
    """

    def __init__(self, folder: Path, limit_gb: float = LIMIT_GB):
        self.folder, self.limit = folder, limit_gb * 1e9

    def features(self, family: ModelFamily, paths: Sequence[Path]) -> Features | None:
        """The features of images without duplicates; None if the family does not compute features, or if they
        do not fit.

        Raises:
            UserError: an image cannot be read, or the disk is full.
        """
        if not family.caches_features or self.limit <= 0:
            return None
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / f"{_digest(family, paths)}.npy"
        with FileLock(file.with_suffix(".lock")):
            states = self._saved(file, len(paths))
            if states is None and self._fill(file, family, paths):
                states = self._saved(file, len(paths))
        return None if states is None else Features(paths, states)

    def _saved(self, file: Path, count: int) -> np.ndarray | None:
        """The features in a file; None if it is missing, or damaged, in which case it is removed."""
        if not file.exists():
            return None
        with suppress(ValueError, EOFError):
            states = np.load(file, mmap_mode="r")
            if len(states) == count:
                return states
        note(f"{file} is damaged: its image features are computed again")
        file.unlink()
        return None

    def _fill(self, file: Path, family: ModelFamily, paths: Sequence[Path]) -> bool:
        """Compute and write features, without memory mapping, with which a full disk would kill the process.
        Returns whether they fit.
        """
        shape = tuple(family.encode_images([Image.new("RGB", (64, 64))])[0].shape)
        about = {"descr": "<f4", "fortran_order": False, "shape": (len(paths), *shape)}
        held = sum(other.stat().st_size for other in self.folder.glob("[!.]*.npy"))
        if held + 4 * math.prod(about["shape"]) > self.limit:
            return False
        options: dict[str, Any] = {"desc": "image features", "unit": "image", "leave": False, "delay": 1}
        is_worker = multiprocessing.parent_process() is not None  # the command has a bar of its own
        with Progress(total=len(paths), disable=is_worker, **options) as bar:
            try:
                with whole(file) as part, part.open("wb") as out:
                    np.lib.format.write_array_header_1_0(out, about)
                    for start in range(0, len(paths), CHUNK):
                        chunk = paths[start : start + CHUNK]
                        out.write(family.encode_images(chunk).float().cpu().numpy().tobytes())
                        bar.update(len(chunk))
            except OSError as error:
                raise UserError(
                    f"{file}: image features cannot be saved ({first_line(error)}): free disk space, use "
                    "another --out, or encode images in every step with --on cache_gb=0"
                ) from error
        return True


def _digest(family: ModelFamily, paths: Sequence[Path]) -> str:
    """A digest of an encoder, the conditions of its computation, and images."""
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
