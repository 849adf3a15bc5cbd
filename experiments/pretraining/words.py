"""What the pre-training texts share: words for things, and how things are chosen to ask about."""

from __future__ import annotations

import random

from experiments.scenes.facts import FORMS, Description, count, describe, random_description, unique
from experiments.scenes.scene import COLORS, HUGE_COLORS, HUGE_SHAPES, SHAPES, Scene, Thing

NOUNS = ("thing", "object", "item", "shape")
BESIDE_WORDINGS = {
    "left": ("left of", "to the left of", "further left than"),
    "right": ("right of", "to the right of", "further right than"),
    "above": ("above", "over", "higher than"),
    "below": ("below", "under", "lower than"),
}

Prompt = tuple[str, str]  # the prompt, and its answer


def ask(rng: random.Random, wordings: tuple[str, ...], **words: str) -> str:
    """One of the wordings at random, with its words filled in."""
    return rng.choice(wordings).format(**words)


def palette(scene: Scene) -> dict:
    """The attributes to ask about: more of them for scenes that show one huge thing."""
    if scene.things[0].size == "huge":
        return {"shapes": HUGE_SHAPES, "colors": tuple(HUGE_COLORS)}
    return {"shapes": SHAPES, "colors": tuple(COLORS)}


def random_form(scene: Scene, rng: random.Random) -> str:
    """The attributes that a description shall name, at random; never the size of a huge thing."""
    return rng.choice(FORMS[:3] if scene.things[0].size == "huge" else FORMS)


def absent(scene: Scene, rng: random.Random, form: str) -> Description:
    """A description that fits nothing; half the time it misses a present thing by one attribute."""
    while True:
        words = random_description(rng, form, **palette(scene))
        if rng.random() < 0.5 and " " in form:
            keep = rng.choice(form.split())
            near = describe(rng.choice(scene.things), keep)
            words = Description(near.size or words.size, near.color or words.color, near.shape or words.shape)
        if not count(scene, words):
            return words


def choose(scene: Scene, rng: random.Random, form: str, present: bool) -> Description:
    """A description that fits something in the scene, or nothing if not ``present``."""
    return describe(rng.choice(scene.things), form) if present else absent(scene, rng, form)


def yes(value: bool) -> str:
    """The word for a truth value."""
    return "yes" if value else "no"


def unique_pair(scene: Scene, rng: random.Random) -> list[tuple[Thing, Description]] | None:
    """Two things with descriptions of the same form that fit nothing else; ``None`` if there are none."""
    for form in rng.sample(("shape", "color", "color shape"), 3):
        singles = unique(scene, form)
        if len(singles) > 1:
            return rng.sample(singles, 2)
    return None
