"""Prompts about where things are, in the picture and beside each other."""

from __future__ import annotations

import random

from experiments.pretraining.words import BESIDE_WORDINGS, NOUNS, Prompt, ask, random_form, unique_pair, yes
from experiments.scenes.facts import (
    COLUMNS,
    OPPOSITE,
    PLACES,
    RELATIONS,
    ROWS,
    Description,
    describe,
    place_of,
    plural,
    related,
    unique,
)
from experiments.scenes.scene import Scene, Thing


def spatial(scene: Scene, rng: random.Random) -> Prompt | None:
    """How two things stand to each other, and what is beside a thing."""
    pair = unique_pair(scene, rng)
    if not pair:
        return None
    (a, first), (b, second) = pair
    noun = rng.choice(NOUNS)
    relation = rng.choice([name for name in RELATIONS if related(a, name, b)])
    style = rng.randrange(3)
    if style == 0:
        holds = rng.random() < 0.5
        shown = relation if holds else OPPOSITE[relation]
        prompt = ask(
            rng,
            (
                "the {first} {beside} the {second} , yes or no ?",
                "do you see the {first} {beside} the {second} ?",
                "compared with the {second} , does the {first} lie {beside} it ?",
            ),
            first=first.one(noun),
            second=second.one(noun),
            beside=rng.choice(BESIDE_WORDINGS[shown]),
        )
        return prompt, yes(holds)
    if style == 1:
        prompt = ask(
            rng,
            (
                "where is the {first} from the {second} : {one} or {other} ?",
                "from the {second} , the {first} is {one} or {other} ?",
            ),
            first=first.one(noun),
            second=second.one(noun),
            **dict(zip(("one", "other"), rng.sample((relation, OPPOSITE[relation]), 2))),
        )
        return prompt, relation
    neighbours = [thing for thing in scene.things if related(thing, relation, b)]
    if len(neighbours) != 1:
        return None
    asked = rng.choice(("color", "shape", "thing"))
    answer = getattr(neighbours[0], asked) if asked != "thing" else describe(neighbours[0], "color shape").a()
    prompt = ask(
        rng,
        (
            "what {asked} lies {beside} the {second} ?",
            "name the {asked} that is {beside} the {second}",
            "{beside} the {second} , which {asked} ?",
        ),
        asked=asked,
        second=second.one(noun),
        beside=rng.choice(BESIDE_WORDINGS[relation]),
    )
    return prompt, answer


def extreme(scene: Scene, rng: random.Random) -> Prompt | None:
    """The colour or shape of the leftmost, rightmost, highest or lowest thing."""
    relation = rng.choice(RELATIONS)
    ends = [
        thing
        for thing in scene.things
        if all(related(thing, relation, other) for other in scene.things if other is not thing)
    ]
    if not ends:
        return None
    word = {"left": "leftmost", "right": "rightmost", "above": "highest", "below": "lowest"}[relation]
    asked = rng.choice(("color", "shape"))
    prompt = ask(
        rng,
        ("the {asked} of the {word} one :", "which {asked} is {word} ?", "{word} : name its {asked}"),
        asked=asked,
        word=word,
    )
    return prompt, getattr(ends[0], asked)


def half(scene: Scene, rng: random.Random) -> Prompt | None:
    """In which half, or third, of the picture a thing is."""
    across = rng.random() < 0.5
    if rng.random() < 0.4:
        singles = unique(scene, random_form(scene, rng))
        return _third(rng, *rng.choice(singles), across) if singles else None
    clear = [
        (thing, words)
        for thing, words in unique(scene, random_form(scene, rng))
        if abs((thing.x if across else thing.y) - 31.5) > 10
    ]
    if not clear:
        return None
    thing, words = rng.choice(clear)
    sides = ("left", "right") if across else ("top", "bottom")
    first, second = rng.sample(sides, 2)
    prompt = ask(
        rng,
        (
            "the {one} , {first} or {second} side ?",
            "which half has the {one} , {first} or {second} ?",
            "{first} or {second} : where is the {one} ?",
        ),
        one=words.one(rng.choice(NOUNS)),
        first=first,
        second=second,
    )
    return prompt, sides[(thing.x if across else thing.y) > 31.5]


def _third(rng: random.Random, thing: Thing, words: Description, across: bool) -> Prompt:
    sides = COLUMNS if across else ROWS
    prompt = ask(
        rng,
        ("{sides} : where is the {one} ?", "the {one} , {sides} ?"),
        sides=f"{sides[0]} , {sides[1]} or {sides[2]}",
        one=words.one(rng.choice(NOUNS)),
    )
    return prompt, place_of(thing).split()[across]


def place(scene: Scene, rng: random.Random) -> Prompt | None:
    """Where a thing is on a grid of three by three."""
    singles = unique(scene, random_form(scene, rng))
    if not singles:
        return None
    thing, words = rng.choice(singles)
    prompt = ask(
        rng,
        (
            "where does the {one} lie ?",
            "the {one} : where ?",
            "find the {one} . where have they drawn it ?",
            "say where the {one} is",
        ),
        one=words.one(rng.choice(NOUNS)),
    )
    return prompt, place_of(thing)


def what_is_at(scene: Scene, rng: random.Random) -> Prompt | None:
    """What is at a place of the grid, if anything."""
    if rng.random() < 0.25:
        taken = {place_of(thing) for thing in scene.things}
        place = rng.choice([place for place in PLACES if place not in taken])
        answer = "none"
    else:
        thing = rng.choice(scene.things)
        place, answer = place_of(thing), describe(thing, "color shape").one()
    prompt = ask(
        rng,
        (
            "{place} : what is here ?",
            "what have they drawn {place} ?",
            "look {place} . what do you see ?",
            "name the {noun} that is {place} , or say none",
        ),
        place=place,
        noun=rng.choice(NOUNS),
    )
    return prompt, answer


def whole_map(scene: Scene, rng: random.Random) -> Prompt | None:
    """All things with their places."""
    noun = rng.choice(NOUNS)
    prompt = ask(
        rng,
        (
            "what is where ?",
            "where is every {noun} ?",
            "name all {nouns} and where they are",
            "the {nouns} and where they lie :",
        ),
        noun=noun,
        nouns=plural(noun),
    )
    things = sorted(scene.things, key=lambda thing: PLACES.index(place_of(thing)))
    return prompt, " , ".join(f"{describe(thing, 'color shape').one()} {place_of(thing)}" for thing in things)
