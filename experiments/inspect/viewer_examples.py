"""Samples of a batch as the viewer shows them."""

from __future__ import annotations

from analysis.maps import OTHERS
from analysis.relevance import image_nodes, valid_nodes
from analysis.viewer import ViewerExample, one_example
from attngraph import AttentionGraph
from experiments.inspect.views import PLAIN, View
from experiments.inspect.words import in_decoder, words_of
from experiments.models.batch import Batch

Cells = list[
    int | str | None
]  # for each node: the number of an image node, a text, or None where it isn't shown


def viewer_example(name: str, batch: Batch, view: View, k: int) -> ViewerExample:
    """Sample ``k`` of a batch for the viewer."""
    graphs = view.kinds[PLAIN]
    rows, columns, _ = view.grids[k]
    sides = {
        layer: tuple(_cells(batch, graphs[layer], side, k, (rows, columns)) for side in (0, 1))
        for layer in view.layers
    }
    others = max((before for both in sides.values() for _, before in both), default=0)
    cells = {layer: tuple(_shifted(*side, others) for side in both) for layer, both in sides.items()}
    picked = int(list(view.queries.values())[-1][k])
    asking = cells[view.last][0] if view.last in cells else None
    start = {layer: picked for layer in view.layers if cells[layer][0] == asking}
    text = _looking_text(batch, graphs[view.last], k)
    kinds = {
        kind: one_example({layer: of_kind[layer] for layer in view.layers}, k)
        for kind, of_kind in view.kinds.items()
    }
    title = f"{name}: {text}" if text else name
    return ViewerExample(title, kinds, cells, batch.pictures.images[k], (rows, columns), others, start)


def _looking_text(batch: Batch, graph: AttentionGraph, k: int) -> str:
    """The tokens of the text whose nodes are the queries, an arrow before those of a decoder if an encoder
    reads a text too (``[CLS] what color ... [SEP] → [CLS] red [SEP]``)."""
    words = words_of(batch, graph, 0)
    if words is None:
        return ""
    tokens = list(words.tokens[k][(words.is_token[k] & ~words.padding[k]).numpy()])
    read = batch.text
    if read is not None and in_decoder(batch, graph, 0):
        question = [token for token, pad in zip(read.tokens[k], read.padding[k].tolist()) if not pad]
        tokens = [*question, "→", *tokens]
    return " ".join(tokens)


def _cells(
    batch: Batch, graph: AttentionGraph, side: int, k: int, grid: tuple[int, int]
) -> tuple[Cells, int]:
    """What the viewer shows for each node of a side, and how many of the image nodes come before the
    patches. Image nodes in another grid (an image encoder's before patches are merged, the queries of a
    Q-Former) are numbered words."""
    image, words = image_nodes(graph, side)[k].tolist(), words_of(batch, graph, side)
    others = sum(image) - grid[0] * grid[1]
    fits = 0 <= others <= OTHERS
    valid, cells, number = valid_nodes(graph, side)[k].tolist(), [], 0
    for node, is_image in enumerate(image):
        if is_image:
            cells.append(number if fits else f"image {number}")
            number += 1
        elif not valid[node] or (words is not None and bool(words.padding[k, node])):
            cells.append(None)
        else:
            cells.append(words.tokens[k, node] if words is not None else f"node {node}")
    return cells, others if fits else 0


def _shifted(cells: Cells, before: int, others: int) -> Cells:
    """With the patches' numbers as if ``others`` image nodes came before them in every layer."""
    return [cell + others - before if isinstance(cell, int) and cell >= before else cell for cell in cells]
