"""Hypotheses about downstream scenes: entailed, contradicted, or left open by the curtain.

What is visible decides where it can: a thing that is seen exists, whatever the curtain hides. Without a
curtain everything is seen. Behind a curtain there may be anything, so that for instance "there is no star" is
open when no star is seen; "the red circle" means the one that is seen. Every template is used equally often
for the three labels, and nearly half of the entailed and contradicted hypotheses belong to scenes with a
curtain.
"""

from collections.abc import Iterator
from dataclasses import replace

from experiments.scenes.balance import Job, Sentence, Template, jobs, place
from experiments.scenes.facts import (
    OPPOSITE,
    RELATIONS,
    Description,
    count,
    describe,
    plural,
    random_description,
    related,
    unique,
)
from experiments.scenes.questions import BESIDE, absent
from experiments.scenes.scene import COLORS, SHAPES, SIZES, Scene, Thing, generator, hidden_places

ENTAILMENT, CONTRADICTION, NEUTRAL = LABELS = ("entailment", "contradiction", "neutral")
NUMBERS = ("zero", "one", "two", "three", "four")
_STREAM = 2


def hypotheses(
    split: str, amount: int, seed: int, per_scene: int = 3
) -> Iterator[tuple[Scene, list[Sentence]]]:
    """Yields scenes with their hypotheses, `amount` hypotheses in all; the same for the same arguments."""
    rng = generator(seed, _STREAM, ("train", "validation", "test").index(split))
    todo = [replace(job, curtain=_wants_curtain(job, rng)) for job in jobs(TEMPLATES, amount, rng)]
    return place(todo, per_scene, split, seed, _STREAM)


def _wants_curtain(job: Job, rng) -> bool:
    if job.wanted == NEUTRAL:
        return True
    return job.wanted in _DECIDED[job.template.fill] and rng.random() < 0.75


# The labels that a template can have although there is a curtain, by its filler
_DECIDED: dict = {}


def _decided(*labels):
    """Marks a filler with the labels that a curtain cannot hide."""

    def mark(fill):
        _DECIDED[fill] = labels
        return fill

    return mark


def _exists(form):
    @_decided(ENTAILMENT)
    def fill(scene, rng, label):
        words = describe(rng.choice(scene.things), form) if label == ENTAILMENT else absent(scene, rng, form)
        return words and _noun(words)

    return fill


def _lacks(form):
    @_decided(CONTRADICTION)
    def fill(scene, rng, label):
        words = (
            describe(rng.choice(scene.things), form) if label == CONTRADICTION else absent(scene, rng, form)
        )
        return words and _noun(words)

    return fill


def _noun(words: Description) -> dict[str, str]:
    return {"a": words.a(), "one": words.one(), "many": words.many()}


def _numbered(form, number, compare):
    """Claims of exactly, at least or at most `number` things. With a curtain, more than is seen may exist."""

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
                fitting += [words] * (
                    3 if seen else 1
                )  # words for things that are seen make harder hypotheses
        if not fitting:
            return None
        words = rng.choice(fitting)
        return {"n": NUMBERS[number], "many": words.one() if number == 1 else words.many()}

    return _decided(ENTAILMENT if compare == "at least" else CONTRADICTION)(fill)


def _holds(compare, total, number):
    return {"exactly": total == number, "at least": total >= number, "at most": total <= number}[compare]


def _uniform(shape, color, scene):
    """(whether all seen things of the shape have the colour, how many are seen)."""
    group = [thing for thing in scene.things if thing.shape == shape]
    return all(thing.color == color for thing in group), len(group)


def _every(negated):
    @_decided(ENTAILMENT if negated else CONTRADICTION)
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
    found = unique(scene, "shape")
    if not found:
        return None
    thing, words = rng.choice(found)
    others = [color for color in COLORS if color != thing.color]
    return {"one": words.one(), "value": thing.color if label == ENTAILMENT else rng.choice(others)}


def _has_size(scene, rng, label):
    if label == NEUTRAL:
        words = absent(scene, rng, "color shape")
        return words and {"one": words.one(), "value": rng.choice(tuple(SIZES))}
    found = unique(scene, "color shape")
    if not found:
        return None
    thing, words = rng.choice(found)
    other = "small" if thing.size == "large" else "large"
    return {"one": words.one(), "value": thing.size if label == ENTAILMENT else other}


def _relates(form, shared):
    """ "The A is left of the B", where A and B share the attribute `shared` or, if None, share nothing.

    Neutral: one of the two is not seen, and behind this curtain it could be where the hypothesis puts it.
    """

    def fits(first, second):
        same = {name for name in form.split() if getattr(first, name) == getattr(second, name)}
        return same == ({shared} if shared else set())

    def decided(scene, rng, label):
        found = unique(scene, form)
        choices = [
            (first, relation, second)
            for a, first in found
            for b, second in found
            if fits(first, second)
            for relation in RELATIONS
            if related(a, relation, b)
        ]
        if not choices:
            return None
        first, relation, second = rng.choice(choices)
        return first, relation if label == ENTAILMENT else OPPOSITE[relation], second

    def undecided(scene, rng):
        found = unique(scene, form)
        if not found:
            return None
        _, seen = rng.choice(found)
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

    return _decided(ENTAILMENT, CONTRADICTION)(fill)


_decided(ENTAILMENT, CONTRADICTION)(_has_color)
_decided(ENTAILMENT, CONTRADICTION)(_has_size)

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


TEMPLATES = (
    *(
        Template("existence", _EXISTS, LABELS, _exists(form))
        for form in ("shape", "color", "color shape", "size shape")
    ),
    *(
        Template("negation", _LACKS, LABELS, _lacks(form))
        for form in ("shape", "color", "color shape", "size shape")
    ),
    *(
        Template("count", _counts(compare, number), LABELS, _numbered(form, number, compare))
        for form in ("shape", "color")
        for compare, number in (
            ("exactly", 1),
            ("exactly", 2),
            ("at least", 2),
            ("at least", 3),
            ("at most", 1),
            ("at most", 2),
        )
    ),
    Template("quantifier", _EVERY, LABELS, _every(negated=False)),
    Template("quantifier", _NOT_EVERY, LABELS, _every(negated=True)),
    Template("attribute", _HAS, LABELS, _has_color),
    Template("attribute", _HAS, LABELS, _has_size),
    *(
        Template("relation", _RELATES, LABELS, _relates(form, shared))
        for form, shared in (
            ("shape", None),
            ("color", None),
            ("color shape", None),
            ("color shape", "color"),
            ("color shape", "shape"),
        )
    ),
)
