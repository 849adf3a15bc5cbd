"""Synthetic scenes: a few coloured shapes on a background, sometimes partly behind a curtain.

A scene is a description; :func:`attngraph.experiments.scenes.drawing.draw` renders it as pixels, and the
modules that generate texts (:mod:`~attngraph.experiments.scenes.questions`,
:mod:`~attngraph.experiments.scenes.hypotheses`, :mod:`~attngraph.experiments.scenes.captions`,
:mod:`attngraph.experiments.studies.pretrain_texts`) make statements about it that are true by construction.

Two domains have the same vocabulary of shapes, colours and sizes but different distributions: pre-training
scenes have plain backgrounds and never contain the pairs in :data:`HELD_OUT`; downstream scenes have textured
backgrounds and contain every (colour, shape) pair equally often.
"""

import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError

CANVAS = 64
CELL, FIRST = 21, 11  # the grid of centres: 11, 32 and 53
CURTAIN_WIDTH = 20
CLEAR = 12  # two things differ clearly in x (or y) when their centres are at least this many pixels apart

SHAPES = ("circle", "square", "triangle", "star", "cross", "diamond")
COLORS = {
    "red": (225, 35, 40),
    "green": (35, 160, 55),
    "blue": (45, 75, 225),
    "yellow": (250, 225, 40),
    "purple": (150, 50, 185),
    "orange": (250, 135, 20),
    "cyan": (60, 215, 235),
    "brown": (140, 80, 35),
}
SIZES = {"small": 5, "large": 9}  # radius in pixels
SIDES = ("left", "right", "top", "bottom")

# Only in pre-training scenes that show one huge thing.
HUGE_SHAPES = SHAPES + ("rectangle",)
HUGE_COLORS = {**COLORS, "black": (15, 15, 15), "gray": (128, 128, 128), "teal": (0, 128, 128)}

# Pairs that pre-training never shows: two shapes of each colour, two or three colours of each shape.
HELD_OUT = frozenset(
    (color, shape)
    for color, shapes in {
        "red": ("star", "square"),
        "green": ("circle", "diamond"),
        "blue": ("triangle", "cross"),
        "yellow": ("square", "cross"),
        "purple": ("circle", "star"),
        "orange": ("diamond", "triangle"),
        "cyan": ("square", "star"),
        "brown": ("circle", "cross"),
    }.items()
    for shape in shapes
)

DOMAINS = ("pretrain", "downstream")
BACKGROUNDS = ("plain", "gradient", "noise", "checker")
SPLITS = ("train", "validation", "test")


Place = Annotated[int, Field(strict=True, ge=0, lt=CANVAS)]  # in pixels
Level = Annotated[int, Field(strict=True, ge=0, lt=256)]
Natural = Annotated[int, Field(strict=True, ge=0, lt=2**63)]


@dataclass(frozen=True)
class Thing:
    """One coloured shape: centre ``(x, y)`` in pixels (y grows downwards), ``radius`` is half its width."""

    shape: Literal[*HUGE_SHAPES]
    color: Literal[*HUGE_COLORS]
    size: Literal["small", "large", "huge"]
    x: Place
    y: Place
    radius: Place


@dataclass(frozen=True)
class Background:
    """Background: one RGB colour (plain) or two, and a seed for the noise, the direction of a gradient or the
    width of a checkerboard.
    """

    kind: Literal[*BACKGROUNDS]
    first: tuple[Level, Level, Level]
    second: tuple[Level, Level, Level]
    seed: Natural


@dataclass(frozen=True)
class Scene:
    """Content of an image; ``curtain`` is the side hidden by a hatched grey panel, or ``None``."""

    id: Natural
    things: Annotated[tuple[Thing, ...], Field(min_length=1)]
    background: Background
    curtain: Literal[*SIDES] | None
    domain: Literal[*DOMAINS]

    def to_dict(self) -> dict:
        """A description for JSON; :meth:`from_dict` reads it back."""
        return asdict(self)

    @staticmethod
    def from_dict(values: dict) -> "Scene":
        """The scene from the result of :meth:`to_dict`.

        Raises:
            ValueError: the values do not describe a scene.
        """
        try:
            return _READ.validate_python(values)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise ValueError(f"not a scene: {place}: {first['msg']}") from None


_READ = TypeAdapter(Scene)


def generator(*key: int) -> random.Random:
    """A random stream that depends on the integers of ``key`` only."""
    state = np.random.SeedSequence(key).generate_state(4)
    return random.Random(int.from_bytes(state.tobytes(), "little"))


def scenes(split: str, count: int, seed: int, domain: str, start: int = 0) -> Iterator[Scene]:
    """Yield ``count`` scenes of a split and domain from number ``start``. Scene number i does not depend on
    ``count`` and ``start``; splits never share a random stream.
    """
    for number in range(start, start + count):
        rng = generator(seed, DOMAINS.index(domain), SPLITS.index(split), number)
        yield sample_scene(rng, domain, number)


def sample_scene(
    rng: random.Random, domain: str, scene_id: int, curtain: bool | None = None, amount: int | None = None
) -> Scene:
    """A random scene; None for a random curtain and number of things.

    Things are in different squares of a 3 x 3 grid, jittered, so that they never overlap and two things in
    different columns (rows) are clearly left and right of (above and below) each other.
    """
    if domain == "pretrain" and curtain is None and amount is None and rng.random() < 0.15:
        return _huge_scene(rng, scene_id)
    if curtain is None:
        curtain = rng.random() < 0.4
    side = rng.choice(SIDES) if curtain else None
    amount = amount or rng.choice((1, 2, 2, 3, 3, 4, 4, 4, 5, 5))
    cells = rng.sample(
        [(column, row) for column in range(3) for row in range(3) if not _hidden(column, row, side)], amount
    )
    pairs = _pairs(rng, domain, amount)
    things = []
    for (column, row), (color, shape) in zip(cells, pairs):
        size = rng.choice(("small", "large"))
        radius = SIZES[size]
        slack = min(4, 10 - radius)
        x, y = (FIRST + CELL * place + rng.randint(-slack, slack) for place in (column, row))
        things.append(Thing(shape, color, size, x, y, radius))
    return Scene(scene_id, tuple(things), _background(rng, domain), side, domain)


def hidden_places(side: str) -> list[tuple[int, int]]:
    """The centres (x, y) of the grid squares covered by a curtain at ``side``."""
    return [
        (FIRST + CELL * column, FIRST + CELL * row)
        for column in range(3)
        for row in range(3)
        if _hidden(column, row, side)
    ]


def _hidden(column: int, row: int, side: str | None) -> bool:
    """Whether a curtain at ``side`` covers the grid square."""
    return {None: False, "left": column == 0, "right": column == 2, "top": row == 0, "bottom": row == 2}[side]


def _pairs(rng: random.Random, domain: str, amount: int) -> list[tuple[str, str]]:
    """(colour, shape) pairs, often from few shapes or colours, so that counts above one are common."""
    shapes, colors = SHAPES, tuple(COLORS)
    theme = rng.randrange(4)
    if theme == 0:
        shapes = rng.sample(SHAPES, 2)
    elif theme == 1:
        colors = rng.sample(colors, 2)
    elif theme == 2:
        shapes, colors = rng.sample(SHAPES, 3), rng.sample(colors, 3)
    pairs = []
    while len(pairs) < amount:
        pair = (rng.choice(colors), rng.choice(shapes))
        if domain == "pretrain" and pair in HELD_OUT:
            if rng.random() < 0.2:  # a small palette may hold held-out pairs only: widen it
                shapes, colors = SHAPES, tuple(COLORS)
            continue
        pairs.append(pair)
    return pairs


def _huge_scene(rng: random.Random, scene_id: int) -> Scene:
    """One thing of any large size anywhere in the image."""
    while True:
        shape, color = rng.choice(HUGE_SHAPES), rng.choice(tuple(HUGE_COLORS))
        if (color, shape) not in HELD_OUT:
            break
    radius = rng.randint(8, 26)
    x, y = (rng.randint(radius + 2, CANVAS - radius - 3) for _ in range(2))
    background = _background(rng, "pretrain")
    while color == "black" and background.first[0] < 100:
        background = _background(rng, "pretrain")
    return Scene(scene_id, (Thing(shape, color, "huge", x, y, radius),), background, None, "pretrain")


def _background(rng: random.Random, domain: str) -> Background:
    """Pre-training: one pale or dark tint. Downstream: two tints as a gradient, noise or checkerboard."""
    low, high = (218, 255) if rng.random() < 0.6 else (8, 52)
    first = tuple(rng.randint(low, high) for _ in range(3))
    if domain == "pretrain":
        return Background("plain", first, first, 0)
    low, high = (165, 255) if low > 100 else (5, 90)
    second = tuple(rng.randint(low, high) for _ in range(3))
    return Background(rng.choice(BACKGROUNDS[1:]), first, second, rng.getrandbits(31))
