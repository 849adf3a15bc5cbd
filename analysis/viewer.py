"""An HTML page that shows attention graphs: pick a layer, a head and a query, and see the query's edges on
patches and words.

Any attention layer can be shown: the nodes of each side are words, parts of an image, or a mix of both. The
page is one file with everything in it and needs no network.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from io import BytesIO
from math import prod
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from PIL import Image

from attngraph import AttentionGraph, UserError
from attngraph.analysis.patches import OTHERS, Grid

EDGES = 500_000  # in a page, unless asked for otherwise: about 3 MB

# the number of an image node (others first, then patches row by row), a word, or None: not shown
Cell: TypeAlias = int | str | None
# of a side's nodes: which stand for parts of an image, and the names of the others (None: not shown)
Nodes: TypeAlias = tuple[Sequence[bool], Sequence[str | None]]


@dataclass(frozen=True)
class ViewerExample:
    """One example as the page shows it.

    Args:
        name: of the example.
        graphs: ``{kind of weights ("M", an adapter's): {layer: graph}}``, graphs of this example alone (b =
            1). All kinds have the same layers; all are shown, in this order.
        sides: ``{layer: (query nodes, value nodes)}``, with an entry for each node: the number of an image
            node, a word, or None for a node that is not shown (padding).
        image: the input of the image encoder; None if there is no image node.
        grid: rows and columns of the patches.
        others: number of image nodes before the patches ([CLS], registers).
        start: ``{layer: query node that is selected initially}``. Default: the first that is shown.
    """

    name: str
    graphs: Mapping[str, Mapping[str, AttentionGraph]]
    sides: Mapping[str, tuple[Sequence[Cell], Sequence[Cell]]]
    image: Image.Image | None = None
    grid: Grid | None = None
    others: int = 0
    start: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Page:
    """An HTML page. A notebook displays it.

    Args:
        text: the page's HTML.
        height: of the frame in a notebook, in pixels.
    """

    text: str = field(repr=False)
    height: int = 640

    def save(self, path: str | Path) -> None:
        """Write the page to a file."""
        Path(path).write_text(self.text, encoding="utf-8")

    def _repr_html_(self) -> str:
        """The page in a frame that may run its script, but cannot reach the notebook around it."""
        return (
            f'<iframe srcdoc="{html.escape(self.text)}" sandbox="allow-scripts" '
            f'style="width: 100%; height: {self.height}px; border: 0"></iframe>'
        )


def viewer_page(
    examples: Sequence[ViewerExample],
    title: str,
    heads: Sequence[int] | None = None,
    edges: int = EDGES,
    first: str | None = None,
) -> Page:
    """The page that shows these examples.

    Weights are rounded to 1/65535 of their query's largest. Each query keeps its strongest edges, the same
    number for each as far as ``edges`` allows, and the page shows which fraction of the query's weight they
    are. Nodes that are not shown do not count.

    Args:
        examples: the examples.
        title: title of the page.
        heads: which heads, in addition to their mean. Default: all.
        edges: number of edges to keep in the whole page.
        first: the layer that is selected when the page opens. Default: the last.

    Raises:
        UserError: weights are not finite.
        ValueError: no example; kinds of weights or layers that differ; unknown heads, first layer or query to
            start with; sides that lack a layer, do not fit its graphs, show no query or no value, or name an
            unknown image node or one twice; image nodes without an image and its grid.
    """
    layers = _layers(examples)
    if first is not None and first not in layers:
        raise ValueError(f"first must be one of {', '.join(layers)}, got {first}")
    drawn = [[_drawn(shown, name, heads) for name in layers] for shown in examples]
    kinds = list(examples[0].graphs)
    rows = sum(
        len(kinds) * (1 + len(layer.heads)) * len(layer.queries) for example in drawn for layer in example
    )
    sides: dict[tuple[Cell, ...], int] = {}  # distinct lists of shown nodes, and their numbers
    contents = [
        _example(shown, dict(zip(layers, example)), sides, max(1, edges // rows))
        for shown, example in zip(examples, drawn)
    ]
    data = {
        "title": title,
        "weights": kinds,
        "layers": layers,
        "examples": contents,
        "sides": list(sides),
        "first": len(layers) - 1 if first is None else layers.index(first),
    }
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    page = files("attngraph.analysis").joinpath("viewer.html").read_text(encoding="utf-8")
    return Page(page.replace("/*DATA*/", text))


def cells_of(
    layers: Mapping[str, tuple[Nodes, Nodes]], grid: Grid
) -> tuple[dict[str, tuple[list[Cell], list[Cell]]], int]:
    """The entries of all layers' nodes, and the number of image nodes before the patches.

    Image nodes that do not fit the grid (an encoder's before patches are merged, a Q-Former's queries) are
    shown as words.

    Args:
        layers: ``{layer: (query nodes, value nodes)}``.
        grid: rows and columns of the patches.
    """

    def extra(nodes: Nodes) -> int:
        return sum(nodes[0]) - prod(grid)

    before = [extra(side) for sides in layers.values() for side in sides if 0 <= extra(side) <= OTHERS]
    others = max(before, default=0)

    def cells(nodes: Nodes) -> list[Cell]:
        found, number, own = [], 0, extra(nodes)
        for is_image, name in zip(*nodes):
            cell: Cell = name
            if is_image:
                # the patches have the same numbers in all layers, whether or not a layer has the nodes before
                cell = number + (others - own) * (number >= own) if 0 <= own <= OTHERS else f"image {number}"
                number += 1
            found.append(cell)
        return found

    return {layer: (cells(query), cells(value)) for layer, (query, value) in layers.items()}, others


def _layers(examples: Sequence[ViewerExample]) -> list[str]:
    """The layers that all examples have, in all kinds of weights."""
    if not examples:
        raise ValueError("examples must hold at least one")
    kinds = list(examples[0].graphs)
    if any(list(shown.graphs) != kinds for shown in examples):
        raise ValueError(f"examples must all have the weights {', '.join(kinds)}")
    layers = list(examples[0].graphs[kinds[0]]) if kinds else []
    if not layers:
        raise ValueError("graphs must hold at least one layer")
    for shown in examples:
        for kind, graphs in shown.graphs.items():
            if set(graphs) != set(layers):
                raise ValueError(
                    f"graphs must all have the layers {', '.join(layers)}, got {', '.join(graphs)} for "
                    f"{kind} of {shown.name}"
                )
    return layers


class _Drawn(NamedTuple):
    """Shown part of one layer: the numbers of heads, query nodes and value nodes."""

    heads: list[int]
    queries: list[int]
    values: list[int]


def _drawn(shown: ViewerExample, name: str, heads: Sequence[int] | None) -> _Drawn:
    """Shown part of a layer, whose graphs and sides are checked."""
    graphs = [kind[name] for kind in shown.graphs.values()]
    _, h, n, m, _ = graphs[0].shape
    for graph in graphs:
        if graph.shape[:4] != (1, h, n, m):
            raise ValueError(
                f"graphs must be of one example and have one shape, got {graph.shape[:4]} and "
                f"{(1, h, n, m)} for {name}"
            )
    chosen = list(range(h)) if heads is None else list(heads)
    if not chosen or not all(0 <= head < h for head in chosen):
        raise ValueError(f"heads must be in 0..{h - 1} for {name}, got {chosen}")
    if name not in shown.sides:
        raise ValueError(f"sides must hold all layers, got none for {name}")
    sides = shown.sides[name]
    if [len(cells) for cells in sides] != [n, m]:
        raise ValueError(
            f"sides must hold {n} query nodes and {m} value nodes for {name}, got "
            f"{' and '.join(str(len(cells)) for cells in sides)}"
        )
    for cells in sides:
        _check_image(shown, name, [cell for cell in cells if cell is not None and not isinstance(cell, str)])
    queries, values = ([node for node, cell in enumerate(cells) if cell is not None] for cells in sides)
    if not queries or not values:
        raise ValueError(f"sides must hold a query and a value that are shown for {name}")
    if name in shown.start and shown.start[name] not in queries:
        raise ValueError(f"start must be a query that is shown, got {shown.start[name]} for {name}")
    return _Drawn(chosen, queries, values)


def _check_image(shown: ViewerExample, name: str, numbers: list[int]) -> None:
    if not numbers:
        return
    if shown.image is None or shown.grid is None:
        missing = "image" if shown.image is None else "grid"
        raise ValueError(f"{missing} must be given for {name}, which has image nodes")
    count = shown.others + prod(shown.grid)
    if not 0 <= min(numbers) <= max(numbers) < count:
        raise ValueError(
            f"sides must number image nodes 0..{count - 1} for {name}, got {min(numbers)}..{max(numbers)}"
        )
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"sides must name each image node once for {name}")


def _example(
    shown: ViewerExample, drawn: Mapping[str, _Drawn], sides: dict[tuple[Cell, ...], int], kept: int
) -> dict:
    """An example in the page's format; lists of nodes that ``sides`` does not hold yet are added to it."""
    layers = []
    for name, (heads, queries, values) in drawn.items():
        query, value = (
            sides.setdefault(tuple(cell for cell in cells if cell is not None), len(sides))
            for cells in shown.sides[name]
        )
        kept_here = min(kept, len(values))
        weights = []
        for kind, graphs in shown.graphs.items():
            packed = []
            for chosen, strip in graphs[name].strips():
                here = [query - chosen.start for query in queries if chosen.start <= query < chosen.stop]
                weight = strip[0, heads][:, here][:, :, values]
                if not weight.isfinite().all():
                    raise UserError(
                        f"{shown.name}, {name}: the weights {kind} hold NaN or infinity and cannot be shown: "
                        "check for inputs or parameters that are not finite"
                    )
                packed.append(_strongest(weight, kept_here))
            weights.append(_pack([torch.cat(parts, 1) for parts in zip(*packed)]))
        layers.append(
            {
                "query": query,
                "value": value,
                "start": queries.index(shown.start.get(name, queries[0])),
                "heads": ["mean of heads", *(f"head {k}" for k in heads)],
                "kept": kept_here,
                "weights": weights,
            }
        )
    rows, columns = shown.grid or (0, 0)
    content = {"name": shown.name, "rows": rows, "columns": columns, "others": shown.others, "layers": layers}
    if shown.image is None:
        return content
    return content | {"image": _png(shown.image), "size": shown.image.size}


def _strongest(weight: torch.Tensor, kept: int) -> tuple[torch.Tensor, ...]:
    """The strongest edges of each query of the mean of heads and of each head: nodes and weights, ``(1 + h,
    queries, kept)``; and the sums of all edges, ``(1 + h, queries, 1)``."""
    weight = weight.detach().float().cpu()
    weight = torch.cat([weight.mean(0, keepdim=True), weight])
    top = weight.topk(kept)
    return top.indices, top.values, weight.sum(-1, keepdim=True)


def _pack(strongest: Sequence[torch.Tensor]) -> dict[str, str]:
    """Result of :func:`_strongest` in base64: nodes as 32-bit numbers, weights, relative to the strongest, as
    16-bit numbers; the strongest and the sum as 32-bit floats. All little-endian, row by row."""
    node, weight, total = strongest
    most = weight[..., :1]
    scaled = (weight / torch.where(most > 0, most, torch.ones_like(most)) * 65535).round()

    def encoded(x: torch.Tensor, kind: str) -> str:
        return base64.b64encode(np.ascontiguousarray(x.numpy()).astype(kind).tobytes()).decode()

    return {
        "node": encoded(node, "<u4"),
        "weight": encoded(scaled, "<u2"),
        "most": encoded(most, "<f4"),
        "sum": encoded(total, "<f4"),
    }


def _png(image: Image.Image) -> str:
    file = BytesIO()
    image.convert("RGB").save(file, "png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
