"""The page in a real browser: it draws what the graphs say, and asks for nothing."""

import re
import shutil
from dataclasses import replace

import pytest
import torch
from PIL import Image

from analysis.viewer import Shown, one_example, write_viewer
from attngraph import AttentionGraph

TOKENS = ["[DEC]", "what", "<b>&</b>", "?"]
SELF, CROSS = "decoder.0.self", "decoder.0.cross"
SIDE, HEADS = 3, 2


def softmax(*shape: int, seed: int) -> torch.Tensor:
    return (2 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))).softmax(-1)


def graphs(b: int = 2, padded: int = 5, seed: int = 0) -> dict[str, AttentionGraph]:
    """A decoder of five tokens, the last of them padding, and an encoder of [CLS] and 3 x 3 patches."""
    m = SIDE**2 + 1
    own = softmax(b, HEADS, padded, padded, seed=seed).tril()
    image, text = torch.zeros(b, HEADS, m, 1), torch.zeros(b, HEADS, padded, 1)
    return {
        "encoder": AttentionGraph(image, image, softmax(b, HEADS, m, m, seed=seed + 1), kind="self",
                                  query_modality="image", value_modality="image"),
        SELF: AttentionGraph(text, text, own / own.sum(-1, keepdim=True), kind="self", query_modality="text",
                             value_modality="text", causal=True),
        CROSS: AttentionGraph(text, image, softmax(b, HEADS, padded, m, seed=seed + 2), kind="cross",
                              query_modality="text", value_modality="image", causal=True),
    }


def examples(kinds: int = 2) -> tuple[list[Shown], dict]:
    first = graphs()
    other = {name: replace(graph, weight=graph.weight ** 1.5) for name, graph in first.items()}
    weights = dict(list({"M": first, "M\u0304": other}.items())[:kinds])
    picture = Image.linear_gradient("L").resize((24, 24))
    shown = [Shown(f"example {k}", TOKENS, {kind: one_example(found, k) for kind, found in weights.items()}, picture,
                   start=3) for k in range(2)]
    return shown, weights


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no chromium on this machine")
    with playwright.sync_playwright() as run:
        running = run.chromium.launch(executable_path=found, headless=True,
                                      args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"])
        yield running
        running.close()


@pytest.fixture
def page(browser, tmp_path):
    """``page(file)``: the open page; afterwards it must have asked for nothing and complained about nothing."""
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
    """``{node: opacity}`` of the lines, with the weight that each carries checked against it."""
    lines = tab.eval_on_selector_all("#edges line", """all => all.map(x => [+x.dataset.node, +x.dataset.weight,
        +x.getAttribute('stroke-opacity')])""")
    most = max((weight for _, weight, _ in lines), default=1)
    assert all(opacity == pytest.approx(weight / most, abs=1e-3) for _, weight, opacity in lines)
    return {node: weight for node, weight, _ in lines}


def expected(graph: AttentionGraph, example: int, head: int | None, token: int, values: int) -> dict[int, float]:
    weight = graph.weight[example].mean(0) if head is None else graph.weight[example, head]
    return {node: pytest.approx(float(w), abs=1e-4) for node, w in enumerate(weight[token, :values]) if w > 0}


def test_picking_draws_what_the_graphs_say(page, tmp_path):
    shown, weights = examples()
    write_viewer(tmp_path / "viewer.html", shown, "Attention of a </script> model")
    tab = page(tmp_path / "viewer.html")
    assert tab.title() == tab.inner_text("h1") == "Attention of a </script> model"
    assert tab.eval_on_selector_all("#layer option", "all => all.map(x => x.text)") == [SELF, CROSS]
    heads = tab.eval_on_selector_all("#head option", "all => all.map(x => x.text)")
    assert heads == ["mean of heads", "head 0", "head 1"]
    assert tab.eval_on_selector_all("#queries button", "all => all.map(x => x.textContent)") == TOKENS
    first = weights["M"]
    assert drawn(tab) == expected(first[CROSS], 0, None, 3, 10)  # the last layer, the token to start with
    tab.select_option("#head", label="head 1")
    assert drawn(tab) == expected(first[CROSS], 0, 1, 3, 10)
    tab.click("#queries button >> nth=1")
    assert drawn(tab) == expected(first[CROSS], 0, 1, 1, 10)
    assert tab.get_attribute("#queries button >> nth=1", "aria-checked") == "true"
    tab.select_option("#weights", label="M\u0304")
    assert drawn(tab) == expected(weights["M\u0304"][CROSS], 0, 1, 1, 10)
    tab.select_option("#example", label="example 1")
    assert drawn(tab) == expected(weights["M\u0304"][CROSS], 1, 1, 1, 10)
    tab.select_option("#layer", label=SELF)
    assert drawn(tab) == expected(weights["M\u0304"][SELF], 1, 1, 1, 4)
    strongest, other = weights["M\u0304"][SELF].weight[1, 1, 1, :2].sort(descending=True).indices.tolist()
    assert re.match(rf"Strongest: {re.escape(TOKENS[strongest])} 0\.\d+, {re.escape(TOKENS[other])} 0\.\d+$",
                    tab.inner_text("#told"))


def test_lines_end_where_their_nodes_are(page, tmp_path):
    shown, weights = examples(1)
    write_viewer(tmp_path / "viewer.html", shown, "lines")
    tab = page(tmp_path / "viewer.html")
    assert not tab.is_visible("#weights")  # there is one kind only
    ends = tab.eval_on_selector_all("#edges line", """all => all.map(line => {
        const stage = document.getElementById('stage').getBoundingClientRect();
        const at = (x, y) => document.elementFromPoint(stage.left + +line.getAttribute(x),
                                                       stage.top + +line.getAttribute(y));
        return [+line.dataset.node, +at('x1', 'y1').dataset.node, at('x1', 'y1').parentNode.id];
    })""")
    assert len(ends) == 10
    assert all(node == under and side == ("others" if node == 0 else "patches") for node, under, side in ends)
    strongest = int(weights["M"][CROSS].weight[0].mean(0)[3].argmax())
    colours = tab.eval_on_selector_all("#nodes [data-node]",
                                       "all => all.map(x => [+x.dataset.node, getComputedStyle(x).backgroundColor])")
    assert [node for node, colour in colours if "0.75)" in colour] == [strongest]
    assert tab.inner_text("#kept") == "10 edges, 100.0 % of the query's weight"


def test_patches_in_no_square(page, tmp_path):
    first, image = graphs(1), torch.zeros(1, HEADS, 7, 1)  # [CLS] and 2 x 3 patches
    wide = first | {"encoder": replace(first["encoder"], query=image, value=image, weight=softmax(1, HEADS, 7, 7, seed=5)),
                    CROSS: replace(first[CROSS], value=image, weight=softmax(1, HEADS, 5, 7, seed=6))}
    shown = Shown("wide", TOKENS, {"M": wide}, Image.linear_gradient("L").resize((36, 24)), start=3, grid=(2, 3))
    with pytest.raises(ValueError, match="where no grid is given, got 7"):
        write_viewer(tmp_path / "viewer.html", [replace(shown, grid=None)], "wide")
    write_viewer(tmp_path / "viewer.html", [shown], "wide")
    tab = page(tmp_path / "viewer.html")
    boxes = tab.eval_on_selector_all("#patches div", """all => all.map(x => {
        const box = x.getBoundingClientRect();
        return [box.width, box.height, Math.round(box.left), Math.round(box.top)];
    })""")
    assert len(boxes) == 6 and all(width == pytest.approx(height, abs=1) for width, height, *_ in boxes)
    assert len({left for *_, left, _ in boxes}) == 3 and len({top for *_, top in boxes}) == 2
    assert drawn(tab) == expected(wide[CROSS], 0, None, 3, 7)


def test_the_keyboard_reaches_everything(page, tmp_path):
    shown, weights = examples()
    write_viewer(tmp_path / "viewer.html", shown, "keys")
    tab = page(tmp_path / "viewer.html")
    reached = []
    for _ in range(5):
        tab.keyboard.press("Tab")
        reached.append(tab.evaluate("document.activeElement.id || document.activeElement.textContent"))
    assert reached == ["example", "layer", "head", "weights", "?"]
    tab.keyboard.press("ArrowUp")
    assert tab.evaluate("document.activeElement.textContent") == "<b>&</b>"
    assert drawn(tab) == expected(weights["M"][CROSS], 0, None, 2, 10)
    tab.keyboard.press("Home")
    assert drawn(tab) == expected(weights["M"][CROSS], 0, None, 0, 10)
    tab.focus("#head")
    tab.keyboard.press("ArrowDown")
    assert drawn(tab) == expected(weights["M"][CROSS], 0, 0, 0, 10)


def test_a_page_of_few_edges_keeps_the_strongest_and_says_so(page, tmp_path):
    shown, weights = examples()
    rows = 2 * 2 * 2 * len(TOKENS) * 2  # examples, kinds, layers, tokens; the mean and one head
    write_viewer(tmp_path / "viewer.html", shown, "few", heads=[1], edges=3 * rows)
    tab = page(tmp_path / "viewer.html")
    tab.select_option("#head", label="head 1")
    weight = weights["M"][CROSS].weight[0, 1, 3]
    top = weight.topk(3)
    assert drawn(tab) == {int(node): pytest.approx(float(w), abs=1e-4) for node, w in zip(top.indices, top.values)}
    assert tab.inner_text("#kept") == f"3 edges, {100 * float(top.values.sum()):.1f} % of the query's weight"


def test_the_page_holds_no_address(tmp_path):
    write_viewer(tmp_path / "viewer.html", examples()[0], "addresses")
    text = (tmp_path / "viewer.html").read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
    assert "http" not in text.replace("http-equiv", "") and "//" not in text.split('id="data">')[0]


def test_what_is_not_there_is_refused(tmp_path):
    shown, _ = examples()
    for options, message in (({"layers": ["encoder"]}, f"layers must be some of {SELF}, {CROSS}, got encoder"),
                             ({"heads": [2]}, r"heads must lie in 0\.\.1 for decoder.0.self, got \[2\]")):
        with pytest.raises(ValueError, match=message):
            write_viewer(tmp_path / "viewer.html", shown, "wrong", **options)
    with pytest.raises(ValueError, match="at least one"):
        write_viewer(tmp_path / "viewer.html", [], "empty")
    mixed = [shown[0], examples(1)[0][0]]
    with pytest.raises(ValueError, match="must all have the weights M, M\u0304"):
        write_viewer(tmp_path / "viewer.html", mixed, "mixed")
    assert not (tmp_path / "viewer.html").exists()
