"""What each patch of a pre-training picture shows: targets of an auxiliary loss."""

import numpy as np

from experiments.scenes.scene import CANVAS, HUGE_COLORS, HUGE_SHAPES, Scene

PATCH = 8  # pixels along a side, as in mini-BLIP
SHAPE_CLASSES = len(HUGE_SHAPES) + 1  # class 0 is "no thing here"
COLOR_CLASSES = len(HUGE_COLORS) + 1

_COLOR_NAMES = tuple(HUGE_COLORS)
_MIN_PIXELS = 4  # of a thing's bounding square that a patch must hold to count as showing the thing


def patch_targets(scene: Scene, side: int = CANVAS // PATCH) -> tuple[np.ndarray, np.ndarray]:
    """The shape and the colour of the thing that each patch shows.

    A patch shows the thing whose bounding square covers most of it, and none if that is fewer than 4 pixels
    of the drawing (or half of a smaller patch).

    Args:
        scene: what is drawn.
        side: patches along a side of the picture.

    Returns:
        Two int64 arrays ``(patches,)``, row by row: number of the shape in
        :data:`~experiments.scenes.scene.HUGE_SHAPES` and of the colour in
        :data:`~experiments.scenes.scene.HUGE_COLORS`, counted from 1; 0 where there is nothing.
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
