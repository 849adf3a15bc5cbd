"""Descriptions of things ("a small red circle"), evaluated in a scene."""

import random
from dataclasses import dataclass

from attngraph.experiments.scenes.scene import CANVAS, CLEAR, COLORS, SHAPES, SIZES, Scene, Thing

PLURALS = {"cross": "crosses"}
NUMBERS = ("no", "one", "two", "three", "four", "five")
RELATIONS = ("left", "right", "above", "below")
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
BESIDE = {"left": "to the left of", "right": "to the right of", "above": "above", "below": "below"}
ROWS, COLUMNS = ("top", "middle", "bottom"), ("left", "middle", "right")
PLACES = tuple(f"{row} {column}" for row in ROWS for column in COLUMNS)
VALUES = {"shape": SHAPES, "color": tuple(COLORS), "size": tuple(SIZES)}
FORMS = ("shape", "color", "color shape", "size shape", "size color")


@dataclass(frozen=True)
class Description:
    """Attributes of a thing; ``None`` means any. It fits every thing with the other attributes."""

    size: str | None = None
    color: str | None = None
    shape: str | None = None

    def fits(self, thing: Thing) -> bool:
        """Whether the thing has all of the attributes."""
        return (
            (self.size is None or self.size == thing.size)
            and (self.color is None or self.color == thing.color)
            and (self.shape is None or self.shape == thing.shape)
        )

    def one(self, noun: str = "thing") -> str:
        """As in "small red circle"; ``noun`` is used without a shape."""
        return " ".join(word for word in (self.size, self.color, self.shape or noun) if word)

    def a(self, noun: str = "thing") -> str:
        """As in "a small red circle" or "an orange thing"."""
        words = self.one(noun)
        return ("an " if words[0] in "aeiou" else "a ") + words

    def many(self, noun: str = "thing") -> str:
        """As in "small red circles"."""
        words = self.one(noun).split(" ")
        return " ".join(words[:-1] + [plural(words[-1])])

    def forms(self, noun: str = "thing") -> dict[str, str]:
        """The three above, by their names."""
        return {"one": self.one(noun), "a": self.a(noun), "many": self.many(noun)}


def plural(noun: str) -> str:
    """The noun's plural: "circles", "crosses"."""
    return PLURALS.get(noun, noun + "s")


def describe(thing: Thing, form: str) -> Description:
    """The description of a thing that names the attributes in ``form``, such as "size shape"."""
    return Description(
        *(getattr(thing, name) if name in form.split() else None for name in ("size", "color", "shape"))
    )


def random_description(
    rng: random.Random, form: str, shapes: tuple = SHAPES, colors: tuple = tuple(COLORS)
) -> Description:
    """A description with uniformly random attributes, whether or not a thing fits it."""
    parts = form.split()
    return Description(
        rng.choice(tuple(SIZES)) if "size" in parts else None,
        rng.choice(colors) if "color" in parts else None,
        rng.choice(shapes) if "shape" in parts else None,
    )


def absent(scene: Scene, rng: random.Random, form: str) -> Description | None:
    """A description that does not fit any thing in the scene; half of the time made of attributes in the
    scene.

    ``None`` after twenty unsuccessful attempts.
    """
    for _ in range(20):
        words = random_description(rng, form)
        if " " in form and rng.random() < 0.5:
            parts = [describe(rng.choice(scene.things), part) for part in form.split()]
            words = Description(
                *(
                    next((getattr(part, name) for part in parts if getattr(part, name)), None)
                    for name in ("size", "color", "shape")
                )
            )
        if not count(scene, words):
            return words
    return None


def count(scene: Scene, description: Description) -> int:
    """Number of visible things that fit the description."""
    return sum(description.fits(thing) for thing in scene.things)


def related(first: Thing, relation: str, second: Thing) -> bool | None:
    """Whether ``first`` is left of (right of, above, below) ``second``; ``None`` if that is unclear."""
    if relation in ("left", "right"):
        gap = second.x - first.x
    else:
        gap = second.y - first.y
    if abs(gap) < CLEAR:
        return None
    return (gap > 0) == (relation in ("left", "above"))


def place_of(thing: Thing) -> str:
    """Row and column of a thing's centre on a grid of three by three: "top left", "middle middle"."""
    return f"{ROWS[thing.y * 3 // CANVAS]} {COLUMNS[thing.x * 3 // CANVAS]}"


def short_place(thing: Thing) -> str:
    """:func:`place_of` without a redundant "middle": "top left", "left", "top", "middle"."""
    row, column = place_of(thing).split()
    return column if row == "middle" else row if column == "middle" else f"{row} {column}"


def unique(scene: Scene, form: str) -> list[tuple[Thing, Description]]:
    """The things that are uniquely identified by their description of this form."""
    described = [(thing, describe(thing, form)) for thing in scene.things]
    every = [words for _, words in described]
    return [(thing, words) for thing, words in described if every.count(words) == 1]


def kinds_of(scene: Scene, form: str) -> list[Description]:
    """The distinct descriptions of this form that fit a thing, in a fixed order."""
    return sorted({describe(thing, form) for thing in scene.things}, key=str)
