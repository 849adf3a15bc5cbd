"""Examples of a task as samples of a model family, with the images as the method lets the model see them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from torch.utils.data import Dataset

from experiments.datasets.example import Example
from experiments.methods.method import Vision
from experiments.models.batch import Sample
from experiments.models.family import ModelFamily
from experiments.tasks.task import Task
from experiments.training.features import FeatureCache
from experiments.training.order import Place


class TaskData(Dataset):
    """A split of a task.

    Args:
        family: the model, in place on its device.
        task: which.
        examples: of the split.
        vision: ``frozen`` takes image states from the cache where there are any, ``trained`` takes the
            pictures, ``zero`` hides them.
        cache: of image states.
    """

    def __init__(
        self,
        family: ModelFamily,
        task: Task,
        examples: Sequence[Example],
        vision: Vision,
        cache: FeatureCache,
    ):
        self.family, self.task, self.examples = family, task, examples
        self.blank = family.blank_image() if vision == "zero" else None
        paths = [example.image for example in examples]
        self.features = cache.features(family, paths) if vision == "frozen" else None

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, place: Place) -> Sample:
        """The sample at a position, with the target that a draw picks."""
        position, draw = place
        return self.sample(position, draw)

    def sample(self, position: int, draw: float | None = None) -> Sample:
        """The sample at a position; without an answer if there is no draw."""
        example = self.examples[position]
        sample = self.task.sample(example, self.family.name, draw)
        if self.blank is not None:
            return replace(sample, image=self.blank)
        return sample if self.features is None else replace(sample, image=self.features[example.image])


def subset(examples: list[Example], count: int | None) -> list[Example]:
    """A fixed random subset (the same for every method and seed), or all."""
    if count is None or count >= len(examples):
        return examples
    return random.Random(0).sample(examples, count)
