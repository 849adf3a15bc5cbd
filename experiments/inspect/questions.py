"""Questions about one object of a scene, and the patches that show it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from attngraph.errors import UserError
from experiments.models.batch import Sample
from experiments.scenes.drawing import patch_targets
from experiments.scenes.facts import unique
from experiments.scenes.scene import Scene, Thing

# What is asked for, what the object is called by, and the question.
QUESTIONS = {"color": ("shape", "what color is the {}?"), "shape": ("color", "what shape is the {}?")}


def ask(samples: Sequence[Sample], seed: int) -> tuple[list[Sample], dict[str, Thing]]:
    """Questions about one object in each scene that shows one unlike the others.

    Args:
        samples: with scenes.
        seed: of the choice.

    Returns:
        Samples with question and answer, and ``{sample's name: object}``.

    Raises:
        UserError: no scene shows such an object.
    """
    rng, asked, things = random.Random(seed), [], {}
    for sample in samples:
        choices = [
            (attribute, thing, words)
            for attribute, (named, _) in QUESTIONS.items()
            for thing, words in unique(sample.scene, named)
        ]
        if choices:
            attribute, thing, words = rng.choice(choices)
            question = QUESTIONS[attribute][1].format(words.one())
            asked.append(replace(sample, prompt=question, answer=getattr(thing, attribute)))
            things[sample.name] = thing
    if not asked:
        raise UserError("no scene shows a thing unlike the others that one could ask about: raise --examples")
    return asked, things


def region(scene: Scene, thing: Thing, side: int) -> Tensor:
    """Which of ``side`` times ``side`` patches show an object, bool ``(patches,)``."""
    return torch.from_numpy(patch_targets(replace(scene, things=(thing,)), side)[0] > 0)
