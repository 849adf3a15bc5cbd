"""How do things stand to each other, and where in the picture?"""

from experiments.scenes.balance import YES_NO, Filler, Template
from experiments.scenes.facts import BESIDE, OPPOSITE, RELATIONS, related, unique, unique_pairs
from experiments.scenes.scene import COLORS, SHAPES

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


TEMPLATES = (
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
)
