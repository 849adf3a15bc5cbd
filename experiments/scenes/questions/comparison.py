"""Are there more of these or of those, which is bigger, and do two things agree?"""

from experiments.scenes.balance import YES_NO, Filler, Template
from experiments.scenes.facts import count, kinds_of, unique_pairs

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
TEMPLATES = (
    *(Template("comparison", _MORE, YES_NO, _more(form)) for form in _FORMS),
    *(Template("comparison", _AS_MANY, YES_NO, _as_many(form)) for form in _FORMS),
    *(Template("comparison", _WHICH_MORE, ("first", "second"), _which_more(form)) for form in _FORMS),
    *(Template("comparison", _BIGGER, YES_NO, _bigger(form)) for form in _FORMS),
    Template("comparison", _SAME_COLOR, YES_NO, _same("color", "shape")),
    Template("comparison", _SAME_SHAPE, YES_NO, _same("shape", "color")),
)
