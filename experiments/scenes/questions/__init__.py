"""Questions about downstream scenes in seven kinds, balanced so that the text alone gives nothing away."""

from collections.abc import Iterator

from experiments.scenes.balance import Sentence, jobs, place
from experiments.scenes.questions import attributes, comparison, counts, existence, negation, spatial
from experiments.scenes.scene import SPLITS, Scene, generator

_STREAM = 1

# The order is part of the data set: with another one, the same seed gives other questions.
TEMPLATES = (
    *existence.TEMPLATES,
    *counts.TEMPLATES,
    *attributes.TEMPLATES,
    *comparison.TEMPLATES,
    *spatial.TEMPLATES,
    *negation.TEMPLATES,
)


def questions(
    split: str, amount: int, seed: int, per_scene: int = 2
) -> Iterator[tuple[Scene, list[Sentence]]]:
    """Yields scenes with their questions, ``amount`` questions in all; the same for the same arguments."""
    rng = generator(seed, _STREAM, SPLITS.index(split))
    return place(jobs(TEMPLATES, amount, rng), per_scene, split, seed, _STREAM)
