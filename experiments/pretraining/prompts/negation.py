"""Prompts about what is not shown, and about the curtain that hides a part."""

from __future__ import annotations

import random

from experiments.pretraining.words import NOUNS, Prompt, ask, choose, random_form, yes
from experiments.scenes.facts import plural
from experiments.scenes.scene import Scene


def negation(scene: Scene, rng: random.Random) -> Prompt | None:
    """Whether something is missing, and what is not of a kind."""
    noun = rng.choice(NOUNS)
    style = rng.randrange(3)
    if style == 0:
        missing = rng.random() < 0.5
        words = choose(scene, rng, random_form(scene, rng), not missing)
        prompt = ask(
            rng,
            (
                "is {a} missing ?",
                "does it lack {a} ?",
                "are you without any {many} here ?",
                "not one {one} , right ?",
            ),
            a=words.a(noun),
            many=words.many(noun),
            one=words.one(noun),
        )
        return prompt, yes(missing)
    kind = rng.choice(("color", "shape"))
    words = choose(scene, rng, kind, rng.random() < 0.8)
    name = words.color or words.a()
    others = [thing for thing in scene.things if not words.fits(thing)]
    if style == 1:
        if len(others) > 2 and rng.random() < 0.5:
            return None
        prompt = ask(
            rng,
            (
                "count what is not {name}",
                "number of {nouns} other than {name} ?",
                "excluding any {name} , how many ?",
            ),
            name=name,
            nouns=plural(noun),
        )
        return prompt, str(len(others))
    if len(others) != 1:
        return None
    asked = "shape" if kind == "color" and rng.random() < 0.5 else "color"
    prompt = ask(
        rng,
        (
            "the one that is not {name} has which {asked} ?",
            "name the {asked} of the only {noun} that is not {name}",
        ),
        name=name,
        asked=asked,
        noun="thing" if noun == "shape" else noun,
    )
    return prompt, getattr(others[0], asked)


def curtain(scene: Scene, rng: random.Random) -> Prompt | None:
    """Whether there is a curtain, and on which side."""
    if rng.random() < 0.4 and scene.curtain:
        prompt = ask(
            rng,
            (
                "where is the curtain ?",
                "which side does the curtain hide ?",
                "the curtain hangs on which side ?",
            ),
        )
        return prompt, scene.curtain
    prompt = ask(
        rng,
        (
            "do you see a curtain ?",
            "is some part hidden behind a curtain ?",
            "a curtain , yes or no ?",
            "can the whole picture be seen ?",
        ),
    )
    return prompt, yes(bool(scene.curtain) != prompt.startswith("can the whole"))
