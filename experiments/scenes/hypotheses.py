"""Hypotheses about downstream scenes: entailed, contradicted, or left open by the curtain.

What is visible decides where it can: a thing that is seen exists, whatever the curtain hides. Without a
curtain everything is seen. Behind a curtain there may be anything, so that for instance "there is no star" is
open when no star is seen; "the red circle" means the one that is seen. Every template is used equally often
for the three labels, and nearly half of the entailed and contradicted hypotheses belong to scenes with a
curtain.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from experiments.scenes.balance import Job, Sentence, Template, jobs, place
from experiments.scenes.facts import (
    BESIDE,
    NUMBERS,
    OPPOSITE,
    RELATIONS,
    Description,
    absent,
    count,
    describe,
    plural,
    random_description,
    related,
    unique,
)
from experiments.scenes.scene import COLORS, SHAPES, SIZES, SPLITS, Scene, Thing, generator, hidden_places

ENTAILMENT, CONTRADICTION, NEUTRAL = LABELS = ("entailment", "contradiction", "neutral")
_STREAM = 2


@dataclass(frozen=True)
class Claim(Template):
    """A kind of hypothesis.

    Args:
        decided: the labels that it can have although there is a curtain, besides neutral.
    """

    decided: tuple[str, ...]


def hypotheses(
    split: str, amount: int, seed: int, per_scene: int = 3
) -> Iterator[tuple[Scene, list[Sentence]]]:
    """Yields scenes with their hypotheses, ``amount`` in all; the same for the same arguments."""
    rng = generator(seed, _STREAM, SPLITS.index(split))
    todo = [replace(job, curtain=_wants_curtain(job, rng)) for job in jobs(TEMPLATES, amount, rng)]
    return place(todo, per_scene, split, seed, _STREAM)


def _wants_curtain(job: Job, rng) -> bool:
    if job.wanted == NEUTRAL:
        return True
    return job.wanted in job.template.decided and rng.random() < 0.75


def _exists(form):
    def fill(scene, rng, label):
        present = label == ENTAILMENT
        words = describe(rng.choice(scene.things), form) if present else absent(scene, rng, form)
        return words and _noun(words)

    return fill


def _lacks(form):
    def fill(scene, rng, label):
        present = label == CONTRADICTION
        words = describe(rng.choice(scene.things), form) if present else absent(scene, rng, form)
        return words and _noun(words)

    return fill


def _noun(words: Description) -> dict[str, str]:
    return {"a": words.a(), "one": words.one(), "many": words.many()}


def _numbered(form, number, compare):
    """Claims of exactly, at least or at most ``number`` things; behind a curtain more may exist."""

    def fill(scene, rng, label):
        fitting = []
        for value in COLORS if form == "color" else SHAPES:
            words = Description(**{form: value})
            seen = count(scene, words)
            possible = {
                _holds(compare, total, number) for total in range(seen, 9 if scene.curtain else seen + 1)
            }
            verdict = NEUTRAL if len(possible) == 2 else ENTAILMENT if True in possible else CONTRADICTION
            if verdict == label:
                fitting += [words] * (3 if seen else 1)  # what is seen makes harder hypotheses
        if not fitting:
            return None
        words = rng.choice(fitting)
        return {"n": NUMBERS[number], "many": words.one() if number == 1 else words.many()}

    return fill


def _holds(compare, total, number):
    return {"exactly": total == number, "at least": total >= number, "at most": total <= number}[compare]


def _uniform(shape, color, scene):
    """(whether all seen things of the shape have the colour, how many are seen)."""
    group = [thing for thing in scene.things if thing.shape == shape]
    return all(thing.color == color for thing in group), len(group)


def _every(negated):
    def fill(scene, rng, label):
        fitting = []
        for shape in SHAPES:
            for color in COLORS:
                whole, seen = _uniform(shape, color, scene)
                if not seen:
                    continue
                verdict = CONTRADICTION if not whole else NEUTRAL if scene.curtain else ENTAILMENT
                if negated and verdict != NEUTRAL:
                    verdict = CONTRADICTION if verdict == ENTAILMENT else ENTAILMENT
                if verdict == label:
                    mixed = not whole and any(
                        thing.shape == shape and thing.color == color for thing in scene.things
                    )
                    fitting += [(shape, color)] * (6 if mixed else 1)
        if not fitting:
            return None
        shape, color = rng.choice(fitting)
        return {"shape": shape, "shapes": plural(shape), "color": color}

    return fill


def _has_color(scene, rng, label):
    if label == NEUTRAL:
        words = absent(scene, rng, "shape")
        return words and {"one": words.one(), "value": rng.choice(tuple(COLORS))}
    singles = unique(scene, "shape")
    if not singles:
        return None
    thing, words = rng.choice(singles)
    others = [color for color in COLORS if color != thing.color]
    return {"one": words.one(), "value": thing.color if label == ENTAILMENT else rng.choice(others)}


def _has_size(scene, rng, label):
    if label == NEUTRAL:
        words = absent(scene, rng, "color shape")
        return words and {"one": words.one(), "value": rng.choice(tuple(SIZES))}
    singles = unique(scene, "color shape")
    if not singles:
        return None
    thing, words = rng.choice(singles)
    other = "small" if thing.size == "large" else "large"
    return {"one": words.one(), "value": thing.size if label == ENTAILMENT else other}


def _relates(form, shared):
    """As in "the A is left of the B", where A and B share the attribute ``shared`` or, if ``None``, nothing.

    Neutral: one of the two is not seen, and behind this curtain it could be where the hypothesis puts it.
    """

    def fits(first, second):
        same = {name for name in form.split() if getattr(first, name) == getattr(second, name)}
        return same == ({shared} if shared else set())

    def decided(scene, rng, label):
        singles = unique(scene, form)
        choices = [
            (first, relation, second)
            for a, first in singles
            for b, second in singles
            if fits(first, second)
            for relation in RELATIONS
            if related(a, relation, b)
        ]
        if not choices:
            return None
        first, relation, second = rng.choice(choices)
        return first, relation if label == ENTAILMENT else OPPOSITE[relation], second

    def undecided(scene, rng):
        singles = unique(scene, form)
        if not singles:
            return None
        _, seen = rng.choice(singles)
        unseen = random_description(rng, form)
        if not fits(seen, unseen) or count(scene, unseen):
            return None
        places = [Thing("", "", "", x, y, 0) for x, y in hidden_places(scene.curtain)]
        thing = next(other for other in scene.things if seen.fits(other))
        possible = [name for name in RELATIONS if any(related(place, name, thing) for place in places)]
        relation = rng.choice(possible)  # the unseen one could be there, as seen from the other
        if rng.random() < 0.5:
            return unseen, relation, seen
        return seen, OPPOSITE[relation], unseen

    def fill(scene, rng, label):
        chosen = undecided(scene, rng) if label == NEUTRAL else decided(scene, rng, label)
        if not chosen:
            return None
        first, relation, second = chosen
        return {"first": first.one(), "beside": BESIDE[relation], "second": second.one()}

    return fill


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


def _counts(compare, number):
    return tuple(
        text.replace("{be}", "is" if number == 1 else "are").replace("{compare}", compare) for text in _COUNTS
    )


_COMPARISONS = (
    ("exactly", 1),
    ("exactly", 2),
    ("at least", 2),
    ("at least", 3),
    ("at most", 1),
    ("at most", 2),
)
_FORMS = ("shape", "color", "color shape", "size shape")
_SHARING = (  # the form of a relation's two descriptions, and the attribute that they share
    ("shape", None),
    ("color", None),
    ("color shape", None),
    ("color shape", "color"),
    ("color shape", "shape"),
)
_YES, _NO, _BOTH = (ENTAILMENT,), (CONTRADICTION,), (ENTAILMENT, CONTRADICTION)

TEMPLATES = (
    *(Claim("existence", _EXISTS, LABELS, _exists(form), _YES) for form in _FORMS),
    *(Claim("negation", _LACKS, LABELS, _lacks(form), _NO) for form in _FORMS),
    *(
        Claim(
            "count",
            _counts(compare, number),
            LABELS,
            _numbered(form, number, compare),
            _YES if compare == "at least" else _NO,
        )
        for form in ("shape", "color")
        for compare, number in _COMPARISONS
    ),
    Claim("quantifier", _EVERY, LABELS, _every(negated=False), _NO),
    Claim("quantifier", _NOT_EVERY, LABELS, _every(negated=True), _YES),
    Claim("attribute", _HAS, LABELS, _has_color, _BOTH),
    Claim("attribute", _HAS, LABELS, _has_size, _BOTH),
    *(Claim("relation", _RELATES, LABELS, _relates(form, shared), _BOTH) for form, shared in _SHARING),
)
