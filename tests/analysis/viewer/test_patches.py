"""Patches as nodes, alone and in one sequence with words."""

import re

import pytest
from PIL import Image

from analysis.viewer import write_viewer
from tests.analysis.viewer.page_reading import (
    CROSS,
    ENCODER,
    HEADS,
    NODES,
    PICTURE,
    TEXT,
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
    texts,
)


def test_patches_in_no_square(page, tmp_path):
    weight, nodes = softmax(1, HEADS, 5, 7, seed=6), list(range(7))  # [CLS] and 2 x 3 patches
    shown = single_example(
        {CROSS: weight},
        {CROSS: (TEXT, nodes)},
        image=Image.linear_gradient("L").resize((36, 24)),
        grid=(2, 3),
        others=1,
        start={CROSS: 3},
    )
    write_viewer(tmp_path / "viewer.html", [shown], "wide")
    tab = page(tmp_path / "viewer.html")
    boxes = tab.eval_on_selector_all(
        "#patches div",
        """all => all.map(x => {
        const box = x.getBoundingClientRect();
        return [box.width, box.height, Math.round(box.left), Math.round(box.top)];
    })""",
    )
    assert len(boxes) == 6 and all(width == pytest.approx(height, abs=1) for width, height, *_ in boxes)
    assert len({left for *_, left, _ in boxes}) == 3 and len({top for *_, top in boxes}) == 2
    assert drawn(tab) == expected(weight[0, :, 3], 7)


def test_an_image_looks_at_itself(page, tmp_path):
    """Queries are picked by click and by keyboard; an edge of a patch to itself has colour and no line."""
    shown, weights = examples(1, encoder=True)
    write_viewer(tmp_path / "viewer.html", shown, "image", first=ENCODER)
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
        ("ArrowRight", 6),
        ("ArrowRight", 6),
        ("ArrowDown", 9),
        ("ArrowDown", 9),
        ("ArrowLeft", 8),
        ("ArrowUp", 5),
        ("Home", 0),
        ("ArrowRight", 1),
        ("ArrowDown", 4),
        ("ArrowLeft", 4),
        ("ArrowUp", 1),
        ("ArrowLeft", 0),
        ("ArrowDown", 4),
        ("End", 9),
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
    write_viewer(tmp_path / "viewer.html", [shown], "mixed")
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
    left, width = tab.evaluate("(x => [x.offsetLeft, x.offsetWidth])(document.querySelector('#query-side'))")
    lines = tab.eval_on_selector_all(
        "#edges line", "all => all.map(x => [x.x1.baseVal.value, x.x2.baseVal.value])"
    )
    for start, end in lines:
        assert start == pytest.approx(
            left if end < left else left + width, abs=1
        )  # the near side of the word

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


def test_the_image_stays_in_sight_beside_a_long_text(page, tmp_path):
    cells = [0, 1, 2, 3, *(f"word {k}" for k in range(60))]
    weight = softmax(1, HEADS, 64, 64, seed=12)
    shown = single_example({"lm": weight}, {"lm": (cells, cells)}, image=PICTURE, grid=(2, 2))
    write_viewer(tmp_path / "viewer.html", [shown], "long")
    tab = page(tmp_path / "viewer.html")
    tab.click("#queries button >> nth=50")
    tab.evaluate("document.activeElement.scrollIntoView({ block: 'end' })")
    assert tab.evaluate("scrollY") > 500
    tab.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert drawn(tab) == expected(weight[0, :, 54], 64)
    seen = {value: (start, end) for value, start, end in ends(tab, "[data-value='0'], [data-value='3']")}
    assert seen == {value: (("query", 54, "queries"), ("value", value, "patches")) for value in (0, 3)}


def test_an_image_looks_at_words(page, tmp_path):
    weight, nodes = softmax(1, HEADS, 5, 4, seed=9), list(range(5))
    shown = single_example(
        {"cross": weight}, {"cross": (nodes, TOKENS)}, image=PICTURE, grid=(2, 2), others=1
    )
    write_viewer(tmp_path / "viewer.html", [shown], "image to text")
    tab = page(tmp_path / "viewer.html")
    assert panels(tab) == ["image", "value"]
    for node, parent in ((0, "others"), (4, "patches")):
        tab.click(f"[data-cell='{node}']")
        assert drawn(tab) == expected(weight[0, :, node], 4)
        assert all(
            (start, end) == (("query", node, parent), ("value", value, "values"))
            for value, start, end in ends(tab)
        )
