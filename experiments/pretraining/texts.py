"""Captions and short prompts about pre-training scenes.

Every visual skill that a downstream task needs occurs here, in several wordings that the downstream texts do
not use. Where the answer is yes or no, or true or false, both are about equally likely.
"""

from __future__ import annotations

import random

from experiments.pretraining.prompts import PROMPTS
from experiments.pretraining.statements import statement
from experiments.pretraining.words import BESIDE_WORDINGS, NOUNS, Prompt
from experiments.scenes.facts import NUMBERS, RELATIONS, Description, count, describe, kinds_of, related
from experiments.scenes.scene import Scene

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
