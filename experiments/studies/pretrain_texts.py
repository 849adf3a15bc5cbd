"""Captions, prompts and statements about pre-training scenes; their wordings are in ``pretrain_texts.yaml``.

Every visual skill that a downstream task requires occurs here, in several wordings that differ from those of
downstream texts. Both answers to questions with yes or no, or true or false, are about equally likely.
Functions with the arguments ``(scene, rng)`` return (prompt, answer), or ``None`` if the scene does not
permit such a text.
"""

from __future__ import annotations

import random
from pathlib import Path

import yaml

from attngraph.experiments.scenes.facts import (
    COLUMNS,
    FORMS,
    NUMBERS,
    OPPOSITE,
    PLACES,
    RELATIONS,
    ROWS,
    Description,
    count,
    describe,
    kinds_of,
    place_of,
    plural,
    random_description,
    related,
    unique,
)
from attngraph.experiments.scenes.scene import COLORS, HUGE_COLORS, HUGE_SHAPES, SHAPES, Scene, Thing

Prompt = tuple[str, str]  # the prompt, and its answer
Claim = tuple[str, bool | None]  # a statement, and whether it is true; None behind a curtain

NOUNS = ("thing", "object", "item", "shape")
BEHIND = {"left": "at the left", "right": "at the right", "top": "at the top", "bottom": "at the bottom"}
WORDINGS: dict[str, list[str]] = {
    name: lines.splitlines()
    for name, lines in yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text("utf-8")).items()
}
CAPTION_PROMPTS = WORDINGS["caption"]


def pretraining_texts(scene: Scene, rng: random.Random, count: int) -> list[Prompt]:
    """``count`` pairs (prompt, answer) about a scene; the first is a caption when ``count`` > 1."""
    pairs = [caption(scene, rng)] if count > 1 else []
    while len(pairs) < count:
        pair = rng.choice(_DRAWN)(scene, rng)
        if pair:
            pairs.append(pair)
    return pairs


def _ask(rng: random.Random, kind: str, words: Description | None = None, noun: str = "thing", **more) -> str:
    """A random wording of a kind, filled in with a description's forms and further words."""
    forms = {} if words is None else words.forms(noun)
    return rng.choice(WORDINGS[kind]).format(**forms | {"noun": noun} | more)


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _palette(scene: Scene) -> dict:
    """The attributes for questions: more of them for scenes with one huge thing."""
    if scene.things[0].size == "huge":
        return {"shapes": HUGE_SHAPES, "colors": tuple(HUGE_COLORS)}
    return {"shapes": SHAPES, "colors": tuple(COLORS)}


def _form(scene: Scene, rng: random.Random) -> str:
    """Random attributes for a description; never the size of a huge thing."""
    return rng.choice(FORMS[:3] if scene.things[0].size == "huge" else FORMS)


def _absent(scene: Scene, rng: random.Random, form: str) -> Description:
    """A description that does not fit any thing; half of the time a thing differs in one attribute."""
    while True:
        words = random_description(rng, form, **_palette(scene))
        if rng.random() < 0.5 and " " in form:
            keep = rng.choice(form.split())
            near = describe(rng.choice(scene.things), keep)
            words = Description(near.size or words.size, near.color or words.color, near.shape or words.shape)
        if not count(scene, words):
            return words


def _choose(scene: Scene, rng: random.Random, form: str, present: bool) -> Description:
    """A description that fits a thing in the scene, or no thing if not ``present``."""
    return describe(rng.choice(scene.things), form) if present else _absent(scene, rng, form)


def _unique_pair(scene: Scene, rng: random.Random) -> list[tuple[Thing, Description]] | None:
    """Two things with unique descriptions of the same form; ``None`` if there are none."""
    for form in rng.sample(("shape", "color", "color shape"), 3):
        singles = unique(scene, form)
        if len(singles) > 1:
            return rng.sample(singles, 2)
    return None


# ---- captions ----------------------------------------------------------------------------------------------


def caption(scene: Scene, rng: random.Random) -> Prompt:
    """A caption prompt and a caption: things one by one, in groups, or two of them with their relation."""
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
    names = [describe(thing, form).a() for thing in (first, second)]
    if rng.random() < 0.3:
        return " beside ".join(names)
    relation = rng.choice([name for name in RELATIONS if related(first, name, second)])
    return f" {_ask(rng, relation)} ".join(names)


# ---- what things are ---------------------------------------------------------------------------------------


def _existence(scene: Scene, rng: random.Random) -> Prompt | None:
    """Whether a thing is visible: yes or no."""
    present = rng.random() < 0.5
    words = _choose(scene, rng, _form(scene, rng), present)
    return _ask(rng, "existence", words, rng.choice(NOUNS)), _yes(present)


def _how_many(scene: Scene, rng: random.Random) -> Prompt | None:
    """Number of visible things of a kind, or of any kind."""
    noun = rng.choice(NOUNS)
    if rng.random() < 0.2:
        words, amount = Description(), len(scene.things)
    else:
        amounts = {}
        for _ in range(4):
            words = _choose(scene, rng, _form(scene, rng), rng.random() < 0.8)
            amounts[count(scene, words)] = words
        amount = rng.choice(sorted(amounts))
        words = amounts[amount]
    return _ask(rng, "count", words, noun), str(amount)


def _attribute(scene: Scene, rng: random.Random) -> Prompt | None:
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
    noun = "thing" if asked == noun == "shape" else noun
    return _ask(rng, "attribute", words, noun, asked=asked), getattr(thing, asked)


def _either(scene: Scene, rng: random.Random) -> Prompt | None:
    """Which of two colours or shapes a thing has."""
    asked = rng.choice(("color", "shape"))
    singles = unique(scene, "shape" if asked == "color" else "color")
    if not singles:
        return None
    thing, words = rng.choice(singles)
    right = getattr(thing, asked)
    wrong = rng.choice([value for value in _palette(scene)[asked + "s"] if value != right])
    first, second = rng.sample((right, wrong), 2)
    return _ask(rng, "either", words, first=first, second=second), right


def _all_of(scene: Scene, rng: random.Random) -> Prompt | None:
    """All the colours, or shapes, from left to right."""
    kind = rng.choice(("color", "shape"))
    things = sorted(scene.things, key=lambda thing: (thing.x, thing.y))
    values = dict.fromkeys(getattr(thing, kind) for thing in things)
    return _ask(rng, "all of", many=plural(kind)), " , ".join(values)


# ---- comparison --------------------------------------------------------------------------------------------


def _more(scene: Scene, rng: random.Random) -> Prompt | None:
    """The kind of two with more things, and whether one has more, or both the same number."""
    form = rng.choice(("shape", "color"))
    first, second = (_choose(scene, rng, form, rng.random() < 0.7) for _ in range(2))
    a, b = count(scene, first), count(scene, second)
    if a == b and (first == second or rng.random() < 0.5):
        return None
    style = rng.randrange(3)
    noun = rng.choice(NOUNS)
    both = {"first": first.many(noun), "second": second.many(noun)}
    if style == 0 and a != b:
        return _ask(rng, "which has more", **both), both["first" if a > b else "second"]
    if style == 1:
        prompt = _ask(rng, "has one more", **both)
        return None if a <= b and rng.random() < 0.35 else (prompt, _yes(a > b))
    return _ask(rng, "are they as many", **both), _yes(a == b)


def _compare_pair(scene: Scene, rng: random.Random) -> Prompt | None:
    """The bigger one of two things, or whether they agree in an attribute."""
    pair = _unique_pair(scene, rng)
    if not pair:
        return None
    (a, first), (b, second) = pair
    both = {"first": first.one(), "second": second.one()}
    asked = rng.choice(("size", "color", "shape"))
    if asked == "size" and a.size != b.size and rng.random() < 0.6:
        bigger = rng.random() < 0.5
        prompt = _ask(rng, "which is bigger", more="bigger" if bigger else "smaller", **both)
        return prompt, "the " + both["first" if (a.size == "large") == bigger else "second"]
    same = getattr(a, asked) == getattr(b, asked)
    if not same and rng.random() < 0.4:
        return None
    return _ask(rng, "are they alike", asked=asked, **both), _yes(same)


# ---- position ----------------------------------------------------------------------------------------------


def _spatial(scene: Scene, rng: random.Random) -> Prompt | None:
    """Relations of two things, and the thing next to another one."""
    pair = _unique_pair(scene, rng)
    if not pair:
        return None
    (a, first), (b, second) = pair
    noun = rng.choice(NOUNS)
    both = {"first": first.one(noun), "second": second.one(noun)}
    relation = rng.choice([name for name in RELATIONS if related(a, name, b)])
    style = rng.randrange(3)
    if style == 0:
        holds = rng.random() < 0.5
        beside = _ask(rng, relation if holds else OPPOSITE[relation])
        return _ask(rng, "is it beside", beside=beside, **both), _yes(holds)
    if style == 1:
        one, other = rng.sample((relation, OPPOSITE[relation]), 2)
        return _ask(rng, "which side of it", one=one, other=other, **both), relation
    neighbours = [thing for thing in scene.things if related(thing, relation, b)]
    if len(neighbours) != 1:
        return None
    asked = rng.choice(("color", "shape", "thing"))
    answer = getattr(neighbours[0], asked) if asked != "thing" else describe(neighbours[0], "color shape").a()
    return _ask(rng, "what is beside", asked=asked, beside=_ask(rng, relation), **both), answer


def _extreme(scene: Scene, rng: random.Random) -> Prompt | None:
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
    return _ask(rng, "extreme", asked=asked, word=word), getattr(ends[0], asked)


def _half(scene: Scene, rng: random.Random) -> Prompt | None:
    """The half, or third, of the image in which a thing is."""
    across = rng.random() < 0.5
    if rng.random() < 0.4:
        singles = unique(scene, _form(scene, rng))
        if not singles:
            return None
        thing, words = rng.choice(singles)
        thirds = COLUMNS if across else ROWS
        sides = f"{thirds[0]} , {thirds[1]} or {thirds[2]}"
        return _ask(rng, "third", words, rng.choice(NOUNS), sides=sides), place_of(thing).split()[across]
    clear = [
        (thing, words)
        for thing, words in unique(scene, _form(scene, rng))
        if abs((thing.x if across else thing.y) - 31.5) > 10
    ]
    if not clear:
        return None
    thing, words = rng.choice(clear)
    sides = ("left", "right") if across else ("top", "bottom")
    first, second = rng.sample(sides, 2)
    prompt = _ask(rng, "half", words, rng.choice(NOUNS), first=first, second=second)
    return prompt, sides[(thing.x if across else thing.y) > 31.5]


def _place(scene: Scene, rng: random.Random) -> Prompt | None:
    """Position of a thing on a 3 x 3 grid."""
    singles = unique(scene, _form(scene, rng))
    if not singles:
        return None
    thing, words = rng.choice(singles)
    return _ask(rng, "place", words, rng.choice(NOUNS)), place_of(thing)


def _what_is_at(scene: Scene, rng: random.Random) -> Prompt | None:
    """Content of a place of the grid, if any."""
    if rng.random() < 0.25:
        taken = {place_of(thing) for thing in scene.things}
        place, answer = rng.choice([place for place in PLACES if place not in taken]), "none"
    else:
        thing = rng.choice(scene.things)
        place, answer = place_of(thing), describe(thing, "color shape").one()
    return _ask(rng, "at", place=place, noun=rng.choice(NOUNS)), answer


def _whole_map(scene: Scene, rng: random.Random) -> Prompt | None:
    """All things with their places."""
    noun = rng.choice(NOUNS)
    prompt = _ask(rng, "map", noun=noun, nouns=plural(noun))
    things = sorted(scene.things, key=lambda thing: PLACES.index(place_of(thing)))
    return prompt, " , ".join(f"{describe(thing, 'color shape').one()} {place_of(thing)}" for thing in things)


# ---- what is not shown -------------------------------------------------------------------------------------


def _negation(scene: Scene, rng: random.Random) -> Prompt | None:
    """Whether a thing is missing, and things that are not of a kind."""
    noun = rng.choice(NOUNS)
    style = rng.randrange(3)
    if style == 0:
        missing = rng.random() < 0.5
        words = _choose(scene, rng, _form(scene, rng), not missing)
        return _ask(rng, "is it missing", words, noun), _yes(missing)
    kind = rng.choice(("color", "shape"))
    words = _choose(scene, rng, kind, rng.random() < 0.8)
    name = words.color or words.a()
    others = [thing for thing in scene.things if not words.fits(thing)]
    if style == 1:
        if len(others) > 2 and rng.random() < 0.5:
            return None
        return _ask(rng, "count others", name=name, nouns=plural(noun)), str(len(others))
    if len(others) != 1:
        return None
    asked = "shape" if kind == "color" and rng.random() < 0.5 else "color"
    noun = "thing" if noun == "shape" else noun
    return _ask(rng, "the only other", name=name, asked=asked, noun=noun), getattr(others[0], asked)


def _curtain(scene: Scene, rng: random.Random) -> Prompt | None:
    """Whether there is a curtain, and on which side."""
    if rng.random() < 0.4 and scene.curtain:
        return _ask(rng, "where is the curtain"), scene.curtain
    prompt = _ask(rng, "is there a curtain")
    return prompt, _yes(bool(scene.curtain) != prompt.startswith("can the whole"))


# ---- statements: true, false, or unknown where a curtain hides what settles them ---------------------------


def statement(scene: Scene, rng: random.Random) -> Prompt | None:
    """A prompt to judge a statement, and the verdict; ``None`` after six unsuccessful attempts."""
    wanted = rng.choice((True, False, None) if scene.curtain else (True, False))
    for _ in range(6):
        made = rng.choice(_CLAIMS)(scene, rng)
        if made and made[1] is wanted:
            answers = rng.choice(_VERDICTS)
            prompt = _ask(rng, "{}, {} or {}".format(*answers), s=made[0])
            return prompt, answers[(True, False, None).index(wanted)]
    return None


_VERDICTS = [("true", "false", "unknown")] * 4
_VERDICTS += [("correct", "incorrect", "ambiguous"), ("yes", "no", "maybe")]


def _unseen(scene: Scene) -> bool | None:
    """The verdict on "there is such a thing" when none is visible."""
    return None if scene.curtain else False


def _not(value: bool | None) -> bool | None:
    return None if value is None else not value


def _says_exists(scene: Scene, rng: random.Random, wording: str = "says that one exists") -> Claim:
    present = rng.random() < 0.5
    words = _choose(scene, rng, _form(scene, rng), present)
    return _ask(rng, wording, words), True if present else _unseen(scene)


def _says_none(scene: Scene, rng: random.Random) -> Claim:
    text, exists = _says_exists(scene, rng, "says that none exists")
    return text, _not(exists)


def _says_count(scene: Scene, rng: random.Random) -> Claim | None:
    words = _choose(scene, rng, rng.choice(("shape", "color")), rng.random() < 0.85)
    seen, number = count(scene, words), rng.randint(1, 3)
    style = rng.randrange(3)
    if style == 0:
        verdict = False if seen > number else None if scene.curtain else seen == number
        return f"the number of {words.many()} is exactly {NUMBERS[number]}", verdict
    if style == 1:
        return f"{NUMBERS[number]} or more {words.many()} exist", True if seen >= number else _unseen(scene)
    noun = words.one() if number == 1 else words.many()
    text = _ask(rng, "says at most", n=NUMBERS[number], noun=noun)
    return text, False if seen > number else _not(_unseen(scene))


def _says_every(scene: Scene, rng: random.Random) -> Claim | None:
    shape = rng.choice(scene.things).shape
    group = [thing for thing in scene.things if thing.shape == shape]
    color = rng.choice(group).color if rng.random() < 0.6 else rng.choice(_palette(scene)["colors"])
    others = [thing for thing in group if thing.color != color]
    if rng.random() < 0.5:
        text = _ask(rng, "says that all are", many=plural(shape), shape=shape, color=color)
        return text, False if others else _not(_unseen(scene))
    return f"some {shape} has another color than {color}", True if others else _unseen(scene)


def _says_related(scene: Scene, rng: random.Random) -> Claim | None:
    pair = _unique_pair(scene, rng)
    if not pair:
        return None
    (a, first), (b, second) = pair
    relation = rng.choice(RELATIONS)
    holds = related(a, relation, b)
    if holds is None:
        return None
    return f"the {first.one()} lies {_ask(rng, relation)} the {second.one()}", holds


def _says_attribute(scene: Scene, rng: random.Random) -> Claim | None:
    singles = unique(scene, "shape")
    if not singles or rng.random() < 0.2:
        if not scene.curtain:
            return None
        words = _absent(scene, rng, "color shape")
        if count(scene, Description(shape=words.shape)):
            return None
        return f"the {words.shape} has the color {words.color}", None
    thing, _ = rng.choice(singles)
    color = thing.color if rng.random() < 0.5 else rng.choice(_palette(scene)["colors"])
    return f"the {thing.shape} has the color {color}", color == thing.color


# Numbers and order are part of the recipe: with others, the same seed gives other texts.
_CLAIMS = (
    *(_says_exists, _says_exists, _says_none, _says_count, _says_count),
    *(_says_every, _says_related, _says_attribute),
)
_TIMES = {  # name in the scores -> the function, and how often it is among those to draw from
    "caption": (caption, 2),
    "existence": (_existence, 2),
    "count": (_how_many, 3),
    "attribute": (_attribute, 3),
    "either": (_either, 1),
    "all_of": (_all_of, 1),
    "more": (_more, 2),
    "compare_pair": (_compare_pair, 2),
    "spatial": (_spatial, 3),
    "extreme": (_extreme, 1),
    "half": (_half, 2),
    "place": (_place, 3),
    "at": (_what_is_at, 3),
    "map": (_whole_map, 3),
    "negation": (_negation, 2),
    "curtain": (_curtain, 1),
    "statement": (statement, 6),
}
#: Kind of text → ``(scene, rng) -> (prompt, answer)``, or ``None`` if the scene does not permit it.
KINDS = {name: write for name, (write, _) in _TIMES.items()}
_DRAWN = [write for write, times in _TIMES.values() for _ in range(times)]
