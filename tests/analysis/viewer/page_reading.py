"""Example pages, and what a browser shows of them."""

import json
import re
from dataclasses import replace

import pytest
import torch
from PIL import Image

from attngraph import AttentionGraph
from attngraph.analysis.viewer import ViewerExample

TOKENS = ["[DEC]", "what", "<b>&</b>", "?"]
TEXT = [*TOKENS, None]  # the last query is padding
ENCODER, SELF, CROSS = "encoder", "decoder.0.self", "decoder.0.cross"
SIDE, HEADS = 3, 2
NODES = list(range(SIDE**2 + 1))
PICTURE = Image.linear_gradient("L").resize((24, 24))


def softmax(*shape: int, seed: int) -> torch.Tensor:
    return (2 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))).softmax(-1)


def graph(weight: torch.Tensor, **about) -> AttentionGraph:
    b, h, n, m = weight.shape
    return AttentionGraph(torch.zeros(b, h, n, 1), torch.zeros(b, h, m, 1), weight, **about)


def graphs(b: int = 2, padded: int = 5, seed: int = 0) -> dict[str, AttentionGraph]:
    """A decoder of five tokens, the last of them padding, and an encoder of [CLS] and 3 x 3 patches."""
    m = SIDE**2 + 1
    own = softmax(b, HEADS, padded, padded, seed=seed).tril()
    return {
        ENCODER: graph(softmax(b, HEADS, m, m, seed=seed + 1)),
        SELF: graph(own / own.sum(-1, keepdim=True), causal=True),
        CROSS: graph(softmax(b, HEADS, padded, m, seed=seed + 2), causal=True),
    }


SIDES = {ENCODER: (NODES, NODES), SELF: (TEXT, TEXT), CROSS: (TEXT, NODES)}


def examples(kinds: int = 2, encoder: bool = False) -> tuple[list[ViewerExample], dict]:
    first = {name: graph for name, graph in graphs().items() if encoder or name != ENCODER}
    other = {name: replace(graph, weight=graph.weight**1.5) for name, graph in first.items()}
    weights = dict(list({"M": first, "M\u0304": other}.items())[:kinds])
    shown = [
        ViewerExample(
            f"example {k}",
            {kind: {name: graph[k] for name, graph in layers.items()} for kind, layers in weights.items()},
            SIDES,
            PICTURE,
            (SIDE, SIDE),
            1,
            {SELF: 3, CROSS: 3},
        )
        for k in range(2)
    ]
    return shown, weights


def single_example(layers: dict[str, torch.Tensor], sides: dict, **options) -> ViewerExample:
    """An example of one kind of weights, given as ``{layer: (1, h, n, m)}``."""
    weights = {name: graph(weight) for name, weight in layers.items()}
    return ViewerExample("one", {"M": weights}, sides, **options)


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
    elements = tab.eval_on_selector_all(
        f"{places} [data-value]",
        "all => all.map(x => [+x.dataset.value, getComputedStyle(x).backgroundColor])",
    )
    shares = {
        value: float(re.search(r"rgba\(203, 59, 20, ([\d.]+)\)", colour)[1]) / 0.75
        for value, colour in elements
        if colour.startswith("rgba(203")
    }
    return {value: share for value, share in shares.items() if share}


def expected(weight: torch.Tensor, values: int, itself: int | None = None) -> dict[int, float]:
    """What a query's row of weights must be drawn as, ``(heads, m)`` or ``(m,)``; without its edge to
    itself."""
    row = (weight.mean(0) if weight.dim() == 2 else weight)[:values]
    return {node: pytest.approx(float(w), abs=1e-4) for node, w in enumerate(row) if w > 0 and node != itself}


def ends(tab, selection: str = "") -> list[tuple]:
    """For each line, or those of a selection: its value and what lies under both its ends, a pixel inside.

    Ends are (side, node, id of the parent).
    """
    lines = tab.eval_on_selector_all(
        f"#edges line:is({selection or '*'})",
        """all => all.map(line => {
        const stage = document.getElementById('stage').getBoundingClientRect();
        const under = (x, y, side) => {
            const left = stage.left + +line.getAttribute(x), top = stage.top + +line.getAttribute(y);
            const near = [-1, 0, 1].map(step => document.elementFromPoint(left + step, top));
            const at = near.find(node => side in node.dataset);
            return at ? [side, +at.dataset[side], at.parentNode.id] : null;
        };
        return [+line.dataset.value, under('x1', 'y1', 'query'), under('x2', 'y2', 'value')];
    })""",
    )
    return [(value, tuple(start), tuple(end)) for value, start, end in lines]


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
