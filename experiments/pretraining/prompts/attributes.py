"""Prompts about what things are: whether they exist, how many, and their attributes."""

from __future__ import annotations

import random

from experiments.pretraining.words import NOUNS, Prompt, ask, choose, palette, random_form, yes
from experiments.scenes.facts import Description, count, plural, unique
from experiments.scenes.scene import Scene


def existence(scene: Scene, rng: random.Random) -> Prompt | None:
    """Whether something is shown: yes or no."""
    present = rng.random() < 0.5
    words = choose(scene, rng, random_form(scene, rng), present)
    noun = rng.choice(NOUNS)
    prompt = ask(
        rng,
        (
            "any {one} here ?",
            "do you see {a} ?",
            "can you find {a} ?",
            "{a} , yes or no ?",
            "does one see any {many} ?",
            "have they drawn {a} ?",
            "would you say that {a} can be seen ?",
            "look for {a} . is it present ?",
            "among these , does {a} appear ?",
            "do these contain {a} ?",
            "does {a} show up ?",
        ),
        one=words.one(noun),
        a=words.a(noun),
        many=words.many(noun),
    )
    return prompt, yes(present)


def how_many(scene: Scene, rng: random.Random) -> Prompt | None:
    """How many things of a kind, or of any, are shown."""
    noun = rng.choice(NOUNS)
    if rng.random() < 0.2:
        words, amount = Description(), len(scene.things)
    else:
        amounts = {}
        for _ in range(4):
            words = choose(scene, rng, random_form(scene, rng), rng.random() < 0.8)
            amounts[count(scene, words)] = words
        amount = rng.choice(sorted(amounts))
        words = amounts[amount]
    prompt = ask(
        rng,
        (
            "count the {many}",
            "number of {many} ?",
            "how many {many} do you see ?",
            "the {many} , counted :",
            "give the number of {many}",
            "total {many} ?",
            "say how many {many} have been drawn",
        ),
        many=words.many(noun),
    )
    return prompt, str(amount)


def attribute(scene: Scene, rng: random.Random) -> Prompt | None:
    """The colour, shape or size of the only thing of a kind."""
    asked = rng.choice(("color", "shape", "size"))
    if asked == "size" and scene.things[0].size == "huge":
        return None
    given = {
        "color": ("shape", "size shape", "size", ""),
        "shape": ("color", "size color", "size", ""),
        "size": ("shape", "color", "color shape", ""),
    }[asked]
    singles = unique(scene, rng.choice(given))
    if not singles:
        return None
    thing, words = rng.choice(singles)
    noun = rng.choice(NOUNS)
    prompt = ask(
        rng,
        (
            "name the {asked} of the {one}",
            "the {one} has which {asked} ?",
            "{asked} of the {one} :",
            "which {asked} does the {one} have ?",
            "tell me the {one} 's {asked}",
            "the {one} : what {asked} ?",
            "say the {asked} of the only {one}",
        ),
        asked=asked,
        one=words.one("thing" if asked == "shape" and noun == "shape" else noun),
    )
    return prompt, getattr(thing, asked)


def either(scene: Scene, rng: random.Random) -> Prompt | None:
    """Which of two colours or shapes a thing has."""
    asked = rng.choice(("color", "shape"))
    singles = unique(scene, "shape" if asked == "color" else "color")
    if not singles:
        return None
    thing, words = rng.choice(singles)
    right = getattr(thing, asked)
    wrong = rng.choice([value for value in palette(scene)[asked + "s"] if value != right])
    first, second = rng.sample((right, wrong), 2)
    prompt = ask(
        rng,
        (
            "{first} or {second} : the {one} ?",
            "the {one} , is it {first} or {second} ?",
            "choose {first} or {second} for the {one}",
        ),
        first=first,
        second=second,
        one=words.one(),
    )
    return prompt, right


def all_of(scene: Scene, rng: random.Random) -> Prompt | None:
    """All the colours, or shapes, from left to right."""
    kind = rng.choice(("color", "shape"))
    values = []
    for thing in sorted(scene.things, key=lambda thing: (thing.x, thing.y)):
        if getattr(thing, kind) not in values:
            values.append(getattr(thing, kind))
    prompt = ask(
        rng,
        (
            "list the {many}",
            "which {many} do you see ?",
            "name all the {many} from left to right",
            "the {many} here :",
        ),
        many=plural(kind),
    )
    return prompt, " , ".join(values)
