"""Questions about downstream scenes in seven kinds, balanced so that the text alone gives nothing away."""

from collections.abc import Iterator

from experiments.scenes.balance import YES_NO, Filler, Sentence, Template, jobs, place
from experiments.scenes.facts import (
    BESIDE,
    OPPOSITE,
    RELATIONS,
    Description,
    absent,
    count,
    describe,
    kinds_of,
    related,
    unique,
    unique_pairs,
)
from experiments.scenes.scene import COLORS, SHAPES, SIZES, SPLITS, Scene, generator

_STREAM = 1


def questions(
    split: str, amount: int, seed: int, per_scene: int = 2
) -> Iterator[tuple[Scene, list[Sentence]]]:
    """Yields scenes with their questions, ``amount`` questions in all; the same for the same arguments."""
    rng = generator(seed, _STREAM, SPLITS.index(split))
    return place(jobs(TEMPLATES, amount, rng), per_scene, split, seed, _STREAM)


# ---- Is there such a thing? --------------------------------------------------------------------------------

_EXISTS = (
    "is there {a} in the picture?",
    "does the picture show {a}?",
    "are there any {many}?",
    "can you see {a} here?",
)


def _exists(form: str) -> Filler:
    """Words for a thing that is in the scene, or for one that is not."""

    def fill(scene, rng, wanted):
        words = describe(rng.choice(scene.things), form) if wanted == "yes" else absent(scene, rng, form)
        return words and {"a": words.a(), "many": words.many()}

    return fill


# ---- How many are there? -----------------------------------------------------------------------------------

_HOW_MANY = (
    "how many {many} are there?",
    "what is the number of {many} in the picture?",
    "how many {many} does the picture show?",
)
_IN_ALL = ("how many things are there?", "how many things does the picture show?")
_VALUES = {"shape": SHAPES, "color": tuple(COLORS), "size": tuple(SIZES)}


def _count(attribute: str) -> Filler:
    def fill(scene, rng, wanted):
        descriptions = [Description(**{attribute: value}) for value in _VALUES[attribute]]
        fitting = [words for words in descriptions if count(scene, words) == int(wanted)]
        return {"many": rng.choice(fitting).many()} if fitting else None

    return fill


def _total(scene, rng, wanted):
    return {} if len(scene.things) == int(wanted) else None


# ---- Which colour, shape or size has a thing, asked openly or as a choice of two? --------------------------

_COLOR = (
    "what color is the {one}?",
    "what is the color of the {one} in the picture?",
    "which color is the {one}?",
)
_SHAPE = ("what shape is the {one}?", "what is the shape of the {one}?", "the {one} is what shape?")
_SIZE = ("what size is the {one}?", "is the {one} small or large?", "is the {one} large or small?")
_COLOR_OF_TWO = ("is the {one} {first} or {second}?",)
_SHAPE_OF_TWO = ("is the {one} a {first} or a {second}?",)


def _attribute(asked: str, form: str) -> Filler:
    def fill(scene, rng, wanted):
        having = [words for thing, words in unique(scene, form) if getattr(thing, asked) == wanted]
        return {"one": rng.choice(having).one()} if having else None

    return fill


def _either(asked: str, form: str) -> Filler:
    def fill(scene, rng, wanted):
        words = _attribute(asked, form)(scene, rng, wanted)
        if not words:
            return None
        other = rng.choice([value for value in (COLORS if asked == "color" else SHAPES) if value != wanted])
        first, second = rng.sample((wanted, other), 2)
        return {**words, "first": first, "second": second}

    return fill


# ---- Are there more of these or of those, which is bigger, and do two things agree? ------------------------

_MORE = ("are there more {first} than {second}?", "does the picture show more {first} than {second}?")
_AS_MANY = (
    "are there as many {first} as {second}?",
    "is the number of {first} the same as the number of {second}?",
)
_WHICH_MORE = ("are there more {first} or more {second}?", "which are there more of, {first} or {second}?")
_BIGGER = ("is the {first} bigger than the {second}?", "is the {second} smaller than the {first}?")
_SAME_COLOR = (
    "do the {first} and the {second} have the same color?",
    "is the {first} the same color as the {second}?",
)
_SAME_SHAPE = (
    "do the {first} and the {second} have the same shape?",
    "is the {first} the same shape as the {second}?",
)


def _counted_pairs(scene, form):
    """Ordered pairs of different descriptions that fit something, with their counts."""
    kinds = kinds_of(scene, form)
    return [(a, count(scene, a), b, count(scene, b)) for a in kinds for b in kinds if a != b]


def _two_kinds(rng, pairs):
    if not pairs:
        return None
    first, second = rng.choice(pairs)
    return {"first": first.many(), "second": second.many()}


def _more(form: str) -> Filler:
    def fill(scene, rng, wanted):
        pairs = [(a, b) for a, m, b, n in _counted_pairs(scene, form) if (m > n) == (wanted == "yes")]
        return _two_kinds(rng, pairs)

    return fill


def _as_many(form: str) -> Filler:
    def fill(scene, rng, wanted):
        pairs = [(a, b) for a, m, b, n in _counted_pairs(scene, form) if (m == n) == (wanted == "yes")]
        return _two_kinds(rng, pairs)

    return fill


def _which_more(form: str) -> Filler:
    def fill(scene, rng, wanted):
        fits = (lambda m, n: m > n) if wanted == "first" else (lambda m, n: m < n)
        words = _two_kinds(rng, [(a, b) for a, m, b, n in _counted_pairs(scene, form) if fits(m, n)])
        return words and {**words, "answer": words[wanted]}

    return fill


def _two_things(rng, pairs):
    if not pairs:
        return None
    first, second = rng.choice(pairs)
    return {"first": first.one(), "second": second.one()}


def _bigger(form: str) -> Filler:
    def fill(scene, rng, wanted):
        pairs = [
            (first, second)
            for (a, first), (b, second) in unique_pairs(scene, form)
            if (a.radius > b.radius if wanted == "yes" else a.radius < b.radius)
        ]
        return _two_things(rng, pairs)

    return fill


def _same(asked: str, form: str) -> Filler:
    def fill(scene, rng, wanted):
        pairs = [
            (first, second)
            for (a, first), (b, second) in unique_pairs(scene, form)
            if (getattr(a, asked) == getattr(b, asked)) == (wanted == "yes")
        ]
        return _two_things(rng, pairs)

    return fill


_FORMS = ("shape", "color")


# ---- How do things stand to each other, and where in the picture? ------------------------------------------

_MOST = {"left": "leftmost", "right": "rightmost", "above": "highest", "below": "lowest"}
_CENTRE, _FAR = 31.5, 10  # of the picture; pixels from it that make a half clear
_BESIDE = ("is the {first} {beside} the {second}?", "can the {first} be found {beside} the {second}?")
_HALF = (
    "is the {one} in the {first} half or the {second} half?",
    "on which side is the {one}, {first} or {second}?",
)


def _what_wordings(asked: str) -> tuple[str, str]:
    return (
        f"what {asked} is the thing {{beside}} the {{one}}?",
        f"what is the {asked} of the thing {{beside}} the {{one}}?",
    )


def _most_wordings(asked: str) -> tuple[str, str]:
    return f"what {asked} is the {{most}} thing?", f"what is the {asked} of the {{most}} thing?"


def _beside(form: str) -> Filler:
    def fill(scene, rng, wanted):
        pairs = [
            (first, relation, second)
            for (a, first), (b, second) in unique_pairs(scene, form)
            for relation in RELATIONS
            if related(a, relation, b)
        ]
        if not pairs:
            return None
        first, relation, second = rng.choice(pairs)
        shown = relation if wanted == "yes" else OPPOSITE[relation]
        return {"first": first.one(), "second": second.one(), "beside": BESIDE[shown]}

    return fill


def _what_is(asked: str, form: str) -> Filler:
    def fill(scene, rng, wanted):
        fitting = []
        for thing, words in unique(scene, form):
            for relation in RELATIONS:
                beside = [other for other in scene.things if related(other, relation, thing)]
                if len(beside) == 1 and getattr(beside[0], asked) == wanted:
                    fitting.append((words, relation))
        if not fitting:
            return None
        words, relation = rng.choice(fitting)
        return {"one": words.one(), "beside": BESIDE[relation]}

    return fill


def _most(asked: str) -> Filler:
    def fill(scene, rng, wanted):
        fitting = [
            relation
            for relation in RELATIONS
            for thing in scene.things
            if getattr(thing, asked) == wanted
            and all(related(thing, relation, other) for other in scene.things if other is not thing)
        ]
        return {"most": _MOST[rng.choice(fitting)]} if fitting and len(scene.things) > 1 else None

    return fill


def _half(form: str) -> Filler:
    def fill(scene, rng, wanted):
        across = wanted in ("left", "right")
        sign = 1 if wanted in ("right", "bottom") else -1
        fitting = [
            words
            for thing, words in unique(scene, form)
            if sign * ((thing.x if across else thing.y) - _CENTRE) > _FAR
        ]
        if not fitting:
            return None
        first, second = rng.sample(("left", "right") if across else ("top", "bottom"), 2)
        return {"one": rng.choice(fitting).one(), "first": first, "second": second}

    return fill


# ---- Is there no such thing, and what are the things that are not so? --------------------------------------

_NO = (
    "is there no {one} in the picture?",
    "is the picture without any {many}?",
    "does the picture not show {a}?",
)
_ANY_OTHER = ("are there things that are not {names}?", "is there a thing that is not {name}?")
_COUNT_OTHER = ("how many things are not {names}?", "what is the number of things that are not {names}?")


def _no(form: str) -> Filler:
    fill_positive = _exists(form)

    def fill(scene, rng, wanted):
        words = fill_positive(scene, rng, "no" if wanted == "yes" else "yes")
        return words and {**words, "one": words["a"].split(" ", 1)[1]}

    return fill


def _other_than(form: str) -> Filler:
    """Words for "things that are not ..." when ``wanted`` many (or any, for yes and no) are not."""

    def fill(scene, rng, wanted):
        if len(scene.things) < 2:
            return None
        fitting = []
        for words in kinds_of(scene, form):
            others = len(scene.things) - count(scene, words)
            if wanted == (("yes" if others else "no") if wanted in YES_NO else str(others)):
                fitting.append(words)
        if not fitting:
            return None
        words = rng.choice(fitting)
        return {"name": words.color or words.a(), "names": words.color or words.many()}

    return fill


def _only_other(asked: str, form: str) -> Filler:
    def fill(scene, rng, wanted):
        fitting = []
        for words in kinds_of(scene, form):
            others = [thing for thing in scene.things if not words.fits(thing)]
            if len(others) == 1 and getattr(others[0], asked) == wanted:
                fitting.append(words)
        if not fitting:
            return None
        words = rng.choice(fitting)
        return {"name": words.color or words.a()}

    return fill


# The order is part of the data set: with another one, the same seed gives other questions.
TEMPLATES = (
    *(
        Template("existence", _EXISTS, YES_NO, _exists(form))
        for form in ("shape", "color", "color shape", "size shape")
    ),
    *(
        Template("count", _HOW_MANY, tuple("01234"), _count(attribute))
        for attribute in ("shape", "color", "size")
    ),
    Template("count", _IN_ALL, tuple("12345"), _total),
    *(
        Template("attribute", _COLOR, tuple(COLORS), _attribute("color", form))
        for form in ("shape", "size shape", "size")
    ),
    *(Template("attribute", _SHAPE, SHAPES, _attribute("shape", form)) for form in ("color", "size color")),
    *(
        Template("attribute", _SIZE, ("small", "large"), _attribute("size", form))
        for form in ("shape", "color")
    ),
    Template("choice", _COLOR_OF_TWO, tuple(COLORS), _either("color", "shape")),
    Template("choice", _SHAPE_OF_TWO, SHAPES, _either("shape", "color")),
    *(Template("comparison", _MORE, YES_NO, _more(form)) for form in _FORMS),
    *(Template("comparison", _AS_MANY, YES_NO, _as_many(form)) for form in _FORMS),
    *(Template("comparison", _WHICH_MORE, ("first", "second"), _which_more(form)) for form in _FORMS),
    *(Template("comparison", _BIGGER, YES_NO, _bigger(form)) for form in _FORMS),
    Template("comparison", _SAME_COLOR, YES_NO, _same("color", "shape")),
    Template("comparison", _SAME_SHAPE, YES_NO, _same("shape", "color")),
    *(Template("spatial", _BESIDE, YES_NO, _beside(form)) for form in ("shape", "color", "color shape")),
    *(
        Template("spatial", _what_wordings(asked), values, _what_is(asked, form))
        for asked, values in (("color", tuple(COLORS)), ("shape", SHAPES))
        for form in ("shape", "color")
    ),
    Template("spatial", _most_wordings("color"), tuple(COLORS), _most("color")),
    Template("spatial", _most_wordings("shape"), SHAPES, _most("shape")),
    *(
        Template("spatial", _HALF, ("left", "right", "top", "bottom"), _half(form))
        for form in ("shape", "color")
    ),
    *(Template("negation", _NO, YES_NO, _no(form)) for form in ("shape", "color", "color shape")),
    *(Template("negation", _ANY_OTHER, YES_NO, _other_than(form)) for form in ("shape", "color")),
    *(Template("negation", _COUNT_OTHER, tuple("01234"), _other_than(form)) for form in ("shape", "color")),
    Template(
        "negation",
        ("what color is the only thing that is not {name}?",),
        tuple(COLORS),
        _only_other("color", "shape"),
    ),
    Template(
        "negation",
        ("what shape is the only thing that is not {name}?",),
        SHAPES,
        _only_other("shape", "color"),
    ),
)
