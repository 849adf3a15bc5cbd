"""Hypotheses about downstream scenes: entailed, contradicted, or undetermined because of the curtain.

Labels follow from the visible part if possible: a visible thing exists, regardless of the hidden part.
Without a curtain everything is visible. Behind a curtain there may be anything, so that for instance "there
is no star" is neutral if no star is visible; "the red circle" means the visible one. Every template is used
equally often for the three labels, and nearly half of the entailed and contradicted hypotheses belong to
scenes with a curtain.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import permutations

from attngraph.experiments.scenes.balance import Job, Sentence, Template, jobs, one_of, place, shown
from attngraph.experiments.scenes.facts import (
    BESIDE,
    NUMBERS,
    OPPOSITE,
    RELATIONS,
    VALUES,
    Description,
    absent,
    count,
    plural,
    random_description,
    related,
    unique,
)
from attngraph.experiments.scenes.scene import COLORS, SHAPES, SPLITS, Scene, Thing, generator, hidden_places

ENTAILMENT, CONTRADICTION, NEUTRAL = LABELS = ("entailment", "contradiction", "neutral")
_STREAM = 2


@dataclass(frozen=True)
class Claim(Template):
    """A kind of hypothesis.

    Args:
        decided: the labels other than neutral that are possible with a curtain.
    """

    decided: tuple[str, ...]


def hypotheses(
    split: str, amount: int, seed: int, per_scene: int = 3
) -> Iterator[tuple[Scene, list[Sentence]]]:
    """Yield scenes with their hypotheses, ``amount`` in total; deterministic for given arguments."""
    rng = generator(seed, _STREAM, SPLITS.index(split))
    todo = [replace(job, curtain=_wants_curtain(job, rng)) for job in jobs(TEMPLATES, amount, rng)]
    return place(todo, per_scene, split, seed, _STREAM)


def _wants_curtain(job: Job, rng) -> bool:
    if job.wanted == NEUTRAL:
        return True
    return job.wanted in job.template.decided and rng.random() < 0.75


def _numbered(form, number, compare, scene, label):
    """Claims of exactly, at least or at most ``number`` things; behind a curtain more may exist."""
    holds = {"exactly": number.__eq__, "at least": number.__le__, "at most": number.__ge__}[compare]
    form_of = Description.one if number == 1 else Description.many
    for value in VALUES[form]:
        words = Description(**{form: value})
        seen = count(scene, words)
        possible = {holds(total) for total in range(seen, 9 if scene.curtain else seen + 1)}
        verdict = NEUTRAL if len(possible) == 2 else ENTAILMENT if True in possible else CONTRADICTION
        if verdict == label:
            filled = {"n": NUMBERS[number], "many": form_of(words), "compare": compare}
            filled["be"] = "is" if number == 1 else "are"
            yield from [filled] * (3 if seen else 1)  # what is seen makes harder hypotheses


def _every(yes, no, scene, label):
    """Claims that all things of a shape have a colour, or (with the labels exchanged) that not all have."""
    for shape in SHAPES:
        colors = [thing.color for thing in scene.things if thing.shape == shape]
        for color in COLORS if colors else ():
            whole = set(colors) == {color}
            if label == (no if not whole else NEUTRAL if scene.curtain else yes):
                filled = {"shape": shape, "shapes": plural(shape), "color": color}
                yield from [filled] * (6 if not whole and color in colors else 1)


def _has(asked, form, scene, rng, label):
    """Claims of a thing's colour or size; neutral ones of a thing that is not visible."""
    if label == NEUTRAL:
        words = absent(scene, rng, form)
        return words and {"one": words.one(), "value": rng.choice(VALUES[asked])}
    singles = unique(scene, form)
    if not singles:
        return None
    thing, words = rng.choice(singles)
    value = getattr(thing, asked)
    if label == CONTRADICTION:
        others = [other for other in VALUES[asked] if other != value]
        value = rng.choice(others) if len(others) > 1 else others[0]
    return {"one": words.one(), "value": value}


def _relates(form, shared, scene, rng, label):
    """As in "the A is left of the B", with A and B sharing the attribute ``shared`` (``None``: no attribute).

    Neutral: one of the two is not visible, and behind this curtain it could be at the position in the
        hypothesis.
    """

    def fits(first, second):
        same = {name for name in form.split() if getattr(first, name) == getattr(second, name)}
        return same == ({shared} if shared else set())

    def decided(singles):
        choices = [
            (first, relation, second)
            for (a, first), (b, second) in permutations(singles, 2)
            if fits(first, second)
            for relation in RELATIONS
            if related(a, relation, b)
        ]
        if not choices:
            return None
        first, relation, second = rng.choice(choices)
        return first, relation if label == ENTAILMENT else OPPOSITE[relation], second

    def undecided(singles):
        if not singles:
            return None
        thing, seen = rng.choice(singles)
        unseen = random_description(rng, form)
        if not fits(seen, unseen) or count(scene, unseen):
            return None
        places = [Thing("", "", "", x, y, 0) for x, y in hidden_places(scene.curtain)]
        possible = [name for name in RELATIONS if any(related(place, name, thing) for place in places)]
        relation = rng.choice(possible)  # the unseen one could be there, as seen from the other
        if rng.random() < 0.5:
            return unseen, relation, seen
        return seen, OPPOSITE[relation], unseen

    chosen = (undecided if label == NEUTRAL else decided)(unique(scene, form))
    if not chosen:
        return None
    first, relation, second = chosen
    return {"first": first.one(), "beside": BESIDE[relation], "second": second.one()}


_EXISTS = (
    "there is {a}",
    "there is {a} in the picture",
    "one of the things is {a}",
    "the picture has {a} in it",
)
_LACKS = (
    "there is no {one}",
    "no {one} is in the picture",
    "the picture is without {a}",
    "none of the things is {a}",
)
_COUNTS = ("there {be} {compare} {n} {many}", "{compare} {n} {many} {be} in the picture")
_EVERY = (
    "every {shape} is {color}",
    "all {shapes} are {color}",
    "all of the {shapes} in the picture are {color}",
)
_NOT_EVERY = (
    "not every {shape} is {color}",
    "not all {shapes} are {color}",
    "some of the {shapes} are not {color}",
)
_HAS = ("the {one} is {value}", "the {one} in the picture is {value}")
_RELATES = ("the {first} is {beside} the {second}", "the {first} can be found {beside} the {second}")
_NUMBERS = {"exactly": (1, 2), "at least": (2, 3), "at most": (1, 2)}
_FORMS = ("shape", "color", "color shape", "size shape")
_SHARING = (  # the form of a relation's two descriptions, and the attribute that they share
    ("shape", None),
    ("color", None),
    ("color shape", None),
    ("color shape", "color"),
    ("color shape", "shape"),
)
_YES, _NO, _BOTH = (ENTAILMENT,), (CONTRADICTION,), (ENTAILMENT, CONTRADICTION)

# The order is part of the data set: with another one, the same seed gives other hypotheses.
TEMPLATES = (
    *(Claim("existence", _EXISTS, LABELS, shown(form, ENTAILMENT), _YES) for form in _FORMS),
    *(Claim("negation", _LACKS, LABELS, shown(form, CONTRADICTION), _NO) for form in _FORMS),
    *(
        Claim(
            "count",
            _COUNTS,
            LABELS,
            one_of(_numbered, form, number, compare),
            _YES if compare == "at least" else _NO,
        )
        for form in ("shape", "color")
        for compare, numbers in _NUMBERS.items()
        for number in numbers
    ),
    Claim("quantifier", _EVERY, LABELS, one_of(_every, ENTAILMENT, CONTRADICTION), _NO),
    Claim("quantifier", _NOT_EVERY, LABELS, one_of(_every, CONTRADICTION, ENTAILMENT), _YES),
    Claim("attribute", _HAS, LABELS, partial(_has, "color", "shape"), _BOTH),
    Claim("attribute", _HAS, LABELS, partial(_has, "size", "color shape"), _BOTH),
    *(
        Claim("relation", _RELATES, LABELS, partial(_relates, form, shared), _BOTH)
        for form, shared in _SHARING
    ),
)
