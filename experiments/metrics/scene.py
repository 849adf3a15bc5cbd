r"""Facts about a synthetic scene stated by a caption, and their precision, recall and F1.

As in SPICE (Anderson et al. 2016) a caption is a set of tuples of three kinds. Here the reference is the
scene from which the image was generated, instead of other captions.

====================  =============================  =======================================================
kind                  tuples of a caption            correct if
====================  =============================  =======================================================
:data:`OBJECTS`       (shape); (curtain)             the matched thing has the shape; there is a curtain
:data:`ATTRIBUTES`    (thing, size),                 the matched thing has the shape named with it, and
                      (thing, colour);               the size or colour;
                      (scene, number of things)      this is the number of things
:data:`RELATIONS`     (thing, left of, thing) ...,   both are matched, and the relation holds;
                      (thing, place),                the place on a 3 x 3 grid is the thing's;
                      (curtain, side)                the curtain is on this side
====================  =============================  =======================================================

Named things are matched one to one with the scene's things, so that the number of correct objects and
attributes is maximal; of equally good matchings the one that preserves the order from left to right is used.
If a caption names the same thing twice, one of them is wrong.

Precision is the fraction of a caption's tuples that are correct. Recall is the fraction of the tuples of a
complete caption that are among them: each thing with its shape, size, colour and position (for a single
thing, its place in the image, otherwise its relation to the thing before it, in the order of
:func:`attngraph.experiments.scenes.captions.ordered`). Other facts (the curtain, the number of things, a
relation of things that are not consecutive) affect precision only, since a caption need not state them.

.. math:: P = \frac{\text{right}}{\text{claimed}},\quad R = \frac{\text{found}}{\text{asked}},\quad
    F_1 = \frac{2 P R}{P + R}

from the four counts summed over examples; a score over three kinds sums these too. 0/0 is 0.

Words are read from left to right; case and unknown words are ignored. The grammar is::

    caption    = { number-of | named | curtain | relation | place | order | other word }
    number-of  = (NUMBER "things") | ("only" "thing")                   the number of things
    named      = [NUMBER] {SIZE | COLOUR} (SHAPE | "thing" | plural)    one thing; of a plural NUMBER, or two
    curtain    = "curtain"
    relation   = ("left" | "right") ("of" | "than")                     of the thing before to the next one
               | "above" | "over" | "higher" | "below" | "under" | "lower"
    place      = "at the" ROW [COLUMN] | "at the" COLUMN                of the thing or curtain before
    order      = "from left to right"                                   each next thing is right of the last

"object", "item" and "shape" are synonyms of "thing", which does not name a shape; without a size or colour it
is ignored, as is `beside`, which is true for any two things. A size or colour that is not followed by a
thing, and a relation or place without its thing, are counted as claims that cannot be correct.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from scipy.optimize import linear_sum_assignment

from attngraph.experiments.metrics.statistics import aligned
from attngraph.experiments.scenes.captions import ordered
from attngraph.experiments.scenes.facts import NUMBERS, plural, related, short_place
from attngraph.experiments.scenes.scene import HUGE_COLORS, HUGE_SHAPES, SIZES, Scene, Thing

OBJECTS, ATTRIBUTES, RELATIONS = KINDS = ("objects", "attributes", "relations")
COUNTS = ("right", "claimed", "found", "asked")
MEASURES = ("precision", "recall", "F1")

_WORD = re.compile(r"[^\W_]+|[^\w\s]")
_ATTRIBUTES = {*SIZES, "huge", *HUGE_COLORS}
_OPEN = ("thing", "object", "item", "shape")
_SINGLE = {**{shape: shape for shape in HUGE_SHAPES}, **dict.fromkeys(_OPEN)}
_NOUNS = {**_SINGLE, **{plural(noun): shape for noun, shape in _SINGLE.items()}}
_NUMBERS = {word: k for k, spelt in enumerate(NUMBERS) for word in (spelt, str(k)) if k}
_RELATIONS = {
    **{side: side for side in ("left", "right")},
    **dict.fromkeys(("above", "over", "higher"), "above"),
    **dict.fromkeys(("below", "under", "lower"), "below"),
}
_ATTRIBUTE = f"(?:{'|'.join(_ATTRIBUTES)})"
#: The grammar's phrases, in words separated by single spaces.
_PHRASES = re.compile(
    r"(?<!\S)(?:"
    r"(?P<order>from left to right)"
    r"|at the (?P<place>(?:top|bottom) (?:left|right)|top|bottom|left|right|middle)"
    r"|(?P<relation>(?:left|right) (?:of|than)|above|over|higher|below|under|lower)"
    r"|(?P<curtain>curtain)"
    rf"|(?P<named>(?:(?:only|{'|'.join(_NUMBERS)}) )?(?:{_ATTRIBUTE} )*(?:{'|'.join(_NOUNS)}))"
    rf"|(?P<loose>{_ATTRIBUTE}(?: {_ATTRIBUTE})*)"
    r")(?!\S)"
)


@dataclass
class Named:
    """A thing named by a caption: its shape, if stated, sizes and colours, and places such as "top left",
    "top" or "middle".
    """

    shape: str | None = None
    attributes: frozenset[str] = frozenset()
    places: set[str] = field(default_factory=set)


@dataclass
class Said:
    """Facts stated by a caption: things and curtains (the sides of each) in its order, numbers of things
    (each time one is stated), and the number of attributes without a thing. A relation is (index in
    ``things``, "left", "right", "above" or "below", index in ``things``), with None instead of an index if
    there is no thing; (None, "at", None) is a place without a thing.
    """

    things: list[Named] = field(default_factory=list)
    curtains: list[set[str]] = field(default_factory=list)
    relations: set[tuple[int | None, str, int | None]] = field(default_factory=set)
    numbers: list[int] = field(default_factory=list)
    loose: int = 0


def read(caption: str) -> Said:
    """Parse a caption by the grammar above; every text can be parsed."""
    said, in_order = Said(), False
    places: set[str] | None = None  # of the last thing or curtain
    waiting: list[tuple[int | None, str]] = []  # a relation without its second thing
    for phrase in _PHRASES.finditer(" ".join(_WORD.findall(caption.lower()))):
        kind, words = phrase.lastgroup, phrase[0].split()
        if kind == "named":
            shape, attributes = _NOUNS[words[-1]], frozenset(words[:-1]) & _ATTRIBUTES
            number = _NUMBERS.get(words[0])
            if shape is None and not attributes:
                if words[0] == "only" or number is not None:
                    said.numbers.append(number or 1)
                continue
            for _ in range(1 if words[-1] in _SINGLE else number or 2):
                here = len(said.things)
                said.relations |= {(*relation, here) for relation in waiting}
                if in_order and here:
                    said.relations.add((here - 1, "left", here))
                said.things.append(Named(shape, attributes))
                places, waiting = said.things[-1].places, []
        elif kind == "relation":
            said.relations |= {(*relation, None) for relation in waiting}
            waiting = [(len(said.things) - 1 if said.things else None, _RELATIONS[words[0]])]
        elif kind == "curtain":
            said.curtains.append(places := set())
        elif kind == "order":
            in_order = not said.things
        elif kind == "loose":
            said.loose += len(set(words))
        elif places is None:
            said.relations.add((None, "at", None))
        else:
            places.add(phrase["place"])
    said.relations |= {(*relation, None) for relation in waiting}
    return said


def scene_counts(predictions: Mapping[str, str], scenes: Mapping[str, Scene]) -> np.ndarray:
    """Counts of one generated caption per example, by example ids.

    Returns:
        ``(N, 12)`` in the order of ``scenes``: the :data:`COUNTS` of objects, of attributes, of relations.

    Raises:
        UserError: the ids differ.
    """
    pairs = aligned(predictions, dict.fromkeys(scenes, ()))
    return np.stack([caption_counts(caption, scenes[id]).ravel() for id, caption in pairs])


def scene_f1(totals: np.ndarray) -> np.ndarray:
    """F1 ``(...)`` over all kinds from summed :func:`scene_counts` ``(..., 12)``."""
    return precision_recall_f1(_by_kind(totals).sum(axis=-2))[..., 2]


def scores_by_kind(totals: np.ndarray) -> dict[str, tuple[float, int]]:
    """Each kind's precision, recall and F1 with its number of tuples, from summed counts ``(12,)``.

    Returns:
        ``{"objects: precision": (0.9, claimed), "objects: recall": (0.8, asked), ...}``
    """
    scores = {}
    for kind, counts in zip(KINDS, _by_kind(totals), strict=True):
        _, claimed, _, asked = map(round, counts)
        sizes = (claimed, asked, asked)
        for measure, value, size in zip(MEASURES, precision_recall_f1(counts), sizes, strict=True):
            scores[f"{kind}: {measure}"] = (float(value), size)
    return scores


def precision_recall_f1(counts: np.ndarray) -> np.ndarray:
    """``(..., 3)`` from the four summed :data:`COUNTS` ``(..., 4)``."""
    right, claimed, found, asked = np.moveaxis(np.asarray(counts, dtype=np.float64), -1, 0)
    precision, recall = _share(right, claimed), _share(found, asked)
    return np.stack([precision, recall, _share(2 * precision * recall, precision + recall)], axis=-1)


def caption_counts(caption: str, scene: Scene) -> np.ndarray:
    """The :data:`COUNTS` ``(3, 4)`` of one caption: a line for each of :data:`KINDS`."""
    said, things = read(caption), ordered(scene)
    shown = matched(said.things, things)
    right_shapes = sum(said.things[k].shape is not None for k in shown)
    shapes = sum(thing.shape is not None for thing in said.things)
    curtain = bool(said.curtains and scene.curtain)

    right_attributes = sum(_right_attributes(said.things[k], things[place]) for k, place in shown.items())
    attributes = sum(len(thing.attributes) for thing in said.things) + said.loose
    numbers = sum(number == len(things) for number in said.numbers)

    standing = _standing(said, things, shown)
    complete = {frozenset(pair) for pair in pairwise(range(len(things)))} or {frozenset([0])}
    found = complete & {about for about, is_right in standing if is_right}
    right_standing = sum(is_right for _, is_right in standing)
    sides = [side for hung in said.curtains for side in hung]
    objects = right_shapes + curtain, shapes + len(said.curtains), right_shapes, len(things)
    of_things = right_attributes + numbers, attributes + len(said.numbers), right_attributes, 2 * len(things)
    relations = (
        right_standing + (scene.curtain in sides),
        len(standing) + len(sides),
        len(found),
        len(complete),
    )
    return np.array([objects, of_things, relations], dtype=np.float64)


def matched(named: Sequence[Named], things: Sequence[Thing]) -> dict[int, int]:
    """Matching of named things with the scene's: index in ``named`` -> index in ``things``, one to one.

    Of all such matchings one with the most correct objects and attributes is used, and of these the one that
    preserves the order best. Named things without any correct attribute are not matched.
    """
    if not named:
        return {}
    right = np.array([[_right_tuples(words, thing) for thing in things] for words in named], dtype=np.float64)
    places, others = np.indices(right.shape)
    most = 1 + min(right.shape) * max(right.shape) ** 2  # keeps the sum of what follows below 1
    rows, columns = linear_sum_assignment(right - (places - others) ** 2 / most, maximize=True)
    return {int(k): int(place) for k, place in zip(rows, columns) if right[k, place] > 0}


def _right_tuples(words: Named, thing: Thing) -> int:
    """Number of correct objects and attributes if a named thing is this one."""
    if words.shape not in (None, thing.shape):
        return 0
    return (words.shape is not None) + _right_attributes(words, thing)


def _right_attributes(words: Named, thing: Thing) -> int:
    return sum(attribute in (thing.size, thing.color) for attribute in words.attributes)


def _standing(
    said: Said, things: Sequence[Thing], shown: Mapping[int, int]
) -> list[tuple[frozenset[int], bool]]:
    """Positions stated by a caption: the things involved, and whether the statement is true."""
    judged = []
    for first, relation, second in said.relations:
        ends = [shown.get(end) for end in (first, second)]
        if None in ends:  # one of them is not named, or is not there
            judged.append((frozenset(), False))
        else:
            judged.append((frozenset(ends), related(things[ends[0]], relation, things[ends[1]]) is True))
    for k, words in enumerate(said.things):
        for place in words.places:
            is_right = k in shown and short_place(things[shown[k]]) == place
            judged.append((frozenset([shown[k]]) if k in shown else frozenset(), is_right))
    return judged


def _by_kind(totals: np.ndarray) -> np.ndarray:
    """``(..., 12)`` as ``(..., kinds, counts)``."""
    totals = np.asarray(totals, dtype=np.float64)
    return totals.reshape(*totals.shape[:-1], len(KINDS), len(COUNTS))


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
