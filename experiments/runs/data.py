"""What a run sees: examples in the order of its seed, as samples, with the states of their pictures cached.

The order is a function of the seed and of the step alone. So an interrupted run continues as if it had not
been interrupted, several processes see together what one would, and nothing depends on how many processes
read pictures.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import random
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from attngraph.errors import UserError
from experiments.base.files import whole
from experiments.base.messages import first_line
from experiments.base.progress import Progress, note
from experiments.base.stopping import SIGNALS, end_with_parent
from experiments.data.example import Example
from experiments.data.tables import Examples
from experiments.methods.method import Vision
from experiments.models.batch import Sample
from experiments.models.family import ModelFamily
from experiments.models.images import TrainingTransform, names_sides, open_image
from experiments.tasks.task import Task

FORMAT = 3  # of cached states: raise it whenever the same pictures are read in another way
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
    """Where a run is.

    Args:
        position: of an example.
        draw: uniform, for its target.
        seed: of the changes of its picture.
    """

    position: int
    draw: float
    seed: int = 0


def batch_positions(examples: int, batch_size: int, seed: int, step: int) -> tuple[Tensor, Tensor]:
    """Positions of a step's examples, and a uniform draw for each. Every epoch is a new permutation; examples
    that do not fill a batch are left out of it."""
    batch_size = min(batch_size, examples)
    per_epoch = examples // batch_size
    epoch, k = divmod(step, per_epoch)
    order = torch.randperm(examples, generator=torch.Generator().manual_seed(1_000_003 * seed + epoch))
    draws = torch.rand(batch_size, generator=torch.Generator().manual_seed(7_368_787 * seed + 31 + step))
    return order[k * batch_size : (k + 1) * batch_size], draws


def picture_seed(seed: int, step: int, k: int) -> int:
    """The seed of the changes of the picture of a step's k-th example."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {step} {k}".encode(), digest_size=7).digest())


class StepSampler(Sampler[Place]):
    """The places of all steps of a run, one after the other.

    Args:
        examples: how many there are.
        batch_size: examples per step.
        seed: of the order and of the draws.
        steps: of the run.
        begin: how many of them are done already.
    """

    def __init__(self, examples: int, batch_size: int, seed: int, steps: int, begin: int = 0):
        self.examples, self.batch_size = examples, min(batch_size, examples)
        self.seed, self.steps, self.begin = seed, steps, begin

    def __len__(self) -> int:
        return (self.steps - self.begin) * self.batch_size

    def __iter__(self) -> Iterator[Place]:
        for step in range(self.begin, self.steps):
            positions, draws = batch_positions(self.examples, self.batch_size, self.seed, step)
            for k, (position, draw) in enumerate(zip(positions.tolist(), draws.tolist())):
                yield Place(position, draw, picture_seed(self.seed, step, k))


# ---- samples ---------------------------------------------------------------------------------------------


class TaskData(Dataset):
    """A split of a task as samples of a model family, with pictures as the method lets the model see them.

    Pictures are opened when they are needed. One that cannot be read is an error.

    Args:
        family: the model, in place on its device.
        task: which.
        examples: of the split.
        vision: ``frozen`` takes image states from the cache where there are any, ``trained`` takes the
            pictures, ``zero`` hides them.
        cache: of image states; without one each picture is encoded when it is asked about.
        augment: whether pictures are changed, each time otherwise; no image states are cached then.
        released: whose released code's prompts are put, see :class:`experiments.models.family.Decoding`;
            None for the family's.

    Attributes:
        features: cached image states, if any.
    """

    def __init__(
        self,
        family: ModelFamily,
        task: Task,
        examples: Sequence[Example],
        vision: Vision,
        cache: FeatureCache | None,
        augment: bool = False,
        released: str | None = None,
    ):
        self.family, self.task, self.examples = family, task, examples
        self.prompts = released or family.name  # whose
        self.blank = family.blank_image() if vision == "zero" else None
        changes = augment and vision != "zero"
        self.transform = TrainingTransform(family.image_side) if changes else None
        self.features = None
        if vision == "frozen" and not changes and cache is not None:
            self.features = cache.features(family, pictures(examples))

    @property
    def reads_pictures(self) -> bool:
        """Whether samples hold pictures that are still to be read."""
        return self.blank is None and self.features is None

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, place: Place) -> Sample:
        """The sample of a place in training, with the target that its draw picks."""
        place = Place(*place)
        sample = self.sample(place.position, place.draw)
        if self.transform is None:
            return sample
        mirrors = self.task.mirrors and not names_sides(f"{sample.prompt} {sample.answer}")
        return replace(sample, image=self.transform(open_image(sample.image), place.seed, mirrors))

    def sample(self, position: int, draw: float | None = None) -> Sample:
        """The sample at a position; without an answer if there is no draw."""
        example = self.examples[position]
        sample = self.task.sample(example, self.prompts, draw)
        if self.blank is not None:
            return replace(sample, image=self.blank)
        return sample if self.features is None else replace(sample, image=self.features[example.image])

    def first(self, count: int) -> list[Sample]:
        """The samples of so many examples, with the first of their targets."""
        return [self.sample(position, draw=0.0) for position in range(min(count, len(self)))]


def pictures(examples: Sequence[Example]) -> list[Path]:
    """Each picture once, in the order of the examples."""
    if isinstance(examples, Examples):
        return examples.images()
    return list(dict.fromkeys(example.image for example in examples))


# ---- processes that read pictures while a run computes -----------------------------------------------------


def loader_options(reads_pictures: bool, device: torch.device) -> dict[str, Any]:
    """Options of a DataLoader: one process beside a run on CPUs, up to :data:`LOADERS` for one on a GPU; none
    where there are no pictures to read, or where processes cannot be forked safely.
    """
    if not reads_pictures or sys.platform != "linux" or shutil.disk_usage("/dev/shm").free < SHARED_MEMORY:
        return {}
    share = (os.cpu_count() or 1) // max(1, torch.cuda.device_count())
    workers = 1 if device.type == "cpu" else max(1, min(LOADERS, share))
    return {"num_workers": workers, "multiprocessing_context": "fork"}


def begin_loader(worker: int) -> None:
    """What a loader does first: it ends whenever the run ends, and leaves signals to it."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN if number == signal.SIGINT else signal.SIG_DFL)
    end_with_parent()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # else it warns that it was forked


# ---- cached states of pictures -----------------------------------------------------------------------------


class Features:
    """The states ``(nodes, width)`` of pictures, by their paths.

    Args:
        paths: pictures, in the order of the rows.
        states: ``(pictures, nodes, width)``.
    """

    def __init__(self, paths: Sequence[Path], states: np.ndarray):
        self.rows, self.states = {path: row for row, path in enumerate(paths)}, states

    def __getitem__(self, path: Path) -> Tensor:
        return torch.from_numpy(self.states[self.rows[path]].copy())


class FeatureCache:
    """A folder of states of a frozen image encoder that many runs share: computed once, never all in memory.

    The states of a set of pictures lie in one file, an array that is mapped into memory: for each picture its
    state and a mark that says whether it is there. The file's name is a digest of the encoder, of how it is
    computed, and of each picture's path, size and time: whatever differs has another file. Several processes
    may fill one file at the same time, since they write the same numbers to the same places.

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
            paths: pictures, each once.

        Returns:
            None where the family computes no states, or where they find no room.

        Raises:
            UserError: a picture cannot be read, or the disk is full.
        """
        if not family.caches_features or self.limit <= 0:
            return None
        file = self.folder / f"{_digest(family, paths)}.npy"
        while (array := self._array(file, family, len(paths))) is not None:
            if array["done"].all():
                return Features(paths, array["state"])
            _fill(file, array, paths, family)  # and look again: another command may have replaced it
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


def _fill(file: Path, array: np.memmap, paths: Sequence[Path], family: ModelFamily) -> None:
    """Compute states, and write each with its mark behind it. They are not written through the map: there a
    full disk would end the process. Each process goes its own way through the chunks and leaves out those
    that others have done, so that several share the work; chunks are the same always, and so are the states.
    """
    starts = range(0, len(paths), CHUNK)
    is_worker = multiprocessing.parent_process() is not None  # one bar is enough
    about: dict[str, Any] = {"desc": "image states", "unit": "image", "leave": False, "delay": 1}
    with Progress(total=len(paths), disable=is_worker, **about) as bar:
        for start in random.Random(os.getpid()).sample(starts, len(starts)):
            chunk = paths[start : start + CHUNK]
            if array["done"][start : start + CHUNK].all():
                continue
            states = family.encode_images(chunk).float().cpu().numpy()
            try:
                with file.open("r+b") as out:
                    out.seek(array.offset + start * array.itemsize)
                    for state in states:
                        out.write(np.array((state, 1), array.dtype).tobytes())
            except FileNotFoundError:
                return  # another command has removed it
            except OSError as error:
                raise UserError(
                    f"{file}: image states cannot be saved ({first_line(error)}): make room on the disk, "
                    "give another --out, or encode images in every step with --on cache_gb=0"
                ) from error
            bar.update(len(chunk))


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
