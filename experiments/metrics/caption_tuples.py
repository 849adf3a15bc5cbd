"""Reads a caption of a drawn scene, however broken, as named things, attributes and relations.

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
from dataclasses import dataclass

from experiments.scenes.facts import COLUMNS, NUMBERS, ROWS, plural
from experiments.scenes.scene import HUGE_COLORS, HUGE_SHAPES, SIZES

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


@dataclass(frozen=True)
class Named:
    """A thing or curtain as a caption names it.

    Args:
        shape: None where the caption does not say.
        attributes: sizes and colours.
        places: "top left", "top", "left", "middle" ...; of a curtain the sides.
    """

    shape: str | None = None
    attributes: frozenset[str] = frozenset()
    places: frozenset[str] = frozenset()


@dataclass(frozen=True)
class CaptionTuples:
    """What a caption says.

    Args:
        things: in the order of the caption.
        curtains: likewise.
        relations: (number in ``things``, "left", "right", "above" or "below", number in ``things``), None in
            place of a number where no thing is named; (None, "at", None) for a place of nothing.
        numbers: how many things there are, as often as that is said.
        loose: how many attributes belong to nothing.
    """

    things: tuple[Named, ...] = ()
    curtains: tuple[Named, ...] = ()
    relations: frozenset[tuple[int | None, str, int | None]] = frozenset()
    numbers: tuple[int, ...] = ()
    loose: int = 0


def read_caption(caption: str) -> CaptionTuples:
    """What a caption says, by the grammar above; any text has a reading."""
    return _Reader(_WORD.findall(caption.lower())).read()


class _Reader:
    """One pass over the words; a relation waits for its second thing, attributes for their noun."""

    def __init__(self, words: list[str]) -> None:
        self.words, self.at = words, 0
        self.things: list[_Open] = []
        self.curtains: list[_Open] = []
        self.last: _Open | None = None  # what a place belongs to
        self.relations: set[tuple[int | None, str, int | None]] = set()
        self.numbers: list[int] = []
        self.loose = 0
        self.attributes: list[str] = []
        self.number: int | None = None
        self.waiting: tuple[int | None, str] | None = None
        self.in_order = False

    def read(self) -> CaptionTuples:
        while self.at < len(self.words):
            word = self.words[self.at]
            if word in _ATTRIBUTES:
                self.attributes.append(word)
                self.at += 1
            elif word in _SINGLE or word in _PLURAL:
                self._noun(word)
                self.at += 1
            else:
                self._drop_attributes()
                self.number = _NUMBERS.get(word)
                self.at += self._other(word)
        self._drop_attributes()
        self._relate(None)
        things, curtains = (tuple(each.closed() for each in named) for named in (self.things, self.curtains))
        return CaptionTuples(things, curtains, frozenset(self.relations), tuple(self.numbers), self.loose)

    def _noun(self, word: str) -> None:
        number, attributes = self.number, frozenset(self.attributes)
        self.number, self.attributes = None, []
        shape = _SINGLE[word] if word in _SINGLE else _PLURAL[word]
        if shape is None and not attributes:
            only = self.at and self.words[self.at - 1] == "only"
            if only or number is not None:
                self.numbers.append(1 if only else number)
            return
        for _ in range(1 if word in _SINGLE else number or 2):
            self._relate(len(self.things))
            self.last = _Open(shape, attributes)
            if self.in_order and self.things:
                self.relations.add((len(self.things) - 1, "left", len(self.things)))
            self.things.append(self.last)

    def _other(self, word: str) -> int:
        """Reads what begins with another word than a noun or attribute; returns how many words it took."""
        rest = self.words[self.at : self.at + 4]
        if word == "curtain":
            self.last = _Open(word, frozenset())
            self.curtains.append(self.last)
        elif rest == _ORDER:
            self.in_order = not self.things
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
        said = self.words[self.at + 2 : self.at + 4]
        if said[:1] and said[0] in ("top", "bottom"):
            said = said[: 2 if said[1:] and said[1] in ("left", "right") else 1]
        else:
            said = [word for word in said[:1] if word in (*ROWS, *COLUMNS)]
        if said and self.last is None:
            self.relations.add((None, "at", None))
        elif said:
            self.last.places.add(" ".join(said))
        return 2 + len(said)

    def _begin_relation(self, relation: str) -> None:
        self._relate(None)
        self.waiting = (len(self.things) - 1 if self.things else None, relation)

    def _relate(self, second: int | None) -> None:
        if self.waiting is not None:
            self.relations.add((*self.waiting, second))
        self.waiting = None

    def _drop_attributes(self) -> None:
        self.loose += len(set(self.attributes))
        self.attributes = []


class _Open:
    """A named thing to which places may still be added."""

    def __init__(self, shape: str | None, attributes: frozenset[str]) -> None:
        self.shape, self.attributes, self.places = shape, attributes, set[str]()

    def closed(self) -> Named:
        return Named(self.shape, self.attributes, frozenset(self.places))
