"""Maps over pictures, and the mass inside a region: the figures show the tables' numbers."""

import numpy as np
import pytest
import torch
from PIL import Image

from attngraph.analysis.patches import map_table, mass_summary, mass_table
from attngraph.analysis.plots.overlays import draw_maps, draw_mass

NAMES = ["first", "second"]
INSIDE = torch.tensor([[True, False, False, False], [False, True, False, True]])


def values() -> dict[tuple[str, str], torch.Tensor]:
    """Two methods on [CLS] and 2 x 2 patches; the second method is 0 everywhere in the second example."""
    return {
        ("raw", "answer"): torch.tensor([[9.0, 1, 2, 3, 4], [9, 4, 3, 2, 1]]),
        ("relevance", "answer"): torch.tensor([[0.0, 0, 0, 1, 1], [0, 0, 0, 0, 0]]),
    }


def pictures() -> dict[str, tuple[Image.Image, str]]:
    return {name: (Image.new("RGB", (24, 24), "white"), f"what is the {name}?") for name in NAMES}


def test_every_map_lies_over_its_picture(drawn):
    table = map_table(values(), NAMES)
    draw_maps(table, pictures(), "maps.png", "title", {"first": INSIDE[0].numpy()})
    picture, *maps = drawn[0].axes[:3]
    assert len(picture.images) == 1 and [axes.get_title() for axes in maps] == ["raw", "relevance"]
    for axes, lifts in zip(maps, ([[0.4, 0.8], [1.2, 1.6]], [[0, 0], [2, 2]])):
        np.testing.assert_allclose(axes.images[1].get_array(), lifts, rtol=1e-6)
    outlined = [axes for axes in drawn[0].axes if axes.collections and len(axes.images) == 2]
    assert outlined == maps  # both maps of the example that has a region
    empty = [axes for axes in drawn[0].axes if [text.get_text() for text in axes.texts] == ["0 everywhere"]]
    assert empty == [drawn[0].axes[5]]
    assert {"title", "what is the first?", "what is the second?"} <= {
        text.get_text() for text in drawn[0].texts
    }


def test_the_mass_of_every_method_is_a_point(drawn):
    summary = mass_summary(mass_table(values(), INSIDE, NAMES))
    draw_mass(summary, "mass.png", "title")
    (axes,) = drawn[0].axes
    by_method = summary.set_index("method").mass
    points = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o"]
    assert points == pytest.approx([100 * by_method["raw"], 100 * by_method["relevance"]])
    dotted = [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == ":"]
    assert dotted == pytest.approx([100 * by_method["uniform"]])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["raw, answer", "relevance, answer"]


def test_files(tmp_path):
    draw_maps(map_table(values(), NAMES), pictures(), tmp_path / "maps.png", "title")
    assert (tmp_path / "maps.png").read_bytes().startswith(b"\x89PNG")
