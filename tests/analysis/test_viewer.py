"""The page in a real browser: it draws what the graphs say, and asks for nothing."""

import base64
import json
import re
import shutil
from dataclasses import replace

import pytest
import torch
from PIL import Image

from analysis.viewer import Shown, one_example, write_viewer
from attngraph import AttentionGraph

TOKENS = ["[DEC]", "what", "<b>&</b>", "?"]
TEXT = [*TOKENS, None]  # the last query is padding
ENCODER, SELF, CROSS = "encoder", "decoder.0.self", "decoder.0.cross"
SIDE, HEADS = 3, 2
NODES = list(range(SIDE**2 + 1))
PICTURE = Image.linear_gradient("L").resize((24, 24))


def softmax(*shape: int, seed: int) -> torch.Tensor:
    return (2 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))).softmax(-1)


def graphs(b: int = 2, padded: int = 5, seed: int = 0) -> dict[str, AttentionGraph]:
    """A decoder of five tokens, the last of them padding, and an encoder of [CLS] and 3 x 3 patches."""
    m = SIDE**2 + 1
    own = softmax(b, HEADS, padded, padded, seed=seed).tril()
    image, text = torch.zeros(b, HEADS, m, 1), torch.zeros(b, HEADS, padded, 1)
    return {
        ENCODER: AttentionGraph(
            image,
            image,
            softmax(b, HEADS, m, m, seed=seed + 1),
            kind="self",
            query_modality="image",
            value_modality="image",
        ),
        SELF: AttentionGraph(
            text,
            text,
            own / own.sum(-1, keepdim=True),
            kind="self",
            query_modality="text",
            value_modality="text",
            causal=True,
        ),
        CROSS: AttentionGraph(
            text,
            image,
            softmax(b, HEADS, padded, m, seed=seed + 2),
            kind="cross",
            query_modality="text",
            value_modality="image",
            causal=True,
        ),
    }


SIDES = {ENCODER: (NODES, NODES), SELF: (TEXT, TEXT), CROSS: (TEXT, NODES)}


def examples(kinds: int = 2, encoder: bool = False) -> tuple[list[Shown], dict]:
    first = {name: graph for name, graph in graphs().items() if encoder or name != ENCODER}
    other = {name: replace(graph, weight=graph.weight**1.5) for name, graph in first.items()}
    weights = dict(list({"M": first, "M\u0304": other}.items())[:kinds])
    shown = [
        Shown(
            f"example {k}",
            {kind: one_example(found, k) for kind, found in weights.items()},
            SIDES,
            PICTURE,
            (SIDE, SIDE),
            1,
            {SELF: 3, CROSS: 3},
        )
        for k in range(2)
    ]
    return shown, weights


def one(layers: dict[str, torch.Tensor], sides: dict, **options) -> Shown:
    """An example of one kind of weights, given as ``{layer: (1, h, n, m)}``."""

    def graph(weight: torch.Tensor) -> AttentionGraph:
        _, h, n, m = weight.shape
        return AttentionGraph(torch.zeros(1, h, n, 1), torch.zeros(1, h, m, 1), weight)

    return Shown("one", {"M": {name: graph(weight) for name, weight in layers.items()}}, sides, **options)


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no chromium on this machine")
    with playwright.sync_playwright() as run:
        running = run.chromium.launch(
            executable_path=found,
            headless=True,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        yield running
        running.close()


@pytest.fixture
def page(browser, tmp_path):
    """``page(file)``: the open page; afterwards it must have asked for nothing and complained about
    nothing."""
    asked, complaints = [], []
    tab = browser.new_page(viewport={"width": 1100, "height": 800})
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    files = []

    def open_file(file):
        files.append(file.as_uri())
        tab.goto(files[0])
        return tab

    yield open_file
    tab.close()
    assert complaints == []
    assert [url for url in asked if not url.startswith("data:")] == files


def drawn(tab) -> dict[int, float]:
    """``{value: weight}`` of the lines, with opacities checked against the weights."""
    lines = tab.eval_on_selector_all(
        "#edges line",
        """all => all.map(x => [+x.dataset.value, +x.dataset.weight,
        +x.getAttribute('stroke-opacity')])""",
    )
    most = max((weight for _, weight, _ in lines), default=1)
    most = max(most, float(tab.inner_text("#most")) if lines else 0)  # an edge to itself has no line
    assert all(opacity == pytest.approx(weight / most, abs=6e-3) for _, weight, opacity in lines)
    return {value: weight for value, weight, _ in lines}


def highlighted(tab, places: str) -> dict[int, float]:
    """``{value: share of the strongest}`` of the elements with colour."""
    found = tab.eval_on_selector_all(
        f"{places} [data-value]",
        "all => all.map(x => [+x.dataset.value, getComputedStyle(x).backgroundColor])",
    )
    shares = {
        value: float(re.search(r"rgba\(203, 59, 20, ([\d.]+)\)", colour)[1]) / 0.75
        for value, colour in found
        if colour.startswith("rgba(203")
    }
    return {value: share for value, share in shares.items() if share}


def expected(weight: torch.Tensor, values: int, itself: int | None = None) -> dict[int, float]:
    """What a query's row of weights must be drawn as, ``(heads, m)`` or ``(m,)``; without its edge to
    itself."""
    row = (weight.mean(0) if weight.dim() == 2 else weight)[:values]
    return {node: pytest.approx(float(w), abs=1e-4) for node, w in enumerate(row) if w > 0 and node != itself}


def ends(tab, some: str = "") -> list[tuple]:
    """For each line, or some, its value and what lies under its two ends, a pixel inside: (side, node, id of
    the parent)."""
    found = tab.eval_on_selector_all(
        f"#edges line:is({some or '*'})",
        """all => all.map(line => {
        const stage = document.getElementById('stage').getBoundingClientRect();
        const under = (x, y, side) => {
            const at = [-1, 0, 1].map(step => document.elementFromPoint(stage.left + +line.getAttribute(x) + step,
                stage.top + +line.getAttribute(y))).find(node => side in node.dataset);
            return at ? [side, +at.dataset[side], at.parentNode.id] : null;
        };
        return [+line.dataset.value, under('x1', 'y1', 'query'), under('x2', 'y2', 'value')];
    })""",
    )
    return [(value, tuple(start), tuple(end)) for value, start, end in found]


def texts(tab, places: str) -> list[str]:
    return tab.eval_on_selector_all(places, "all => all.map(x => x.textContent)")


def picked(tab) -> list[str]:
    """The chosen query, in words: a list, so that it shows if there are more."""
    return tab.eval_on_selector_all(
        "[aria-checked=true]",
        """all => all.map(x =>
        x.getAttribute('aria-label') || x.textContent)""",
    )


def panels(tab) -> list[str]:
    return [side for side in ("image", "query", "value") if tab.is_visible(f"#{side}-side")]


def stored(file) -> dict:
    return json.loads(re.search(r'id="data">(.*?)</script>', file.read_text(encoding="utf-8"), re.DOTALL)[1])


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
    found = ends(tab)
    assert len(found) == 10
    assert all(
        start == ("query", 3, "queries") and end == ("value", value, "patches" if value else "others")
        for value, start, end in found
    )
    strongest = int(weights["M"][CROSS].weight[0].mean(0)[3].argmax())
    assert [value for value, share in highlighted(tab, "#nodes").items() if share == 1] == [strongest]
    assert tab.inner_text("#kept") == "10 edges, 100.0 % of the query's weight"
    tab.select_option("#layer", label=SELF)
    assert ends(tab) == [
        (value, ("query", 3, "queries"), ("value", value, "values")) for value, *_ in ends(tab)
    ]


def test_patches_in_no_square(page, tmp_path):
    weight, nodes = softmax(1, HEADS, 5, 7, seed=6), list(range(7))  # [CLS] and 2 x 3 patches
    shown = one(
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
    shown = one({"lm": weight}, {"lm": (cells, cells)}, image=PICTURE, grid=(2, 2), start={"lm": 7})
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
    told = ", ".join(re.escape(names[node]) + r" [\d.e-]+" for node in order.indices[:4].tolist())
    assert re.fullmatch("Strongest: " + told, tab.inner_text("#told"))

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
    shown = one({"lm": weight}, {"lm": (cells, cells)}, image=PICTURE, grid=(2, 2))
    write_viewer(tmp_path / "viewer.html", [shown], "long")
    tab = page(tmp_path / "viewer.html")
    tab.click("#queries button >> nth=50")
    tab.evaluate("document.activeElement.scrollIntoView({ block: 'end' })")
    assert tab.evaluate("scrollY") > 500
    tab.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert drawn(tab) == expected(weight[0, :, 54], 64)
    seen = {value: (start, end) for value, start, end in ends(tab, "[data-value='0'], [data-value='3']")}
    assert seen == {value: (("query", 54, "queries"), ("value", value, "patches")) for value in (0, 3)}


def test_another_layer_keeps_the_query_or_starts_anew(page, tmp_path):
    shown, weights = examples(1, encoder=True)
    shown = [
        replace(shown[0], start={ENCODER: 7, CROSS: 3}),
        replace(
            shown[1], sides=SIDES | {SELF: (list("abcde"), list("abcde")), CROSS: (list("abcde"), NODES)}
        ),
    ]
    write_viewer(tmp_path / "viewer.html", shown, "layers")
    tab, found = page(tmp_path / "viewer.html"), weights["M"]
    assert panels(tab) == ["image", "query"] and picked(tab) == ["?"]
    assert tab.get_attribute("#nodes", "role") is None and tab.locator("#nodes button").count() == 0
    tab.click("#queries button >> nth=2")
    tab.select_option("#layer", label=SELF)
    assert panels(tab) == ["query", "value"] and picked(tab) == ["<b>&</b>"]
    assert drawn(tab) == expected(found[SELF].weight[0, :, 2], 4)
    tab.select_option("#layer", label=ENCODER)
    assert panels(tab) == ["image"] and picked(tab) == ["patch (row 3, column 1)"]
    assert drawn(tab) == expected(found[ENCODER].weight[0, :, 7], 10, itself=7)
    tab.select_option("#layer", label=SELF)
    assert picked(tab) == ["[DEC]"]
    tab.select_option("#layer", label=CROSS)
    assert picked(tab) == ["[DEC]"]
    tab.click("#queries button >> nth=2")
    tab.select_option("#example", label="example 1")  # another text
    assert picked(tab) == ["d"] and texts(tab, "#queries button") == list("abcde")
    assert drawn(tab) == expected(found[CROSS].weight[1, :, 3], 10)


def test_two_texts(page, tmp_path):
    german, english = ["der", "rote", "Ball"], ["the", "red", "ball", "."]
    weight = softmax(1, HEADS, 3, 4, seed=8)
    write_viewer(tmp_path / "viewer.html", [one({"cross": weight}, {"cross": (german, english)})], "texts")
    tab = page(tmp_path / "viewer.html")
    assert panels(tab) == ["query", "value"]
    assert texts(tab, "#queries button") == german and texts(tab, "#values span") == english
    tab.click("#queries button >> nth=1")
    assert drawn(tab) == expected(weight[0, :, 1], 4)
    assert all(end == ("value", value, "values") for value, _, end in ends(tab))
    assert tab.inner_text("#told").startswith(f"Strongest: {english[int(weight[0, :, 1].mean(0).argmax())]} ")


def test_an_image_looks_at_words(page, tmp_path):
    weight, nodes = softmax(1, HEADS, 5, 4, seed=9), list(range(5))
    shown = one({"cross": weight}, {"cross": (nodes, TOKENS)}, image=PICTURE, grid=(2, 2), others=1)
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


def test_nodes_that_are_not_drawn(page, tmp_path):
    """They are not stored, and the query's weight is its weight on what is drawn."""
    queries, values = [None, "a", None, "b"], ["x", None, "y", 1, None]
    weight = softmax(1, HEADS, 4, 5, seed=10)
    shown = one(
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
    shown = one({"layer": weight}, {"layer": (["a", "b"], nodes)}, image=PICTURE, grid=(20, 20))
    write_viewer(tmp_path / "viewer.html", [shown], "many")
    tab = page(tmp_path / "viewer.html")
    top = weight[0, 0, 0].topk(300)
    assert drawn(tab) == {
        int(node): pytest.approx(float(w), abs=1e-5) for node, w in zip(top.indices, top.values)
    }
    assert re.fullmatch(
        r"(\d+) edges, 100.0 % of the query's weight; lines to the strongest 300", tab.inner_text("#kept")
    )


def test_cells_are_stored_once(tmp_path):
    shown, _ = examples(encoder=True)
    write_viewer(tmp_path / "viewer.html", shown, "once")
    assert sorted(stored(tmp_path / "viewer.html")["sides"], key=len) == [TOKENS, NODES]


def test_the_page_holds_no_address(tmp_path):
    write_viewer(tmp_path / "viewer.html", examples()[0], "addresses")
    text = (tmp_path / "viewer.html").read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
    assert "http" not in text.replace("http-equiv", "") and "//" not in text.split('id="data">')[0]


def test_what_is_not_there_is_refused(tmp_path):
    (shown, second), _ = examples(encoder=True)

    def refused(message: str, *some: Shown, **options):
        with pytest.raises(ValueError, match=f"^{message}"):
            write_viewer(tmp_path / "viewer.html", some, "wrong", **options)

    def sides(**changes):
        return replace(shown, sides=SIDES | changes)

    refused("examples must hold at least one")
    refused(
        "examples must all have the weights M, M\u0304",
        shown,
        replace(second, graphs={"M": second.graphs["M"]}),
    )
    refused("graphs must hold at least one layer", replace(shown, graphs={}))
    refused("graphs must hold at least one layer", replace(shown, graphs={"M": {}}))
    for missing in (0, 1):  # in another kind of weights, in another example
        kinds = {
            kind: {
                name: graph for name, graph in graphs.items() if name != SELF or (kind == "M" and not missing)
            }
            for kind, graphs in second.graphs.items()
        }
        refused(
            f"graphs must all have the layers encoder, {SELF}, {CROSS}, got encoder, {CROSS} for M",
            shown,
            replace(second, graphs=kinds),
        )
    refused(
        r"graphs must be of one example and have one shape, got \(2, 2, 10, 10\)",
        replace(shown, graphs={"M": shown.graphs["M"], "M\u0304": graphs()}),
    )
    refused(r"heads must lie in 0\.\.1 for encoder, got \[2\]", shown, heads=[2])
    refused(r"heads must lie in 0\.\.1 for encoder, got \[\]", shown, heads=[])
    refused(f"first must be one of encoder, {SELF}, {CROSS}, got vision", shown, first="vision")
    refused(
        f"sides must hold all layers, got none for {SELF}", replace(shown, sides={ENCODER: SIDES[ENCODER]})
    )
    refused(
        "sides must hold 10 query cells and 10 value cells for encoder, got 10 and 9",
        sides(encoder=(NODES, NODES[:-1])),
    )
    for wrong in (-1, 10):
        refused(
            r"sides must number image nodes 0\.\.9 for encoder, got",
            sides(encoder=([*NODES[:-1], wrong], NODES)),
        )
    refused("sides must name each image node once for encoder", sides(encoder=([*NODES[:-1], 0], NODES)))
    refused(
        "sides must hold a query and a value that are drawn for encoder", sides(encoder=([None] * 10, NODES))
    )
    refused("image must be given for encoder", replace(shown, image=None))
    refused("grid must be given for encoder", replace(shown, grid=None))
    refused(
        f"start must be a query that is drawn, got 4 for {SELF}", replace(shown, start={SELF: 4})
    )  # padding
    assert not (tmp_path / "viewer.html").exists()
