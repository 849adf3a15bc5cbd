"""Words and the things that they name."""

import pytest
import torch

from experiments.inspect.scene_parts import SceneParts
from experiments.scenes.scene import Background, Scene, Thing

THINGS = (
    Thing("circle", "red", "small", 11, 11, 5),
    Thing("circle", "blue", "large", 32, 32, 9),
    Thing("cross", "red", "large", 53, 53, 9),
)
PARTS = SceneParts(Scene(0, THINGS, Background("plain", (9, 9, 9), (9, 9, 9), 0), None, "downstream"))


@pytest.mark.parametrize(
    "text, named, asked",
    [
        ("what is it", [[], [], []], []),
        ("a red circle", [[], [0, 2], [0]], [0]),
        ("small circles", [[0], [0]], [0]),
        ("Red thing left of crosses", [[0, 2], [0, 2], [], [], [2]], [0, 2]),
        ("is the circle red", [[], [], [0, 1], [0, 2]], [0, 1, 2]),
        ("large blue cross", [[1, 2], [1], []], []),
        ("red blue circle", [[0, 2], [1], [1]], [0, 1, 2]),
        ("how many things", [[], [], []], []),
        ("a yellow star", [[], [], []], []),
    ],
)
def test_words_name_things(text, named, asked):
    words = text.split()
    assert [sorted(numbers) for numbers in PARTS.named(words)] == named
    assert sorted(PARTS.asked(words)) == asked


def test_masks_show_where_things_are():
    masks = PARTS.masks(8, 8).unflatten(1, (8, 8))
    assert masks[0].nonzero().max() == 2 and masks[0][1, 1]  # pixels 6 to 16
    assert masks[1][3:5, 3:5].all() and not masks[1][:2].any()
    assert masks[2][6, 6] and not (masks[0] & masks[2]).any()
    assert PARTS.masks(8, 4) is None
    assert masks.dtype == torch.bool
