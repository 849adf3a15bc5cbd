"""Examples of a task as samples of a model family, with the images as the method lets the model see them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch.utils.data import Dataset

from experiments.data.example import Example
from experiments.data.tables import Examples
from experiments.methods.method import Vision
from experiments.models.batch import Sample
from experiments.models.family import ModelFamily
from experiments.models.images import TrainingTransform, names_sides, open_image
from experiments.runs.features import FeatureCache
from experiments.runs.order import Place
from experiments.tasks.task import Task


class TaskData(Dataset):
    """A split of a task.

    Pictures are opened when they are needed. One that cannot be read is an error.

    Args:
        family: the model, in place on its device.
        task: which.
        examples: of the split.
        vision: ``frozen`` takes image states from the cache where there are any, ``trained`` takes the
            pictures, ``zero`` hides them.
        cache: of image states.
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
        cache: FeatureCache,
        augment: bool = False,
        released: str | None = None,
    ):
        self.family, self.task, self.examples = family, task, examples
        self.prompts = released or family.name  # whose
        self.blank = family.blank_image() if vision == "zero" else None
        changes = augment and vision != "zero"
        self.transform = TrainingTransform(family.image_side) if changes else None
        self.features = None
        if vision == "frozen" and not changes:
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


def subset(examples: Sequence[Example], count: int | None) -> Sequence[Example]:
    """A fixed random subset (the same for every method and seed), or all."""
    if count is None or count >= len(examples):
        return examples
    places = random.Random(0).sample(range(len(examples)), count)
    return examples.take(places) if isinstance(examples, Examples) else [examples[k] for k in places]
