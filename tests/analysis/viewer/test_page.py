"""The page in a browser: picking layer, head and query draws what the graphs say, among words and patches."""

import base64
import re

import pytest

from attngraph.analysis.viewer import viewer_page
from tests.analysis.viewer.page_reading import (
    CROSS,
    ENCODER,
    HEADS,
    NODES,
    PICTURE,
    SELF,
    TOKENS,
    drawn,
    ends,
    examples,
    expected,
    highlighted,
    panels,
    picked,
    single_example,
    softmax,
    stored,
    texts,
)


def test_picking_draws_what_the_graphs_say(page, tmp_path):
    shown, weights = examples()
    viewer_page(shown, "Attention of a </script> model").save(tmp_path / "viewer.html")
    tab = page(tmp_path / "viewer.html")
    assert tab.title() == tab.inner_text("h1") == "Attention of a </script> model"
    assert texts(tab, "#layer option") == [SELF, CROSS]
    assert texts(tab, "#head option") == ["mean of heads", "head 0", "head 1"]
    assert texts(tab, "#queries button") == TOKENS
    first, other = weights["M"], weights["M\u0304"]
    assert drawn(tab) == expected(first[CROSS].weight[0, :, 3], 10)  # the last layer, the query to start with
    tab.select_option("#head", label="head 1")
    assert drawn(tab) == expected(first[CROSS].weight[0, 1, 3], 10)
    tab.click("#queries button >> nth=1")
    assert drawn(tab) == expected(first[CROSS].weight[0, 1, 1], 10)
    assert picked(tab) == [TOKENS[1]]
    tab.select_option("#weights", label="M\u0304")
    assert drawn(tab) == expected(other[CROSS].weight[0, 1, 1], 10)
    tab.select_option("#example", label="example 1")
    assert drawn(tab) == expected(other[CROSS].weight[1, 1, 1], 10)
    tab.select_option("#layer", label=SELF)
    assert drawn(tab) == expected(other[SELF].weight[1, 1, 1], 4)
    strongest, weaker = other[SELF].weight[1, 1, 1, :2].sort(descending=True).indices.tolist()
    assert re.match(
        rf"Strongest: {re.escape(TOKENS[strongest])} 0\.\d+, {re.escape(TOKENS[weaker])} 0\.\d+$",
        tab.inner_text("#told"),
    )


def test_an_image_looks_at_itself(page, tmp_path):
    """Queries are picked by click and by keyboard; an edge of a patch to itself has colour and no line."""
    shown, weights = examples(1, encoder=True)
    viewer_page(shown, "image", first=ENCODER).save(tmp_path / "viewer.html")
    tab, weight = page(tmp_path / "viewer.html"), weights["M"][ENCODER].weight[0]
    assert panels(tab) == ["image"]
    assert tab.get_attribute("#nodes", "role") == "radiogroup"
    assert picked(tab) == ["[CLS]"]  # the first that is drawn
    assert drawn(tab) == expected(weight[:, 0], 10, itself=0)

    tab.click("#patches button >> nth=4")
    assert picked(tab) == ["patch (row 2, column 2)"]
    assert drawn(tab) == expected(weight[:, 5], 10, itself=5)
    row = weight[:, 5].mean(0)
    assert highlighted(tab, "#nodes") == {
        node: pytest.approx(float(w), abs=6e-3) for node, w in enumerate(row / row.max())
    }
    assert all(start[:2] == ("query", 5) and end[:2] == ("value", value) for value, start, end in ends(tab))
    assert tab.inner_text("#kept") == "10 edges, 100.0 % of the query's weight"
    marked = tab.eval_on_selector_all(
        "#nodes button", "all => all.map(x => getComputedStyle(x).boxShadow !== 'none')"
    )
    assert marked == [node == 5 for node in NODES]

    tab.focus("#head")  # the last before the image, as there is one kind of weights
    tab.keyboard.press("Tab")
    for key, node in (
        *(("ArrowRight", 6), ("ArrowRight", 6), ("ArrowDown", 9), ("ArrowDown", 9)),  # to the edges
        *(("ArrowLeft", 8), ("ArrowUp", 5), ("Home", 0), ("ArrowRight", 1), ("ArrowLeft", 0), ("End", 9)),
    ):
        tab.keyboard.press(key)
        assert tab.evaluate("+document.activeElement.dataset.cell") == node, key
        assert drawn(tab) == expected(weight[:, node], 10, itself=node)
    assert tab.locator("#stage [tabindex='0']").count() == 1


def test_a_sequence_of_words_and_patches(page, tmp_path):
    """Both sides hold padding, words and four patches: a word looks at words and patches, and so does a
    patch."""
    cells = [None, "<s>", 0, 1, 2, 3, "what", "?"]
    weight = softmax(1, HEADS, 8, 8, seed=7).tril()
    weight[..., 0] = 0
    shown = single_example(
        {"lm": weight}, {"lm": (cells, cells)}, image=PICTURE, grid=(2, 2), start={"lm": 7}
    )
    viewer_page([shown], "mixed").save(tmp_path / "viewer.html")
    tab, weight = page(tmp_path / "viewer.html"), weight[0, :, 1:, 1:]  # as drawn
    assert panels(tab) == ["image", "query", "value"]
    assert not tab.is_visible("#others")
    assert texts(tab, "#queries button") == texts(tab, "#values span") == ["<s>", "what", "?"]
    assert picked(tab) == ["?"]
    assert drawn(tab) == expected(weight[:, 6], 7)
    parents = {0: "values", 1: "patches", 2: "patches", 3: "patches", 4: "patches", 5: "values", 6: "values"}
    assert sorted(ends(tab)) == [
        (value, ("query", 6, "queries"), ("value", value, parent)) for value, parent in parents.items()
    ]

    tab.click("#patches button >> nth=2")
    assert picked(tab) == ["patch (row 2, column 1)"]
    assert drawn(tab) == expected(weight[:, 3], 7, itself=3)
    order = weight[:, 3].mean(0).sort(descending=True)
    names = ["<s>", *(f"patch (row {r}, column {c})" for r in (1, 2) for c in (1, 2)), "what", "?"]
    strongest_nodes = ", ".join(re.escape(names[node]) + r" [\d.e-]+" for node in order.indices[:4].tolist())
    assert re.fullmatch("Strongest: " + strongest_nodes, tab.inner_text("#told"))

    tab.focus("#head")
    reached = []
    for _ in range(2):  # one stop in the image, one among the words
        tab.keyboard.press("Tab")
        reached.append(
            tab.evaluate("(x => x.getAttribute('aria-label') || x.textContent)(document.activeElement)")
        )
    assert reached == ["patch (row 2, column 1)", "<s>"]
    tab.keyboard.press("ArrowDown")  # past the image's nodes
    assert picked(tab) == ["what"]
    assert drawn(tab) == expected(weight[:, 5], 7)


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
    viewer_page([shown], "hidden").save(tmp_path / "viewer.html")
    tab = page(tmp_path / "viewer.html")
    assert texts(tab, "#queries button") == ["a", "b"] and texts(tab, "#values span") == ["x", "y"]
    assert texts(tab, "#others div") == ["+1"]  # [CLS] and the other register have no part in this layer
    assert picked(tab) == ["b"]
    assert drawn(tab) == expected(weight[0, :, 3, [0, 2, 3]], 3)
    assert tab.inner_text("#kept") == "3 edges, 100.0 % of the query's weight"
    (layer,) = stored(tmp_path / "viewer.html")["examples"][0]["layers"]
    assert len(base64.b64decode(layer["weights"][0]["node"])) == 4 * (1 + HEADS) * 2 * 3


def test_a_page_of_few_edges_keeps_the_strongest_and_says_so(page, tmp_path):
    shown, weights = examples()
    rows = 2 * 2 * 2 * len(TOKENS) * 2  # examples, kinds, layers, tokens; the mean and one head
    viewer_page(shown, "few", heads=[1], edges=3 * rows).save(tmp_path / "viewer.html")
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
    viewer_page([shown], "many").save(tmp_path / "viewer.html")
    tab = page(tmp_path / "viewer.html")
    top = weight[0, 0, 0].topk(300)
    assert drawn(tab) == {
        int(node): pytest.approx(float(w), abs=1e-5) for node, w in zip(top.indices, top.values)
    }
    assert re.fullmatch(
        r"(\d+) edges, 100.0 % of the query's weight; lines to the strongest 300", tab.inner_text("#kept")
    )
