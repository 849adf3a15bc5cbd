"""Maps over images, and the mass inside a region: the figures show the tables' numbers."""

import numpy as np
import pytest
import torch
from PIL import Image

from attngraph.analysis.patches import map_changes, map_table, mass_summary, mass_table
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


def test_every_map_is_over_its_image(drawn, tmp_path):
    table = map_table(values(), NAMES)
    draw_maps(table, pictures(), tmp_path / "maps", "subject", {"first": INSIDE[0].numpy()})
    picture, *maps = drawn[0].axes[:3]
    assert len(picture.images) == 1 and [axes.get_title() for axes in maps] == ["raw", "relevance"]
    for axes, lifts in zip(maps, ([[0.4, 0.8], [1.2, 1.6]], [[0, 0], [2, 2]])):
        np.testing.assert_allclose(axes.images[1].get_array(), lifts, rtol=1e-6)
    outlined = [axes for axes in drawn[0].axes if axes.collections and len(axes.images) == 2]
    assert outlined == maps  # both maps of the example that has a region
    empty = [axes for axes in drawn[0].axes if [text.get_text() for text in axes.texts] == ["0 everywhere"]]
    assert empty == [drawn[0].axes[5]]
    texts = {" ".join(text.get_text().split()) for text in drawn[0].texts}
    assert texts == {"what is the first?", "what is the second?"}
    caption = (tmp_path / "maps.caption.txt").read_text()
    assert caption.startswith("subject\n") and "Cyan outline" in caption


def test_changes_diverge_from_0(drawn, tmp_path):
    """M̄ − M patch by patch, on a scale that is symmetric around 0."""
    both = {("raw M", "answer"): values()["raw", "answer"], ("raw M̄", "answer"): torch.full((2, 5), 2.0)}
    table = map_changes(map_table(both | {("gradient", "answer"): torch.ones(2, 5)}, NAMES), "M", "M̄")
    assert set(table["method"]) == {"raw M̄ − M"} and len(table) == 2 * 4
    assert table["share"].sum() == pytest.approx(0)
    draw_maps(table, pictures(), tmp_path / "changes", "subject", changes=True)
    image = drawn[0].axes[1].images[1]
    np.testing.assert_allclose(image.get_array(), [[0.6, 0.2], [-0.2, -0.6]], rtol=1e-6)
    assert image.norm.vmin == -image.norm.vmax < 0


def test_the_mass_of_every_method_is_a_point(drawn, tmp_path):
    summary = mass_summary(mass_table(values(), INSIDE, NAMES))
    draw_mass(summary, tmp_path / "mass", "subject")
    (axes,) = drawn[0].axes
    by_method = summary.set_index("method").mass
    points = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o"]
    assert points == pytest.approx([100 * by_method["raw"], 100 * by_method["relevance"]])
    dotted = [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == ":"]
    assert dotted == pytest.approx([100 * by_method["uniform"]])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["raw", "relevance"]
