"""A page that shows attention graphs: pick layer, head and token, and see the token's edges on patches and words.

The page is one HTML file with everything in it; it asks no network for anything.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from analysis.maps import Grid, patch_grid
from analysis.relevance import stack
from attngraph import AttentionGraph

EDGES = 500_000  # in a page, unless asked for otherwise: about 3 MB


@dataclass(frozen=True)
class Shown:
    """What the page shows of one example.

    Args:
        name: of the example.
        tokens: the decoder's tokens, without padding: the first, or all, of the graphs' query nodes.
        graphs: for each kind of weights (``"M"``, an adapter's) the graphs of this example alone. All kinds have the
            same layers; those of the decoder are shown.
        image: what the encoder saw, in patches.
        start: the token that is picked at first.
        grid: rows and columns of the patches; see :func:`analysis.maps.patch_grid`.
    """

    name: str
    tokens: list[str]
    graphs: Mapping[str, Mapping[str, AttentionGraph]]
    image: Image.Image
    start: int = 0
    grid: Grid | None = None


def one_example(graphs: Mapping[str, AttentionGraph], example: int) -> dict[str, AttentionGraph]:
    """The graphs of one example of a batch."""
    def cut(x):
        return x[example:example + 1] if isinstance(x, torch.Tensor) else x

    fields = ("query", "value", "weight", "query_mask", "value_mask", "query_modality", "value_modality")
    return {name: replace(graph, **{field: cut(getattr(graph, field)) for field in fields})
            for name, graph in graphs.items()}


def write_viewer(path: str | Path, examples: Sequence[Shown], title: str, layers: Sequence[str] | None = None,
                 heads: Sequence[int] | None = None, edges: int = EDGES) -> None:
    """Write the page.

    Weights are rounded to 1/65535 of their query's largest. Each query keeps its strongest edges, as many for each as
    ``edges`` allows, and the page says which share of the query's weight they are.

    Args:
        path: of the HTML file.
        examples: what to show.
        title: of the page.
        layers: which of the decoder's layers. Default: all.
        heads: which heads, beside their mean. Default: all.
        edges: how many edges to keep in the whole page.

    Raises:
        ValueError: no example, examples with different kinds of weights, layers and heads that are not there, or image
            nodes that are no grid of patches (:func:`analysis.maps.patch_grid`).
    """
    if not examples:
        raise ValueError("examples must hold at least one")
    kinds = list(examples[0].graphs)
    if any(list(shown.graphs) != kinds for shown in examples):
        raise ValueError(f"examples must all have the weights {', '.join(kinds)}")
    rows = 0
    for shown in examples:
        decoder = _layers(shown, layers)
        rows += sum(len(shown.tokens) * (1 + len(heads or range(shown.graphs[kinds[0]][name].shape[1])))
                    for name in decoder) * len(kinds)
    kept = max(1, edges // max(1, rows))
    data = {"title": title, "weights": kinds, "examples": [_example(shown, layers, heads, kept) for shown in examples]}
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    page = files("analysis").joinpath("viewer.html").read_text(encoding="utf-8")
    Path(path).write_text(page.replace("/*DATA*/", text), encoding="utf-8")


def _layers(shown: Shown, layers: Sequence[str] | None) -> list[str]:
    decoder = stack(next(iter(shown.graphs.values()))).decoder
    wrong = [name for name in layers or () if name not in decoder]
    if wrong:
        raise ValueError(f"layers must be some of {', '.join(decoder)}, got {wrong[0]}")
    return [name for name in decoder if layers is None or name in layers]


def _example(shown: Shown, layers: Sequence[str] | None, heads: Sequence[int] | None, kept: int) -> dict:
    graphs = next(iter(shown.graphs.values()))
    found = []
    for name in _layers(shown, layers):
        h = graphs[name].shape[1]
        some = list(range(h)) if heads is None else list(heads)
        if not some or not all(0 <= head < h for head in some):
            raise ValueError(f"heads must lie in 0..{h - 1} for {name}, got {some}")
        values = graphs[name].shape[3] if graphs[name].kind == "cross" else len(shown.tokens)
        some_kept = min(kept, values)
        weights = [_pack(kind[name].weight[0, some, :len(shown.tokens), :values], some_kept)
                   for kind in shown.graphs.values()]
        found.append({"name": name, "kind": graphs[name].kind, "heads": ["mean of heads", *(f"head {k}" for k in some)],
                      "kept": some_kept, "weights": weights})
    rows, columns, others = patch_grid(graphs[stack(graphs).cross[-1]].shape[3], shown.grid)
    return {"name": shown.name, "tokens": shown.tokens, "start": shown.start, "image": _png(shown.image),
            "size": shown.image.size, "rows": rows, "columns": columns, "others": others, "layers": found}


def _pack(weight: torch.Tensor, kept: int) -> dict[str, str]:
    """The strongest edges of each query of the mean of heads and of each head, in base64: nodes and weights, relative
    to the strongest, as 16-bit numbers; the strongest and the sum as 32-bit floats. All little-endian, row by row."""
    weight = weight.detach().float().cpu()
    weight = torch.cat([weight.mean(0, keepdim=True), weight])
    top = weight.sort(dim=-1, descending=True, stable=True)
    values, nodes = top.values[..., :kept], top.indices[..., :kept]
    most = values[..., :1]
    scaled = (values / torch.where(most > 0, most, torch.ones_like(most)) * 65535).round()

    def text(x: torch.Tensor, kind: str) -> str:
        return base64.b64encode(np.ascontiguousarray(x.numpy()).astype(kind).tobytes()).decode()

    return {"node": text(nodes, "<u2"), "weight": text(scaled, "<u2"), "most": text(most, "<f4"),
            "sum": text(weight.sum(-1), "<f4")}


def _png(image: Image.Image) -> str:
    file = BytesIO()
    image.convert("RGB").save(file, "png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
