"""Prompts that compare two kinds of things, or two things."""

from __future__ import annotations

import random

from experiments.pretraining.words import NOUNS, Prompt, ask, choose, unique_pair, yes
from experiments.scenes.facts import count
from experiments.scenes.scene import Scene


def more(scene: Scene, rng: random.Random) -> Prompt | None:
    """Which of two kinds has more things, and whether one does, or both the same."""
    form = rng.choice(("shape", "color"))
    first, second = (choose(scene, rng, form, rng.random() < 0.7) for _ in range(2))
    a, b = count(scene, first), count(scene, second)
    if a == b and (first == second or rng.random() < 0.5):
        return None
    style = rng.randrange(3)
    noun = rng.choice(NOUNS)
    if style == 0 and a != b:
        prompt = ask(
            rng,
            ("more {first} or more {second} ?", "which is more common , {first} or {second} ?"),
            first=first.many(noun),
            second=second.many(noun),
        )
        return prompt, first.many(noun) if a > b else second.many(noun)
    if style == 1:
        prompt = ask(
            rng,
            (
                "do {first} outnumber {second} ?",
                "more {first} than {second} , yes or no ?",
                "compare : are {second} fewer than {first} ?",
            ),
            first=first.many(noun),
            second=second.many(noun),
        )
        if a <= b and rng.random() < 0.35:
            return None
        return prompt, yes(a > b)
    same = a == b
    prompt = ask(
        rng,
        ("the same number of {first} and {second} ?", "do you count as many {first} as {second} ?"),
        first=first.many(noun),
        second=second.many(noun),
    )
    return prompt, yes(same)


def compare_pair(scene: Scene, rng: random.Random) -> Prompt | None:
    """Which of two things is bigger, or whether they agree in an attribute."""
    pair = unique_pair(scene, rng)
    if not pair:
        return None
    (a, first), (b, second) = pair
    asked = rng.choice(("size", "color", "shape"))
    if asked == "size" and a.size != b.size and rng.random() < 0.6:
        bigger = rng.random() < 0.5
        prompt = ask(
            rng,
            (
                "which is {more} , the {first} or the {second} ?",
                "the {more} of the {first} and the {second} :",
            ),
            more="bigger" if bigger else "smaller",
            first=first.one(),
            second=second.one(),
        )
        return prompt, "the " + (first if (a.size == "large") == bigger else second).one()
    if getattr(a, asked) != getattr(b, asked) and rng.random() < 0.4:
        return None
    prompt = ask(
        rng,
        (
            "do the {first} and the {second} share one {asked} ?",
            "the {first} and the {second} : same {asked} ?",
            "is the {asked} of the {first} that of the {second} ?",
        ),
        first=first.one(),
        second=second.one(),
        asked=asked,
    )
    return prompt, yes(getattr(a, asked) == getattr(b, asked))
