"""Is there no such thing, and what are the things that are not so?"""

from experiments.scenes.balance import YES_NO, Filler, Template
from experiments.scenes.facts import count, kinds_of
from experiments.scenes.questions.existence import exists
from experiments.scenes.scene import COLORS, SHAPES

_NO = (
    "is there no {one} in the picture?",
    "is the picture without any {many}?",
    "does the picture not show {a}?",
)
_ANY_OTHER = ("are there things that are not {names}?", "is there a thing that is not {name}?")
_COUNT_OTHER = ("how many things are not {names}?", "what is the number of things that are not {names}?")


def _no(form: str) -> Filler:
    fill_positive = exists(form)

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


TEMPLATES = (
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
