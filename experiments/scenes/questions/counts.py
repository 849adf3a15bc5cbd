"""How many are there?"""

from experiments.scenes.balance import Filler, Template
from experiments.scenes.facts import Description, count
from experiments.scenes.scene import COLORS, SHAPES, SIZES

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


TEMPLATES = (
    *(
        Template("count", _HOW_MANY, tuple("01234"), _count(attribute))
        for attribute in ("shape", "color", "size")
    ),
    Template("count", _IN_ALL, tuple("12345"), _total),
)
