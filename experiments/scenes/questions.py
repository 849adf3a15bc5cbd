"""Questions about downstream scenes in seven kinds, balanced so that the text alone gives nothing away."""

from collections.abc import Iterator

from experiments.scenes.balance import Sentence, Template, jobs, place
from experiments.scenes.facts import (
    OPPOSITE,
    RELATIONS,
    Description,
    count,
    describe,
    random_description,
    related,
    unique,
)
from experiments.scenes.scene import COLORS, SHAPES, Scene, generator

BESIDE = {"left": "to the left of", "right": "to the right of", "above": "above", "below": "below"}
MOST = {"left": "leftmost", "right": "rightmost", "above": "highest", "below": "lowest"}
YES_NO = ("yes", "no")
_STREAM = 1


def questions(
    split: str, amount: int, seed: int, per_scene: int = 2
) -> Iterator[tuple[Scene, list[Sentence]]]:
    """Yields scenes with their questions, `amount` questions in all; the same for the same arguments."""
    rng = generator(seed, _STREAM, ("train", "validation", "test").index(split))
    return place(jobs(TEMPLATES, amount, rng), per_scene, split, seed, _STREAM)


def absent(scene: Scene, rng, form: str) -> Description | None:
    """A description that fits nothing in the scene; half the time made of attributes that are in it."""
    for _ in range(20):
        words = random_description(rng, form)
        if " " in form and rng.random() < 0.5:
            parts = [describe(rng.choice(scene.things), part) for part in form.split()]
            words = Description(
                *(
                    next((getattr(part, name) for part in parts if getattr(part, name)), None)
                    for name in ("size", "color", "shape")
                )
            )
        if not count(scene, words):
            return words
    return None


def _existence(form):
    def fill(scene, rng, wanted):
        words = describe(rng.choice(scene.things), form) if wanted == "yes" else absent(scene, rng, form)
        return words and {"a": words.a(), "many": words.many()}

    return fill


def _count(form):
    def fill(scene, rng, wanted):
        values = COLORS if form == "color" else SHAPES if form == "shape" else ("small", "large")
        fitting = [
            words
            for words in (Description(**{form: value}) for value in values)
            if count(scene, words) == int(wanted)
        ]
        return {"many": rng.choice(fitting).many()} if fitting else None

    return fill


def _total(scene, rng, wanted):
    return {} if len(scene.things) == int(wanted) else None


def _attribute(asked, form):
    def fill(scene, rng, wanted):
        found = [words for thing, words in unique(scene, form) if getattr(thing, asked) == wanted]
        return {"one": rng.choice(found).one()} if found else None

    return fill


def _either(asked, form):
    def fill(scene, rng, wanted):
        words = _attribute(asked, form)(scene, rng, wanted)
        if not words:
            return None
        other = rng.choice([value for value in (COLORS if asked == "color" else SHAPES) if value != wanted])
        first, second = rng.sample((wanted, other), 2)
        return {**words, "first": first, "second": second}

    return fill


def _present_pairs(scene, form):
    """Ordered pairs of different descriptions that fit something, with their counts."""
    found = sorted({describe(thing, form) for thing in scene.things}, key=str)
    return [(a, count(scene, a), b, count(scene, b)) for a in found for b in found if a != b]


def _more(form):
    def fill(scene, rng, wanted):
        pairs = [(a, b) for a, m, b, n in _present_pairs(scene, form) if (m > n) == (wanted == "yes")]
        return _two(rng.choice(pairs)) if pairs else None

    return fill


def _as_many(form):
    def fill(scene, rng, wanted):
        pairs = [(a, b) for a, m, b, n in _present_pairs(scene, form) if (m == n) == (wanted == "yes")]
        return _two(rng.choice(pairs)) if pairs else None

    return fill


def _which_more(form):
    def fill(scene, rng, wanted):
        pairs = [
            (a, b) for a, m, b, n in _present_pairs(scene, form) if (m > n if wanted == "first" else m < n)
        ]
        if not pairs:
            return None
        words = _two(rng.choice(pairs))
        return {**words, "answer": words[wanted]}

    return fill


def _two(pair):
    return {"first": pair[0].many(), "second": pair[1].many()}


def _unique_pairs(scene, form):
    found = unique(scene, form)
    return [(a, b) for a in found for b in found if a is not b]


def _bigger(form):
    def fill(scene, rng, wanted):
        pairs = [
            (first, second)
            for (a, first), (b, second) in _unique_pairs(scene, form)
            if (a.radius > b.radius if wanted == "yes" else a.radius < b.radius)
        ]
        return _the_two(rng, pairs)

    return fill


def _same(asked, form):
    def fill(scene, rng, wanted):
        pairs = [
            (first, second)
            for (a, first), (b, second) in _unique_pairs(scene, form)
            if (getattr(a, asked) == getattr(b, asked)) == (wanted == "yes")
        ]
        return _the_two(rng, pairs)

    return fill


def _the_two(rng, pairs):
    if not pairs:
        return None
    first, second = rng.choice(pairs)
    return {"first": first.one(), "second": second.one()}


def _beside(form):
    def fill(scene, rng, wanted):
        found = [
            (first, relation, second)
            for (a, first), (b, second) in _unique_pairs(scene, form)
            for relation in RELATIONS
            if related(a, relation, b)
        ]
        if not found:
            return None
        first, relation, second = rng.choice(found)
        shown = relation if wanted == "yes" else OPPOSITE[relation]
        return {"first": first.one(), "second": second.one(), "beside": BESIDE[shown]}

    return fill


def _what_is(asked, form):
    def fill(scene, rng, wanted):
        found = []
        for thing, words in unique(scene, form):
            for relation in RELATIONS:
                there = [other for other in scene.things if related(other, relation, thing)]
                if len(there) == 1 and getattr(there[0], asked) == wanted:
                    found.append((words, relation))
        if not found:
            return None
        words, relation = rng.choice(found)
        return {"one": words.one(), "beside": BESIDE[relation]}

    return fill


def _most(asked):
    def fill(scene, rng, wanted):
        found = [
            relation
            for relation in RELATIONS
            for thing in scene.things
            if getattr(thing, asked) == wanted
            and all(related(thing, relation, other) for other in scene.things if other is not thing)
        ]
        return {"most": MOST[rng.choice(found)]} if found and len(scene.things) > 1 else None

    return fill


def _half(form):
    def fill(scene, rng, wanted):
        across = wanted in ("left", "right")
        found = [
            words
            for thing, words in unique(scene, form)
            if ((thing.x if across else thing.y) - 31.5) * (1 if wanted in ("right", "bottom") else -1) > 10
        ]
        if not found:
            return None
        first, second = rng.sample(("left", "right") if across else ("top", "bottom"), 2)
        return {"one": rng.choice(found).one(), "first": first, "second": second}

    return fill


def _no(form):
    def fill(scene, rng, wanted):
        return _existence(form)(scene, rng, "no" if wanted == "yes" else "yes")

    return fill


def _other_than(form):
    """Words for "things that are not ..." when `wanted` many (or any, for yes and no) are not."""

    def fill(scene, rng, wanted):
        if len(scene.things) < 2:
            return None
        fitting = []
        for words in sorted({describe(thing, form) for thing in scene.things}, key=str):
            others = len(scene.things) - count(scene, words)
            if wanted in ("yes", "no", str(others)) and (
                wanted not in YES_NO or (others > 0) == (wanted == "yes")
            ):
                fitting.append(words)
        if not fitting:
            return None
        words = rng.choice(fitting)
        return {"name": words.color or words.a(), "names": words.color or words.many()}

    return fill


def _only_other(asked, form):
    def fill(scene, rng, wanted):
        fitting = []
        for words in sorted({describe(thing, form) for thing in scene.things}, key=str):
            others = [thing for thing in scene.things if not words.fits(thing)]
            if len(others) == 1 and getattr(others[0], asked) == wanted:
                fitting.append(words)
        if not fitting:
            return None
        words = rng.choice(fitting)
        return {"name": words.color or words.a()}

    return fill


_THERE = (
    "is there {a} in the picture?",
    "does the picture show {a}?",
    "are there any {many}?",
    "can you see {a} here?",
)
_HOW_MANY = (
    "how many {many} are there?",
    "what is the number of {many} in the picture?",
    "how many {many} does the picture show?",
)
_COLOR = (
    "what color is the {one}?",
    "what is the color of the {one} in the picture?",
    "which color is the {one}?",
)
_SHAPE = ("what shape is the {one}?", "what is the shape of the {one}?", "the {one} is what shape?")
_SIZE = ("what size is the {one}?", "is the {one} small or large?", "is the {one} large or small?")
_EITHER = ("is the {one} {first} or {second}?",)
_EITHER_A = ("is the {one} a {first} or a {second}?",)
_MORE = ("are there more {first} than {second}?", "does the picture show more {first} than {second}?")
_AS_MANY = (
    "are there as many {first} as {second}?",
    "is the number of {first} the same as the number of {second}?",
)
_WHICH = ("are there more {first} or more {second}?", "which are there more of, {first} or {second}?")
_BIGGER = ("is the {first} bigger than the {second}?", "is the {second} smaller than the {first}?")
_SAME_COLOR = (
    "do the {first} and the {second} have the same color?",
    "is the {first} the same color as the {second}?",
)
_SAME_SHAPE = (
    "do the {first} and the {second} have the same shape?",
    "is the {first} the same shape as the {second}?",
)
_BESIDE = ("is the {first} {beside} the {second}?", "can the {first} be found {beside} the {second}?")
_WHAT = (
    "what {asked} is the thing {beside} the {{one}}?",
    "what is the {asked} of the thing {beside} the {{one}}?",
)
_HALF = (
    "is the {one} in the {first} half or the {second} half?",
    "on which side is the {one}, {first} or {second}?",
)
_NO = (
    "is there no {one} in the picture?",
    "is the picture without any {many}?",
    "does the picture not show {a}?",
)


def _named(wordings, asked):
    return tuple(wording.replace("{asked}", asked).replace("{{one}}", "{one}") for wording in wordings)


def _with_one(fill_of):
    """Adds the bare description to the words of an existence filler."""

    def make(form):
        fill = fill_of(form)

        def filled(scene, rng, wanted):
            words = fill(scene, rng, wanted)
            return words and {**words, "one": words["a"].split(" ", 1)[1]}

        return filled

    return make


_COLOR_NAMES = tuple(COLORS)
TEMPLATES = (
    *(
        Template("existence", _THERE, YES_NO, _existence(form))
        for form in ("shape", "color", "color shape", "size shape")
    ),
    *(Template("count", _HOW_MANY, tuple("01234"), _count(form)) for form in ("shape", "color", "size")),
    Template(
        "count",
        ("how many things are there?", "how many things does the picture show?"),
        tuple("12345"),
        _total,
    ),
    *(
        Template("attribute", _COLOR, _COLOR_NAMES, _attribute("color", form))
        for form in ("shape", "size shape", "size")
    ),
    *(Template("attribute", _SHAPE, SHAPES, _attribute("shape", form)) for form in ("color", "size color")),
    *(
        Template("attribute", _SIZE, ("small", "large"), _attribute("size", form))
        for form in ("shape", "color")
    ),
    Template("choice", _EITHER, _COLOR_NAMES, _either("color", "shape")),
    Template("choice", _EITHER_A, SHAPES, _either("shape", "color")),
    *(Template("comparison", _MORE, YES_NO, _more(form)) for form in ("shape", "color")),
    *(Template("comparison", _AS_MANY, YES_NO, _as_many(form)) for form in ("shape", "color")),
    *(Template("comparison", _WHICH, ("first", "second"), _which_more(form)) for form in ("shape", "color")),
    *(Template("comparison", _BIGGER, YES_NO, _bigger(form)) for form in ("shape", "color")),
    Template("comparison", _SAME_COLOR, YES_NO, _same("color", "shape")),
    Template("comparison", _SAME_SHAPE, YES_NO, _same("shape", "color")),
    *(Template("spatial", _BESIDE, YES_NO, _beside(form)) for form in ("shape", "color", "color shape")),
    *(
        Template("spatial", _named(_WHAT, asked), values, _what_is(asked, form))
        for asked, values in (("color", _COLOR_NAMES), ("shape", SHAPES))
        for form in ("shape", "color")
    ),
    Template(
        "spatial",
        ("what color is the {most} thing?", "what is the color of the {most} thing?"),
        _COLOR_NAMES,
        _most("color"),
    ),
    Template(
        "spatial",
        ("what shape is the {most} thing?", "what is the shape of the {most} thing?"),
        SHAPES,
        _most("shape"),
    ),
    *(
        Template("spatial", _HALF, ("left", "right", "top", "bottom"), _half(form))
        for form in ("shape", "color")
    ),
    *(Template("negation", _NO, YES_NO, _with_one(_no)(form)) for form in ("shape", "color", "color shape")),
    *(
        Template(
            "negation",
            ("are there things that are not {names}?", "is there a thing that is not {name}?"),
            YES_NO,
            _other_than(form),
        )
        for form in ("shape", "color")
    ),
    *(
        Template(
            "negation",
            ("how many things are not {names}?", "what is the number of things that are not {names}?"),
            tuple("01234"),
            _other_than(form),
        )
        for form in ("shape", "color")
    ),
    Template(
        "negation",
        ("what color is the only thing that is not {name}?",),
        _COLOR_NAMES,
        _only_other("color", "shape"),
    ),
    Template(
        "negation",
        ("what shape is the only thing that is not {name}?",),
        SHAPES,
        _only_other("shape", "color"),
    ),
)
