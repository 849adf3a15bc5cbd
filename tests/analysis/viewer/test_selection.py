"""Pages that show a part of a graph: nodes that are not drawn, and the strongest edges alone."""

import base64
import re

import pytest

from analysis.viewer import write_viewer
from tests.analysis.viewer.page_reading import (
    CROSS,
    HEADS,
    PICTURE,
    TOKENS,
    drawn,
    examples,
    expected,
    picked,
    single_example,
    softmax,
    stored,
    texts,
)


def test_nodes_that_are_not_drawn(page, tmp_path):
    """They are not stored, and the query's weight is its weight on what is drawn."""
    queries, values = [None, "a", None, "b"], ["x", None, "y", 1, None]
    weight = softmax(1, HEADS, 4, 5, seed=10)
    shown = single_example(
        {"layer": weight},
        {"layer": (queries, values)},
        image=PICTURE,
        grid=(1, 1),
        others=3,
        start={"layer": 3},
    )
    write_viewer(tmp_path / "viewer.html", [shown], "hidden")
    tab = page(tmp_path / "viewer.html")
    assert texts(tab, "#queries button") == ["a", "b"] and texts(tab, "#values span") == ["x", "y"]
    assert texts(tab, "#others div") == ["+1"]  # [CLS] and the other register have no part in this layer
    assert picked(tab) == ["b"]
    assert drawn(tab) == expected(weight[0, :, 3, [0, 2, 3]], 3)
    assert tab.inner_text("#kept") == "3 edges, 100.0 % of the query's weight"
    (layer,) = stored(tmp_path / "viewer.html")["examples"][0]["layers"]
    assert len(base64.b64decode(layer["weights"][0]["node"])) == 2 * (1 + HEADS) * 2 * 3


def test_a_page_of_few_edges_keeps_the_strongest_and_says_so(page, tmp_path):
    shown, weights = examples()
    rows = 2 * 2 * 2 * len(TOKENS) * 2  # examples, kinds, layers, tokens; the mean and one head
    write_viewer(tmp_path / "viewer.html", shown, "few", heads=[1], edges=3 * rows)
    tab = page(tmp_path / "viewer.html")
    tab.select_option("#head", label="head 1")
    weight = weights["M"][CROSS].weight[0, 1, 3]
    top = weight.topk(3)
    assert drawn(tab) == {
        int(node): pytest.approx(float(w), abs=1e-4) for node, w in zip(top.indices, top.values)
    }
    assert tab.inner_text("#kept") == f"3 edges, {100 * float(top.values.sum()):.1f} % of the query's weight"


def test_many_edges_have_colour_but_few_have_lines(page, tmp_path):
    weight, nodes = softmax(1, 1, 2, 400, seed=11), list(range(400))
    shown = single_example({"layer": weight}, {"layer": (["a", "b"], nodes)}, image=PICTURE, grid=(20, 20))
    write_viewer(tmp_path / "viewer.html", [shown], "many")
    tab = page(tmp_path / "viewer.html")
    top = weight[0, 0, 0].topk(300)
    assert drawn(tab) == {
        int(node): pytest.approx(float(w), abs=1e-5) for node, w in zip(top.indices, top.values)
    }
    assert re.fullmatch(
        r"(\d+) edges, 100.0 % of the query's weight; lines to the strongest 300", tab.inner_text("#kept")
    )
