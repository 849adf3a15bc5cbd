"""Rendering of a scene as a 64 x 64 RGB image, and the content of each patch."""

import math

import numpy as np
from PIL import Image, ImageDraw

from attngraph.experiments.scenes.scene import (
    CANVAS,
    CURTAIN_WIDTH,
    HUGE_COLORS,
    HUGE_SHAPES,
    Background,
    Scene,
    Thing,
)

CURTAIN_LIGHT, CURTAIN_DARK = (170, 170, 170), (90, 90, 90)
PATCH = 8  # pixels along a side, as in mini-BLIP
SHAPE_CLASSES = len(HUGE_SHAPES) + 1  # class 0 is "no thing here"
COLOR_CLASSES = len(HUGE_COLORS) + 1

_COLOR_NAMES = tuple(HUGE_COLORS)
_MIN_PIXELS = 4  # of a thing's bounding square that a patch must hold to count as showing the thing

_RAMP = np.linspace(0.0, 1.0, CANVAS, dtype=np.float32)
_ZERO = np.zeros((CANVAS, CANVAS), np.float32)
_BLENDS = {  # where the second background colour shows, 0..1
    "gradient": (
        _RAMP[None] + _ZERO,
        _RAMP[:, None] + _ZERO,
        (_RAMP[None] + _RAMP[:, None]) / 2,
        (_RAMP[None] + _RAMP[::-1, None]) / 2,
    ),
    "checker": tuple(
        ((np.arange(CANVAS)[None] // step + np.arange(CANVAS)[:, None] // step) % 2).astype(np.float32)
        for step in (4, 6, 8, 12)
    ),
}
_STAR = tuple(
    (rate * math.sin(math.pi * k / 5), -rate * math.cos(math.pi * k / 5))
    for k in range(10)
    for rate in ((1.12, 0.48)[k % 2],)
)


def draw(scene: Scene) -> Image.Image:
    """The image of a scene, identical for equal scenes. Things have exactly their colour's RGB."""
    image = Image.fromarray(_ground(scene.background))
    pen = ImageDraw.Draw(image)
    for thing in scene.things:
        _draw_thing(pen, thing)
    if scene.curtain:
        _draw_curtain(pen, scene.curtain)
    return image


def _ground(background: Background) -> np.ndarray:
    first, second = (np.array(color, np.float32) for color in (background.first, background.second))
    if background.kind == "plain":
        blend = _ZERO
    elif background.kind == "noise":
        blend = np.random.default_rng(background.seed).random((CANVAS, CANVAS), np.float32)
    else:
        blend = _BLENDS[background.kind][background.seed % 4]
    return (first + (second - first) * blend[..., None]).astype(np.uint8)


def _draw_thing(pen: ImageDraw.ImageDraw, thing: Thing) -> None:
    x, y, r, fill = thing.x, thing.y, thing.radius, HUGE_COLORS[thing.color]
    if thing.shape == "circle":
        pen.ellipse((x - r, y - r, x + r, y + r), fill=fill)
    elif thing.shape == "square":
        s = round(0.85 * r)
        pen.rectangle((x - s, y - s, x + s, y + s), fill=fill)
    elif thing.shape == "rectangle":
        long, short = r, max(3, round(r * (0.4 + 0.05 * (x % 5))))
        w, h = (long, short) if y % 2 else (short, long)
        pen.rectangle((x - w, y - h, x + w, y + h), fill=fill)
    elif thing.shape == "triangle":
        pen.polygon(((x, y - r), (x - r, y + r * 0.8), (x + r, y + r * 0.8)), fill=fill)
    elif thing.shape == "diamond":
        s = 0.72 * r
        pen.polygon(((x, y - r), (x + s, y), (x, y + r), (x - s, y)), fill=fill)
    elif thing.shape == "cross":
        s = max(1, int(r * 0.28))
        pen.rectangle((x - r, y - s, x + r, y + s), fill=fill)
        pen.rectangle((x - s, y - r, x + s, y + r), fill=fill)
    else:  # star
        pen.polygon([(x + dx * r, y + dy * r) for dx, dy in _STAR], fill=fill)


def _draw_curtain(pen: ImageDraw.ImageDraw, side: str) -> None:
    edge, wide = CANVAS - 1, CURTAIN_WIDTH
    left, top, right, bottom = {
        "left": (0, 0, wide - 1, edge),
        "right": (CANVAS - wide, 0, edge, edge),
        "top": (0, 0, edge, wide - 1),
        "bottom": (0, CANVAS - wide, edge, edge),
    }[side]
    pen.rectangle((left, top, right, bottom), fill=CURTAIN_LIGHT)
    for offset in range(0, CANVAS + wide, 5):  # hatching, clipped to the panel
        if side in ("left", "right"):
            points = [(left + k, offset - k) for k in (0, wide - 1)]
        else:
            points = [(offset - k, top + k) for k in (0, wide - 1)]
        pen.line(points, fill=CURTAIN_DARK)


def patch_targets(scene: Scene, side: int = CANVAS // PATCH) -> tuple[np.ndarray, np.ndarray]:
    """The shape and the colour of the thing in each patch.

    A patch contains the thing whose bounding square covers most of it, or no thing if this is fewer than 4
    pixels (or half of a smaller patch).

    Args:
        scene: the scene.
        side: number of patches along a side of the image.

    Returns:
        Two int64 arrays ``(patches,)``, row by row: number of the shape in
        :data:`~attngraph.experiments.scenes.scene.HUGE_SHAPES` and of the colour in
        :data:`~attngraph.experiments.scenes.scene.HUGE_COLORS`, counted from 1; 0 without a thing.
    """
    width = CANVAS / side
    starts = np.arange(side) * width
    shapes, colors = np.zeros((side, side), np.int64), np.zeros((side, side), np.int64)
    most = np.full((side, side), min(_MIN_PIXELS - 1, width * width / 2))
    for thing in scene.things:
        across, down = (
            (
                np.minimum(starts + width, centre + thing.radius + 1)
                - np.maximum(starts, centre - thing.radius)
            ).clip(0)
            for centre in (thing.x, thing.y)
        )
        covered = down[:, None] * across
        wins = covered > most
        shapes[wins] = HUGE_SHAPES.index(thing.shape) + 1
        colors[wins] = _COLOR_NAMES.index(thing.color) + 1
        most = np.maximum(most, covered)
    return shapes.ravel(), colors.ravel()
