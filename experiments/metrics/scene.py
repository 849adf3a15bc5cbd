r"""What a caption says about a drawn scene, and how much of it is so: precision, recall and F1.

As in SPICE (Anderson et al. 2016) a caption is a set of tuples of three kinds. Here the truth is the scene
that the picture was drawn from, in place of what other captions say.

====================  =============================  =======================================================
kind                  tuples of a caption            right if
====================  =============================  =======================================================
:data:`OBJECTS`       (shape); (curtain)             the matched thing has the shape; there is a curtain
:data:`ATTRIBUTES`    (thing, size),                 the matched thing has the shape that is named with it,
                      (thing, colour);               and the size or colour;
                      (scene, number of things)      there are so many things
:data:`RELATIONS`     (thing, left of, thing) ...,   both are matched, and stand so;
                      (thing, place),                the place on a grid of three by three is the thing's;
                      (curtain, side)                the curtain hangs there
====================  =============================  =======================================================

Named things are matched with the scene's one to one, so that as many objects and attributes as possible are
right; of equally good matchings the one that keeps the order from left to right. Who names a thing twice is
wrong once.

Precision is the share of a caption's tuples that are right. Recall is the share, of what a complete caption
says, that is found among them: each thing with its shape, size and colour, and where it stands: a thing alone
in the picture, any other in relation to the one before it, in the order of
:func:`experiments.scenes.captions.ordered`. What else is said (the curtain, the number of things, a relation
of things further apart) counts for precision alone: a caption need not say it.

.. math:: P = \frac{\text{right}}{\text{claimed}},\quad R = \frac{\text{found}}{\text{asked}},\quad
    F_1 = \frac{2 P R}{P + R}

from the four counts summed over examples; a score over three kinds sums these too. 0/0 is 0.

Words are read from left to right; case and unknown words mean nothing. Written as a grammar::

    caption    = { number-of | named | curtain | relation | place | order | other word }
    number-of  = (NUMBER "things") | ("only" "thing")                   says how many things there are
    named      = [NUMBER] {SIZE | COLOUR} (SHAPE | "thing" | plural)    one thing; of a plural NUMBER, or two
    curtain    = "curtain"
    relation   = ("left" | "right") ("of" | "than")                     of the thing before to the next one
               | "above" | "over" | "higher" | "below" | "under" | "lower"
    place      = "at the" ROW [COLUMN] | "at the" COLUMN                of the thing or curtain before
    order      = "from left to right"                                   each next thing is right of the last

"object", "item" and "shape" say the same as "thing", which names no shape; without a size or colour it says
nothing. "Beside" is true of any two things and says nothing. A size or colour that no thing follows, and a
relation or place without its thing, are claims about nothing: they are kept, and cannot be right.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from scipy.optimize import linear_sum_assignment

from experiments.metrics.statistics import aligned
from experiments.scenes.captions import ordered
from experiments.scenes.facts import COLUMNS, NUMBERS, ROWS, plural, related, short_place
from experiments.scenes.scene import HUGE_COLORS, HUGE_SHAPES, SIZES, Scene, Thing

OBJECTS, ATTRIBUTES, RELATIONS = KINDS = ("objects", "attributes", "relations")
COUNTS = ("right", "claimed", "found", "asked")
MEASURES = ("precision", "recall", "F1")

_WORD = re.compile(r"[^\W_]+|[^\w\s]")
_ATTRIBUTES = {*SIZES, "huge", *HUGE_COLORS}
_OPEN = ("thing", "object", "item", "shape")
_SINGLE = {**{shape: shape for shape in HUGE_SHAPES}, **dict.fromkeys(_OPEN)}
_PLURAL = {plural(noun): shape for noun, shape in _SINGLE.items()}
_NUMBERS = {word: k for k, spelt in enumerate(NUMBERS) for word in (spelt, str(k)) if k}
_RELATIONS = {
    **dict.fromkeys(("above", "over", "higher"), "above"),
    **dict.fromkeys(("below", "under", "lower"), "below"),
}
_ORDER = ["from", "left", "to", "right"]


@dataclass
class Named:
    """A thing or curtain as a caption names it.

    Args:
        shape: None where the caption does not say.
        attributes: sizes and colours.
        places: "top left", "top", "left", "middle" ...; of a curtain the sides.
    """

    shape: str | None = None
    attributes: frozenset[str] = frozenset()
    places: set[str] = field(default_factory=set)


class Said:
    """What a caption says, by the grammar above; any text has a reading.

    Args:
        caption: as it was generated.

    Attributes:
        things: in the order of the caption.
        curtains: likewise.
        relations: (number in ``things``, "left", "right", "above" or "below", number in ``things``), None in
            place of a number where no thing is named; (None, "at", None) for a place of nothing.
        numbers: how many things there are, as often as that is said.
        loose: how many attributes belong to nothing.
    """

    def __init__(self, caption: str) -> None:
        self.things: list[Named] = []
        self.curtains: list[Named] = []
        self.relations: set[tuple[int | None, str, int | None]] = set()
        self.numbers: list[int] = []
        self.loose = 0
        self._words, self._at = _WORD.findall(caption.lower()), 0
        self._last: Named | None = None  # what a place belongs to
        self._attributes: list[str] = []  # wait for their noun
        self._number: int | None = None
        self._waiting: tuple[int | None, str] | None = None  # a relation without its second thing
        self._in_order = False
        self._read()

    def _read(self) -> None:
        while self._at < len(self._words):
            word = self._words[self._at]
            if word in _ATTRIBUTES:
                self._attributes.append(word)
                self._at += 1
            elif word in _SINGLE or word in _PLURAL:
                self._noun(word)
                self._at += 1
            else:
                self._drop_attributes()
                self._number = _NUMBERS.get(word)
                self._at += self._other(word)
        self._drop_attributes()
        self._relate(None)

    def _noun(self, word: str) -> None:
        number, attributes = self._number, frozenset(self._attributes)
        self._number, self._attributes = None, []
        shape = _SINGLE[word] if word in _SINGLE else _PLURAL[word]
        if shape is None and not attributes:
            only = self._at and self._words[self._at - 1] == "only"
            if only or number is not None:
                self.numbers.append(1 if only else number)
            return
        for _ in range(1 if word in _SINGLE else number or 2):
            self._relate(len(self.things))
            self._last = Named(shape, attributes)
            if self._in_order and self.things:
                self.relations.add((len(self.things) - 1, "left", len(self.things)))
            self.things.append(self._last)

    def _other(self, word: str) -> int:
        """Reads what begins with another word than a noun or attribute; returns how many words it took."""
        rest = self._words[self._at : self._at + 4]
        if word == "curtain":
            self._last = Named(word)
            self.curtains.append(self._last)
        elif rest == _ORDER:
            self._in_order = not self.things
            return 4
        elif rest[:2] == ["at", "the"]:
            return self._place()
        elif word in ("left", "right") and rest[1:2] in (["of"], ["than"]):
            self._begin_relation(word)
            return 2
        elif word in _RELATIONS:
            self._begin_relation(_RELATIONS[word])
        return 1

    def _place(self) -> int:
        said = self._words[self._at + 2 : self._at + 4]
        if said[:1] and said[0] in ("top", "bottom"):
            said = said[: 2 if said[1:] and said[1] in ("left", "right") else 1]
        else:
            said = [word for word in said[:1] if word in (*ROWS, *COLUMNS)]
        if said and self._last is None:
            self.relations.add((None, "at", None))
        elif said:
            self._last.places.add(" ".join(said))
        return 2 + len(said)

    def _begin_relation(self, relation: str) -> None:
        self._relate(None)
        self._waiting = (len(self.things) - 1 if self.things else None, relation)

    def _relate(self, second: int | None) -> None:
        if self._waiting is not None:
            self.relations.add((*self._waiting, second))
        self._waiting = None

    def _drop_attributes(self) -> None:
        self.loose += len(set(self._attributes))
        self._attributes = []


def scene_counts(predictions: Mapping[str, str], scenes: Mapping[str, Scene]) -> np.ndarray:
    """Counts of one generated caption per example.

    Args:
        predictions: example id -> caption.
        scenes: example id -> what the picture shows.

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
    """Each kind's precision, recall and F1 with the number of tuples behind it, from summed counts ``(12,)``.

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
    said, things = Said(caption), ordered(scene)
    shown = matched(said.things, things)
    standing = _standing(said, things, shown)
    right_standing = sum(is_right for _, is_right in standing)
    complete = {frozenset(pair) for pair in pairwise(range(len(things)))} or {frozenset([0])}
    found = complete & {about for about, is_right in standing if is_right}

    curtain = bool(said.curtains and scene.curtain)
    sides = [side for hung in said.curtains for side in hung.places]
    shapes = sum(thing.shape is not None for thing in said.things)
    right_shapes = sum(said.things[k].shape is not None for k in shown)
    attributes = sum(len(thing.attributes) for thing in said.things)
    right_attributes = sum(_right_attributes(said.things[k], things[place]) for k, place in shown.items())
    numbers = sum(number == len(things) for number in said.numbers)
    return np.array(
        [
            [right_shapes + curtain, shapes + len(said.curtains), right_shapes, len(things)],
            [
                right_attributes + numbers,
                attributes + said.loose + len(said.numbers),
                right_attributes,
                2 * len(things),
            ],
            [
                right_standing + (scene.curtain in sides),
                len(standing) + len(sides),
                len(found),
                len(complete),
            ],
        ],
        dtype=np.float64,
    )


def matched(named: Sequence[Named], things: Sequence[Thing]) -> dict[int, int]:
    """Which of the things each named one is: place in ``named`` -> place in ``things``, one to one.

    Of all such matchings one with the most right objects and attributes, and of these the one that least
    disturbs the order. Named things of which nothing is right are left out.
    """
    if not named:
        return {}
    right = np.array([[_right_tuples(words, thing) for thing in things] for words in named], dtype=np.float64)
    places, others = np.indices(right.shape)
    most = 1 + min(right.shape) * max(right.shape) ** 2  # keeps the sum of what follows below 1
    rows, columns = linear_sum_assignment(right - (places - others) ** 2 / most, maximize=True)
    return {int(k): int(place) for k, place in zip(rows, columns) if right[k, place] > 0}


def _right_tuples(words: Named, thing: Thing) -> int:
    """How many objects and attributes are right if a named thing is this one."""
    if words.shape not in (None, thing.shape):
        return 0
    return (words.shape is not None) + _right_attributes(words, thing)


def _right_attributes(words: Named, thing: Thing) -> int:
    return sum(attribute in (thing.size, thing.color) for attribute in words.attributes)


def _standing(
    said: Said, things: Sequence[Thing], shown: Mapping[int, int]
) -> list[tuple[frozenset[int], bool]]:
    """What a caption says of where things stand: which of the things it is about, and whether it is so."""
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
