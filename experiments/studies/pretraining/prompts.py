"""Short prompts about pre-training scenes, one function for each visual skill, and words that texts share.

A prompt's function takes ``(scene, rng)`` and returns (prompt, answer), or ``None`` if the scene offers
nothing to ask.
"""

from __future__ import annotations

import random

from experiments.scenes.facts import (
    COLUMNS,
    FORMS,
    OPPOSITE,
    PLACES,
    RELATIONS,
    ROWS,
    Description,
    count,
    describe,
    place_of,
    plural,
    random_description,
    related,
    unique,
)
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


# ---- what things are ---------------------------------------------------------------------------------------


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


# ---- comparison --------------------------------------------------------------------------------------------


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


# ---- position ----------------------------------------------------------------------------------------------


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


# ---- what is not shown -------------------------------------------------------------------------------------


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


#: Name in the scores → the function, and how often it stands among those to draw from. Numbers and order are
#: part of the recipe: with others, the same seed gives other texts.
PROMPTS = {
    "existence": (existence, 2),
    "count": (how_many, 3),
    "attribute": (attribute, 3),
    "either": (either, 1),
    "all_of": (all_of, 1),
    "more": (more, 2),
    "compare_pair": (compare_pair, 2),
    "spatial": (spatial, 3),
    "extreme": (extreme, 1),
    "half": (half, 2),
    "place": (place, 3),
    "at": (what_is_at, 3),
    "map": (whole_map, 3),
    "negation": (negation, 2),
    "curtain": (curtain, 1),
}
