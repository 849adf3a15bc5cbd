"""Words as nodes: picking layer, head and query draws what the graphs say."""

import re
from dataclasses import replace

from analysis.viewer import write_viewer
from tests.analysis.viewer.page_reading import (
    CROSS,
    ENCODER,
    HEADS,
    NODES,
    SELF,
    SIDES,
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


def test_picking_draws_what_the_graphs_say(page, tmp_path):
    shown, weights = examples()
    write_viewer(tmp_path / "viewer.html", shown, "Attention of a </script> model")
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


def test_lines_end_where_their_nodes_are(page, tmp_path):
    shown, weights = examples(1)
    write_viewer(tmp_path / "viewer.html", shown, "lines")
    tab = page(tmp_path / "viewer.html")
    assert not tab.is_visible("#weights")  # there is one kind only
    lines = ends(tab)
    assert len(lines) == 10
    assert all(
        start == ("query", 3, "queries") and end == ("value", value, "patches" if value else "others")
        for value, start, end in lines
    )
    strongest = int(weights["M"][CROSS].weight[0].mean(0)[3].argmax())
    assert [value for value, share in highlighted(tab, "#nodes").items() if share == 1] == [strongest]
    assert tab.inner_text("#kept") == "10 edges, 100.0 % of the query's weight"
    tab.select_option("#layer", label=SELF)
    assert ends(tab) == [
        (value, ("query", 3, "queries"), ("value", value, "values")) for value, *_ in ends(tab)
    ]


def test_the_keyboard_reaches_everything(page, tmp_path):
    shown, weights = examples()
    write_viewer(tmp_path / "viewer.html", shown, "keys")
    tab, weight = page(tmp_path / "viewer.html"), weights["M"][CROSS].weight[0]
    reached = []
    for _ in range(5):
        tab.keyboard.press("Tab")
        reached.append(tab.evaluate("document.activeElement.id || document.activeElement.textContent"))
    assert reached == ["example", "layer", "head", "weights", "?"]
    tab.keyboard.press("ArrowUp")
    assert tab.evaluate("document.activeElement.textContent") == "<b>&</b>"
    assert drawn(tab) == expected(weight[:, 2], 10)
    tab.keyboard.press("Home")
    assert drawn(tab) == expected(weight[:, 0], 10)
    tab.focus("#head")
    tab.keyboard.press("ArrowDown")
    assert drawn(tab) == expected(weight[0, 0], 10)


def test_two_texts(page, tmp_path):
    german, english = ["der", "rote", "Ball"], ["the", "red", "ball", "."]
    weight = softmax(1, HEADS, 3, 4, seed=8)
    write_viewer(
        tmp_path / "viewer.html", [single_example({"cross": weight}, {"cross": (german, english)})], "texts"
    )
    tab = page(tmp_path / "viewer.html")
    assert panels(tab) == ["query", "value"]
    assert texts(tab, "#queries button") == german and texts(tab, "#values span") == english
    tab.click("#queries button >> nth=1")
    assert drawn(tab) == expected(weight[0, :, 1], 4)
    assert all(end == ("value", value, "values") for value, _, end in ends(tab))
    assert tab.inner_text("#told").startswith(f"Strongest: {english[int(weight[0, :, 1].mean(0).argmax())]} ")


def test_another_layer_keeps_the_query_or_starts_anew(page, tmp_path):
    shown, weights = examples(1, encoder=True)
    shown = [
        replace(shown[0], start={ENCODER: 7, CROSS: 3}),
        replace(
            shown[1], sides=SIDES | {SELF: (list("abcde"), list("abcde")), CROSS: (list("abcde"), NODES)}
        ),
    ]
    write_viewer(tmp_path / "viewer.html", shown, "layers")
    tab, layers = page(tmp_path / "viewer.html"), weights["M"]
    assert panels(tab) == ["image", "query"] and picked(tab) == ["?"]
    assert tab.get_attribute("#nodes", "role") is None and tab.locator("#nodes button").count() == 0
    tab.click("#queries button >> nth=2")
    tab.select_option("#layer", label=SELF)
    assert panels(tab) == ["query", "value"] and picked(tab) == ["<b>&</b>"]
    assert drawn(tab) == expected(layers[SELF].weight[0, :, 2], 4)
    tab.select_option("#layer", label=ENCODER)
    assert panels(tab) == ["image"] and picked(tab) == ["patch (row 3, column 1)"]
    assert drawn(tab) == expected(layers[ENCODER].weight[0, :, 7], 10, itself=7)
    tab.select_option("#layer", label=SELF)
    assert picked(tab) == ["[DEC]"]
    tab.select_option("#layer", label=CROSS)
    assert picked(tab) == ["[DEC]"]
    tab.click("#queries button >> nth=2")
    tab.select_option("#example", label="example 1")  # another text
    assert picked(tab) == ["d"] and texts(tab, "#queries button") == list("abcde")
    assert drawn(tab) == expected(layers[CROSS].weight[1, :, 3], 10)
