"""Which colour, shape or size has a thing, asked openly or as a choice of two?"""

from experiments.scenes.balance import Filler, Template
from experiments.scenes.facts import unique
from experiments.scenes.scene import COLORS, SHAPES

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


TEMPLATES = (
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
)
