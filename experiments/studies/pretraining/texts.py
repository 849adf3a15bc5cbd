"""Captions, prompts and statements about pre-training scenes.

Every visual skill that a downstream task needs occurs here, in several wordings that the downstream texts do
not use. Where the answer is yes or no, or true or false, both are about equally likely.
"""

from __future__ import annotations

import random

from experiments.scenes.facts import (
    NUMBERS,
    RELATIONS,
    Description,
    count,
    describe,
    kinds_of,
    plural,
    related,
    unique,
)
from experiments.scenes.scene import Scene
from experiments.studies.pretraining.prompts import (
    BESIDE_WORDINGS,
    NOUNS,
    PROMPTS,
    Prompt,
    absent,
    ask,
    choose,
    palette,
    random_form,
    unique_pair,
)

BEHIND = {"left": "at the left", "right": "at the right", "top": "at the top", "bottom": "at the bottom"}


def pretraining_texts(scene: Scene, rng: random.Random, count: int) -> list[Prompt]:
    """``count`` pairs (prompt, answer) about a scene; the first is a caption when ``count`` > 1."""
    pairs = [caption(scene, rng)] if count > 1 else []
    while len(pairs) < count:
        pair = rng.choice(_DRAWN)(scene, rng)
        if pair:
            pairs.append(pair)
    return pairs


CAPTION_PROMPTS = (
    "a picture of",
    "an image of",
    "caption :",
    "describe the image",
    "what do you see ?",
    "the scene :",
    "this drawing has",
    "a short description :",
    "tell me what is here",
    "in this picture :",
    "the drawing shows",
    "what is there ?",
)


def caption(scene: Scene, rng: random.Random) -> Prompt:
    """A caption prompt and a caption: things one by one, in groups, or two of them and how they stand."""
    style = rng.randrange(4)
    things = list(scene.things)
    if style == 0:
        rng.shuffle(things)
        text = _listed([describe(thing, "size color shape").a() for thing in things[:4]])
    elif style == 1:
        things.sort(key=lambda thing: (thing.x, thing.y))
        text = _listed([describe(thing, "color shape").a() for thing in things])
    elif style == 2:
        kind = rng.choice(("shape", "color"))
        groups = sorted(kinds_of(scene, kind), key=lambda words: -count(scene, words))
        text = _listed([_number(count(scene, words), words, rng.choice(NOUNS)) for words in groups])
    else:
        text = _pair_caption(scene, rng)
    if scene.curtain and rng.random() < 0.3:
        text += " with a curtain " + BEHIND[scene.curtain]
    return rng.choice(CAPTION_PROMPTS), text


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else " , ".join(parts[:-1]) + " and " + parts[-1]


def _number(amount: int, words: Description, noun: str) -> str:
    return f"{NUMBERS[amount]} {words.one(noun) if amount == 1 else words.many(noun)}"


def _pair_caption(scene: Scene, rng: random.Random) -> str:
    form = rng.choice(("color shape", "size color shape"))
    if len(scene.things) == 1:
        return describe(scene.things[0], form).a()
    first, second = rng.sample(scene.things, 2)
    if rng.random() < 0.3:
        return f"{describe(first, form).a()} beside {describe(second, form).a()}"
    relation = rng.choice([name for name in RELATIONS if related(first, name, second)])
    return f"{describe(first, form).a()} {rng.choice(BESIDE_WORDINGS[relation])} {describe(second, form).a()}"


# ---- statements: true, false, or unknown where a curtain hides what settles them ---------------------------

_VERDICTS = (
    (
        (
            "true or false : {s}",
            "{s} . true , false or unknown ?",
            "verify : {s}",
            "statement : {s} . verdict :",
            "someone says {s} . this is",
            "do you believe that {s} ?",
            "judge this : {s}",
        ),
        ("true", "false", "unknown"),
    ),
    (
        ("pick correct , incorrect or ambiguous : {s}", "{s} . mark it :"),
        ("correct", "incorrect", "ambiguous"),
    ),
    (("certain or not : {s}", "could it be that {s} ?"), ("yes", "no", "maybe")),
)


def statement(scene: Scene, rng: random.Random) -> Prompt | None:
    """A prompt to judge a statement, and the verdict; ``None`` if six tries give no fitting statement."""
    wanted = rng.choice((True, False, None) if scene.curtain else (True, False))
    for _ in range(6):
        made = rng.choice(_STATEMENTS)(scene, rng)
        if made and made[1] is wanted:
            wordings, answers = _VERDICTS[rng.choice((0, 0, 0, 0, 1, 2))]
            return rng.choice(wordings).format(s=made[0]), answers[(True, False, None).index(wanted)]
    return None


def _unseen(scene: Scene) -> bool | None:
    """The verdict on "there is such a thing" when none is visible."""
    return None if scene.curtain else False


def _not(value: bool | None) -> bool | None:
    return None if value is None else not value


def _says_exists(scene, rng):
    present = rng.random() < 0.5
    words = choose(scene, rng, random_form(scene, rng), present)
    text = ask(
        rng,
        ("one can find {a}", "{a} has been drawn", "at least one {one} exists", "here we have {a}"),
        a=words.a(),
        one=words.one(),
    )
    return text, True if present else _unseen(scene)


def _says_none(scene, rng):
    present = rng.random() < 0.5
    words = choose(scene, rng, random_form(scene, rng), present)
    text = ask(
        rng,
        ("{a} is missing", "not one {one} exists", "no {one} has been drawn", "none of these is {a}"),
        a=words.a(),
        one=words.one(),
    )
    return text, False if present else _not(_unseen(scene))


def _says_count(scene, rng):
    words = choose(scene, rng, rng.choice(("shape", "color")), rng.random() < 0.85)
    seen, number = count(scene, words), rng.randint(1, 3)
    style = rng.randrange(3)
    noun = words.one() if number == 1 else words.many()
    if style == 0:
        verdict = False if seen > number else None if scene.curtain else seen == number
        return f"the number of {words.many()} is exactly {NUMBERS[number]}", verdict
    if style == 1:
        return f"{NUMBERS[number]} or more {words.many()} exist", True if seen >= number else _unseen(scene)
    text = ask(
        rng,
        ("no more than {n} {noun} can be found", "you find {n} {noun} at most"),
        n=NUMBERS[number],
        noun=noun,
    )
    return text, False if seen > number else _not(_unseen(scene))


def _says_every(scene, rng):
    shape = rng.choice(scene.things).shape
    group = [thing for thing in scene.things if thing.shape == shape]
    color = rng.choice(group).color if rng.random() < 0.6 else rng.choice(palette(scene)["colors"])
    others = [thing for thing in group if thing.color != color]
    if rng.random() < 0.5:
        text = ask(
            rng,
            ("all {many} have the color {color}", "every {shape} has the color {color}"),
            many=plural(shape),
            shape=shape,
            color=color,
        )
        return text, False if others else _not(_unseen(scene))
    return f"some {shape} has another color than {color}", True if others else _unseen(scene)


def _says_related(scene, rng):
    pair = unique_pair(scene, rng)
    if not pair:
        return None
    (a, first), (b, second) = pair
    relation = rng.choice(RELATIONS)
    holds = related(a, relation, b)
    if holds is None:
        return None
    return f"the {first.one()} lies {rng.choice(BESIDE_WORDINGS[relation])} the {second.one()}", holds


def _says_attribute(scene, rng):
    singles = unique(scene, "shape")
    if not singles or rng.random() < 0.2:
        if not scene.curtain:
            return None
        words = absent(scene, rng, "color shape")
        if count(scene, Description(shape=words.shape)):
            return None
        return f"the {words.shape} has the color {words.color}", None
    thing, _ = rng.choice(singles)
    color = thing.color if rng.random() < 0.5 else rng.choice(palette(scene)["colors"])
    return f"the {thing.shape} has the color {color}", color == thing.color


_STATEMENTS = (
    _says_exists,
    _says_exists,
    _says_none,
    _says_count,
    _says_count,
    _says_every,
    _says_related,
    _says_attribute,
)

#: Kind of text → ``(scene, rng) -> (prompt, answer)``, or ``None`` if the scene offers nothing to write.
KINDS = {
    "caption": caption,
    **{name: write for name, (write, _) in PROMPTS.items()},
    "statement": statement,
}
_DRAWN = (  # one of these at random, in this order: the frequent ones several times
    *[caption] * 2,
    *(write for write, times in PROMPTS.values() for _ in range(times)),
    *[statement] * 6,
)
