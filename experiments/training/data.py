"""Examples of a task as samples of a model family, with the images as the method lets the model see them."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch
from accelerate.utils import gather_object
from torch.utils.data import Dataset

from attngraph.errors import UserError
from experiments.datasets.example import Example
from experiments.datasets.faults import Faults
from experiments.datasets.tables import Examples
from experiments.methods.method import Vision
from experiments.models.batch import Sample
from experiments.models.family import ModelFamily
from experiments.models.images import TrainingTransform, names_sides, open_image
from experiments.tasks.task import Task
from experiments.training.features import FeatureCache
from experiments.training.order import Place


class TaskData(Dataset):
    """A split of a task.

    Pictures are opened when they are needed. One that cannot be read is an error, or the examples about it
    are left out: in training the next example whose picture can be read takes the place of each.

    Args:
        family: the model, in place on its device.
        task: which.
        examples: of the split.
        vision: ``frozen`` takes image states from the cache where there are any, ``trained`` takes the
            pictures, ``zero`` hides them.
        cache: of image states.
        augment: whether pictures are changed, each time otherwise; no image states are cached then.
        faults: says how many records may be left out, these examples among them; by default none. It gets
            them from :meth:`settle`.
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
        cache: FeatureCache,
        augment: bool = False,
        faults: Faults | None = None,
        released: str | None = None,
    ):
        self.family, self.task, self.examples = family, task, examples
        self.prompts = released or family.name  # whose
        self.faults = Faults() if faults is None else faults
        self.blank = family.blank_image() if vision == "zero" else None
        changes = augment and vision != "zero"
        self.transform = TrainingTransform(family.image_side) if changes else None
        self.features = None
        self.bad = torch.zeros(len(examples), dtype=torch.uint8)
        if self.may_lack:
            self.bad.share_memory_()  # with loader workers
        self.readable: set[Path] = set()  # pictures, as far as they were tried
        if vision == "frozen" and not changes:
            self.features = cache.features(family, pictures(examples), self.may_lack)
            unread = {} if self.features is None else self.features.faults
            for position, example in enumerate(examples) if unread else ():
                if example.image in unread:
                    self._leave_out(position, unread[example.image])

    @property
    def may_lack(self) -> float:
        """How many examples may be left out."""
        limit = self.faults.limit
        return math.inf if limit is None else limit - len(self.faults)

    @property
    def reads_pictures(self) -> bool:
        """Whether samples hold pictures that are still to be read."""
        return self.blank is None and self.features is None

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, place: Place) -> Sample:
        """The sample of a place in training, with the target that its draw picks."""
        place = Place(*place)
        for further in range(len(self)):
            position = (place.position + further) % len(self)
            if self.shows(position):
                sample = self.sample(position, place.draw)
                if self.transform is None:
                    return sample
                mirrors = self.task.mirrors and not names_sides(f"{sample.prompt} {sample.answer}")
                changed = self.transform(open_image(sample.image), place.seed, mirrors)
                return replace(sample, image=changed)
        raise self.empty()

    def shows(self, position: int) -> bool:
        """Whether the picture at a position can be read; if not, the example counts as left out, also where
        the picture is hidden, so that the rows of a table are scored on the same examples.

        Raises:
            UserError: the picture cannot be read, and no more may be left out.
        """
        path = self.examples[position].image
        if self.bad[position]:
            return False
        known = path in self.readable and path.exists()  # it may vanish while a run goes on
        if self.may_lack and self.features is None and not known:
            try:
                open_image(path)
            except UserError as error:
                self._leave_out(position, error)
                return False
            self.readable.add(path)
        return True

    def sample(self, position: int, draw: float | None = None) -> Sample:
        """The sample at a position; without an answer if there is no draw."""
        example = self.examples[position]
        sample = self.task.sample(example, self.prompts, draw)
        if self.blank is not None:
            return replace(sample, image=self.blank)
        return sample if self.features is None else replace(sample, image=self.features[example.image])

    def first(self, count: int) -> list[Sample]:
        """The samples of so many examples, with the first of their targets."""
        shown = (position for position in range(len(self)) if self.shows(position))
        return [self.sample(position, draw=0.0) for position in islice(shown, count)]

    # ---- what was left out -------------------------------------------------------------------------------

    def left_out(self) -> list[int]:
        """The positions of the examples that were left out so far, by any process, loader workers among them.
        All processes call this together.
        """
        return sorted(set(gather_object(self.bad.nonzero()[:, 0].tolist())))

    def leave_out(self, positions: Iterable[int]) -> None:
        """Leave out these examples, too."""
        self.bad[list(positions)] = 1

    def settle(self) -> Sequence[Example]:
        """Count in ``faults`` what was left out, and return the other examples. All processes call this
        together.
        """
        positions = self.left_out()
        self.leave_out(positions)
        for position in positions:
            example = self.examples[position]
            self.faults.add(f"{example.id}: {example.image} cannot be read; replace the file")
        if not positions:
            return self.examples
        return [example for k, example in enumerate(self.examples) if not self.bad[k]]

    def empty(self) -> UserError:
        """The error where nothing is left."""
        return UserError(f"{self.task.title}: no picture can be read: check the folder of images")

    def _leave_out(self, position: int, error: UserError) -> None:
        self.bad[position] = 1
        if int(self.bad.sum()) > self.may_lack:
            raise UserError(f"{self.faults.too_few(len(self.faults) + int(self.bad.sum()))}: {error}")


def pictures(examples: Sequence[Example]) -> list[Path]:
    """Each picture once, in the order of the examples."""
    if isinstance(examples, Examples):
        return examples.images()
    return list(dict.fromkeys(example.image for example in examples))


def subset(examples: Sequence[Example], count: int | None) -> Sequence[Example]:
    """A fixed random subset (the same for every method and seed), or all."""
    if count is None or count >= len(examples):
        return examples
    places = random.Random(0).sample(range(len(examples)), count)
    return examples.take(places) if isinstance(examples, Examples) else [examples[k] for k in places]
