"""The targets of the auxiliary loss, against the drawn pixels."""

import numpy as np
import pytest

from attngraph.experiments.scenes.drawing import COLOR_CLASSES, PATCH, SHAPE_CLASSES, draw, patch_targets
from attngraph.experiments.scenes.scene import (
    CANVAS,
    HUGE_COLORS,
    HUGE_SHAPES,
    Background,
    Scene,
    Thing,
    scenes,
)

SIDE = CANVAS // PATCH


def shares(scene) -> np.ndarray:
    """Share of each patch's pixels that have exactly a thing's colour ``(patches, colours)``."""
    pixels = np.asarray(draw(scene))
    same = np.stack([(pixels == rgb).all(-1) for rgb in HUGE_COLORS.values()], -1)
    return same.reshape(SIDE, PATCH, SIDE, PATCH, -1).mean((1, 3)).reshape(SIDE * SIDE, -1)


def test_a_patch_mostly_of_one_colour_is_named_so_and_an_empty_one_is_not_full():
    for scene in scenes("validation", 150, 3, "pretrain"):
        shapes, colors = patch_targets(scene)
        assert ((shapes > 0) == (colors > 0)).all()
        share = shares(scene)
        for patch, color in zip(*np.nonzero(share > 0.5)):
            assert colors[patch] == color + 1
        for patch in np.nonzero(colors == 0)[0]:
            assert share[patch].max() < 0.1


def test_shape_and_colour_are_of_one_thing():
    for scene in scenes("validation", 100, 4, "pretrain"):
        shapes, colors = patch_targets(scene)
        shown = {(thing.shape, thing.color) for thing in scene.things}
        named = {(HUGE_SHAPES[s - 1], tuple(HUGE_COLORS)[c - 1]) for s, c in zip(shapes, colors) if s}
        assert named == shown  # every thing has a patch of its own
        assert shapes.max() < SHAPE_CLASSES and colors.max() < COLOR_CLASSES


@pytest.mark.parametrize("x, y, patches", [(19, 19, [18]), (24, 20, [18, 19])])
def test_known_answer(x, y, patches):
    """A small thing inside patch (2, 2) of the 8 × 8, and one across two patches."""
    thing = Thing("star", "red", "small", x, y, 3)
    shapes, _ = patch_targets(
        Scene(0, (thing,), Background("plain", (9, 9, 9), (9, 9, 9), 0), None, "pretrain")
    )
    assert np.nonzero(shapes)[0].tolist() == patches
    assert set(shapes[patches]) == {HUGE_SHAPES.index("star") + 1}
