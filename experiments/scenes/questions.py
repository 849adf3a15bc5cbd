"""Questions about downstream scenes in seven kinds, balanced so that the text alone does not predict the
answer.
"""

from collections.abc import Iterator
from functools import partial
from itertools import permutations

from attngraph.experiments.scenes.balance import YES_NO, Sentence, Template, jobs, one_of, place, shown
from attngraph.experiments.scenes.facts import (
    BESIDE,
    OPPOSITE,
    RELATIONS,
    VALUES,
    Description,
    count,
    kinds_of,
    related,
    unique,
)
from attngraph.experiments.scenes.scene import COLORS, SHAPES, SPLITS, Scene, generator

_STREAM = 1


def questions(
    split: str, amount: int, seed: int, per_scene: int = 2
) -> Iterator[tuple[Scene, list[Sentence]]]:
    """Yield scenes with their questions, ``amount`` questions in total; deterministic for given arguments."""
    rng = generator(seed, _STREAM, SPLITS.index(split))
    return place(jobs(TEMPLATES, amount, rng), per_scene, split, seed, _STREAM)


# ---- Is there such a thing, and how many? ------------------------------------------------------------------

_EXISTS = (
    "is there {a} in the picture?",
    "does the picture show {a}?",
    "are there any {many}?",
    "can you see {a} here?",
)
_NO = (
    "is there no {one} in the picture?",
    "is the picture without any {many}?",
    "does the picture not show {a}?",
)
_HOW_MANY = (
    "how many {many} are there?",
    "what is the number of {many} in the picture?",
    "how many {many} does the picture show?",
)
_IN_ALL = ("how many things are there?", "how many things does the picture show?")


def _count(attribute, scene, wanted):
    for value in VALUES[attribute]:
        words = Description(**{attribute: value})
        if count(scene, words) == int(wanted):
            yield words.forms()


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


def _attribute(asked, form, scene, wanted):
    yield from (words.forms() for thing, words in unique(scene, form) if getattr(thing, asked) == wanted)


def _either(asked, form, scene, rng, wanted):
    words = one_of(_attribute, asked, form)(scene, rng, wanted)
    if not words:
        return None
    other = rng.choice([value for value in VALUES[asked] if value != wanted])
    first, second = rng.sample((wanted, other), 2)
    return {**words, "first": first, "second": second}


# ---- Are there more of these or of those, which is bigger, and do two things agree? ------------------------

_MORE = ("are there more {first} than {second}?", "does the picture show more {first} than {second}?")
_AS_MANY = (
    "are there as many {first} as {second}?",
    "is the number of {first} the same as the number of {second}?",
)
_WHICH_MORE = ("are there more {first} or more {second}?", "which are there more of, {first} or {second}?")
_BIGGER = ("is the {first} bigger than the {second}?", "is the {second} smaller than the {first}?")
_SAME = {
    asked: (
        f"do the {{first}} and the {{second}} have the same {asked}?",
        f"is the {{first}} the same {asked} as the {{second}}?",
    )
    for asked in ("color", "shape")
}


def _numbers(form, holds, scene, wanted):
    """Two kinds of things whose numbers agree with the answer: ``holds(m, n, wanted)``."""
    numbers = {words: count(scene, words) for words in kinds_of(scene, form)}
    for (a, m), (b, n) in permutations(numbers.items(), 2):
        if holds(m, n, wanted):
            words = {"first": a.many(), "second": b.many()}
            yield {**words, "answer": words.get(wanted, wanted)}


def _two(attribute, form, holds, scene, wanted):
    """Two things with an attribute that agrees with the answer: ``holds(a, b, wanted)``."""
    for (a, first), (b, second) in permutations(unique(scene, form), 2):
        if holds(getattr(a, attribute), getattr(b, attribute), wanted):
            yield {"first": first.one(), "second": second.one()}


def _is_more(m, n, wanted):
    return (m > n) == (wanted == "yes")


def _is_equal(a, b, wanted):
    return (a == b) == (wanted == "yes")


def _is_greater(a, b, wanted):
    """Never true of equals."""
    return a > b if wanted in ("yes", "first") else a < b


# ---- How do things stand to each other, and where in the picture? ------------------------------------------

_MOST = {"left": "leftmost", "right": "rightmost", "above": "highest", "below": "lowest"}
_CENTRE, _FAR = 31.5, 10  # of the picture; pixels from it that make a half clear
_BESIDE = ("is the {first} {beside} the {second}?", "can the {first} be found {beside} the {second}?")
_HALF = (
    "is the {one} in the {first} half or the {second} half?",
    "on which side is the {one}, {first} or {second}?",
)


def _what_wordings(which: str, asked: str) -> tuple[str, str]:
    return f"what {asked} is the {which}?", f"what is the {asked} of the {which}?"


def _beside(form, scene, wanted):
    for (a, first), (b, second) in permutations(unique(scene, form), 2):
        for relation in RELATIONS:
            if related(a, relation, b):
                beside = BESIDE[relation if wanted == "yes" else OPPOSITE[relation]]
                yield {"first": first.one(), "second": second.one(), "beside": beside}


def _what_is(asked, form, scene, wanted):
    for thing, words in unique(scene, form):
        for relation in RELATIONS:
            beside = [other for other in scene.things if related(other, relation, thing)]
            if len(beside) == 1 and getattr(beside[0], asked) == wanted:
                yield {"one": words.one(), "beside": BESIDE[relation]}


def _most(asked, scene, wanted):
    for relation in RELATIONS if len(scene.things) > 1 else ():
        for thing in scene.things:
            others = [other for other in scene.things if other is not thing]
            if getattr(thing, asked) == wanted and all(related(thing, relation, o) for o in others):
                yield {"most": _MOST[relation]}


def _half(form, scene, rng, wanted):
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


# ---- What are the things that are not so? ------------------------------------------------------------------

_ANY_OTHER = ("are there things that are not {names}?", "is there a thing that is not {name}?")
_COUNT_OTHER = ("how many things are not {names}?", "what is the number of things that are not {names}?")


def _others(form, holds, scene, wanted):
    """Words for "things that are not ..." if the other things agree with the answer: ``holds(others,
    wanted)``.
    """
    for words in kinds_of(scene, form):
        if holds([thing for thing in scene.things if not words.fits(thing)], wanted):
            yield {"name": words.color or words.a(), "names": words.color or words.many()}


def _other_than(form, scene, wanted):
    def holds(others, wanted):
        return wanted == (("yes" if others else "no") if wanted in YES_NO else str(len(others)))

    return _others(form, holds, scene, wanted) if len(scene.things) > 1 else ()


def _only_other(asked, form, scene, wanted):
    return _others(
        form, lambda others, wanted: len(others) == 1 and getattr(others[0], asked) == wanted, scene, wanted
    )


# ---- all of them -------------------------------------------------------------------------------------------

_FORMS = ("shape", "color")
_ASKED = {"color": tuple(COLORS), "shape": SHAPES}

# The order is part of the data set: with another one, the same seed gives other questions.
TEMPLATES = (
    *(
        Template("existence", _EXISTS, YES_NO, shown(form, "yes"))
        for form in ("shape", "color", "color shape", "size shape")
    ),
    *(
        Template("count", _HOW_MANY, tuple("01234"), one_of(_count, attribute))
        for attribute in ("shape", "color", "size")
    ),
    Template("count", _IN_ALL, tuple("12345"), _total),
    *(
        Template("attribute", _COLOR, tuple(COLORS), one_of(_attribute, "color", form))
        for form in ("shape", "size shape", "size")
    ),
    *(
        Template("attribute", _SHAPE, SHAPES, one_of(_attribute, "shape", form))
        for form in ("color", "size color")
    ),
    *(Template("attribute", _SIZE, ("small", "large"), one_of(_attribute, "size", form)) for form in _FORMS),
    Template("choice", _COLOR_OF_TWO, tuple(COLORS), partial(_either, "color", "shape")),
    Template("choice", _SHAPE_OF_TWO, SHAPES, partial(_either, "shape", "color")),
    *(Template("comparison", _MORE, YES_NO, one_of(_numbers, form, _is_more)) for form in _FORMS),
    *(Template("comparison", _AS_MANY, YES_NO, one_of(_numbers, form, _is_equal)) for form in _FORMS),
    *(
        Template("comparison", _WHICH_MORE, ("first", "second"), one_of(_numbers, form, _is_greater))
        for form in _FORMS
    ),
    *(Template("comparison", _BIGGER, YES_NO, one_of(_two, "radius", form, _is_greater)) for form in _FORMS),
    Template("comparison", _SAME["color"], YES_NO, one_of(_two, "color", "shape", _is_equal)),
    Template("comparison", _SAME["shape"], YES_NO, one_of(_two, "shape", "color", _is_equal)),
    *(
        Template("spatial", _BESIDE, YES_NO, one_of(_beside, form))
        for form in ("shape", "color", "color shape")
    ),
    *(
        Template(
            "spatial",
            _what_wordings("thing {beside} the {one}", asked),
            values,
            one_of(_what_is, asked, form),
        )
        for asked, values in _ASKED.items()
        for form in _FORMS
    ),
    *(
        Template("spatial", _what_wordings("{most} thing", asked), values, one_of(_most, asked))
        for asked, values in _ASKED.items()
    ),
    *(
        Template("spatial", _HALF, ("left", "right", "top", "bottom"), partial(_half, form))
        for form in _FORMS
    ),
    *(Template("negation", _NO, YES_NO, shown(form, "no")) for form in ("shape", "color", "color shape")),
    *(Template("negation", _ANY_OTHER, YES_NO, one_of(_other_than, form)) for form in _FORMS),
    *(Template("negation", _COUNT_OTHER, tuple("01234"), one_of(_other_than, form)) for form in _FORMS),
    *(
        Template(
            "negation",
            (f"what {asked} is the only thing that is not {{name}}?",),
            values,
            one_of(_only_other, asked, "shape" if asked == "color" else "color"),
        )
        for asked, values in _ASKED.items()
    ),
)
