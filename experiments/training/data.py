"""Examples of a task as samples of a model family, with the images as the method lets the model see them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch.utils.data import Dataset

from attngraph.errors import UserError
from experiments.datasets.example import Example
from experiments.methods.method import Vision
from experiments.models.batch import Sample
from experiments.models.family import ModelFamily
from experiments.models.images import open_image
from experiments.models.transforms import TrainingTransform
from experiments.tasks.task import Task
from experiments.training.features import FeatureCache
from experiments.training.order import Place


class TaskData(Dataset):
    """A split of a task.

    Pictures are opened when they are needed. One that cannot be read is an error, or leaves out all examples
    about it: in training the next example with a picture takes the place of each.

    Args:
        family: the model, in place on its device.
        task: which.
        examples: of the split.
        vision: ``frozen`` takes image states from the cache where there are any, ``trained`` takes the
            pictures, ``zero`` hides them.
        cache: of image states.
        augment: whether pictures are changed, each time otherwise; no image states are cached then.
        skip_bad: how many examples may be left out.

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
        skip_bad: int = 0,
    ):
        self.family, self.task, self.examples, self.skip_bad = family, task, examples, skip_bad
        self.blank = family.blank_image() if vision == "zero" else None
        changes = augment and vision != "zero"
        self.transform = TrainingTransform(family.image_side, task.mirrors) if changes else None
        self.features = None
        self.bad = torch.zeros(len(examples), dtype=torch.uint8).share_memory_()  # with loader workers
        self.readable: set[Path] = set()  # pictures, as far as they were tried
        if vision == "frozen" and not changes:
            paths = [example.image for example in examples]
            self.features = cache.features(family, paths, skip_bad)
            faults = {} if self.features is None else self.features.faults
            for position, path in enumerate(paths) if faults else ():
                if path in faults:
                    self._leave_out(position, faults[path])

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
                return replace(sample, image=self.transform(open_image(sample.image), place.seed))
        raise UserError(f"{self.task.title}: none of the pictures can be read: check the folder of images")

    def shows(self, position: int) -> bool:
        """Whether there is something to see at a position; if not, the example counts as left out.

        Raises:
            UserError: the picture cannot be read, and no more may be left out.
        """
        path = self.examples[position].image
        if self.bad[position]:
            return False
        if self.skip_bad and self.reads_pictures and path not in self.readable:
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
        sample = self.task.sample(example, self.family.name, draw)
        if self.blank is not None:
            return replace(sample, image=self.blank)
        return sample if self.features is None else replace(sample, image=self.features[example.image])

    @property
    def left_out(self) -> list[int]:
        """The positions of the examples that this process and its loader workers have left out so far."""
        return self.bad.nonzero()[:, 0].tolist()

    def _leave_out(self, position: int, error: UserError) -> None:
        self.bad[position] = 1
        if int(self.bad.sum()) > self.skip_bad:
            raise UserError(
                f"more than {self.skip_bad} examples have pictures that cannot be read (--skip-bad "
                f"{self.skip_bad}); the last one: {error}"
            )


def subset(examples: Sequence[Example], count: int | None) -> Sequence[Example]:
    """A fixed random subset (the same for every method and seed), or all."""
    if count is None or count >= len(examples):
        return examples
    return random.Random(0).sample(examples, count)
