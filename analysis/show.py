"""Attention graphs in a notebook: the viewer's page for the graphs of one example."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image
from torch import nn

from attngraph.analysis.patches import Grid, patch_grid
from attngraph.analysis.relevance.routes import image_nodes, valid_nodes
from attngraph.analysis.viewer import Nodes, Page, ViewerExample, cells_of, viewer_page
from attngraph.errors import UserError
from attngraph.graph import AttentionGraph

Graphs = Mapping[str, AttentionGraph]
Words = Sequence[str]
PEFT = "base_model.model."  # precedes the names of layers that were captured through a PEFT model


def show(
    graphs: AttentionGraph | Graphs,
    image: Image.Image | str | Path | None = None,
    tokens: Words | Sequence[Words] | None = None,
    model: nn.Module | None = None,
    example: int = 0,
    grid: Grid | None = None,
    title: str = "Attention graphs",
    height: int = 640,
) -> Page:
    r"""Show the attention graphs of one example as an interactive page.

    >>> attngraph.show(attngraph.capture(model, inputs), image=photo, tokens=words)

    Args:
        graphs: one graph, or ``{layer: graph}`` as :func:`attngraph.capture` returns it.
        image: the image that the model saw, after the processor's crop; it is divided into equal patches.
            Default: image nodes are shown as words.
        tokens: the words of the text nodes. A list names each side that has as many text nodes, or as many
            nodes, as it has words. Several lists of one length are those of the batch's examples; several of
            different lengths name the sides of a model with several texts. Default: numbers.
        model: a PEFT model with graph adapters: a switch then changes between the weights :math:`M` and those
            that the adapters use, :math:`\bar M`.
        example: which example of the batch.
        grid: rows and columns of the patches. Default: a square, with at most one node ([CLS]) before it.
        title: of the page.
        height: of the frame in a notebook, in pixels.

    Returns:
        The page. A notebook displays it; ``save(path)`` writes it to a file.

    Raises:
        UserError: no graph, or no such example; an image that cannot be read, or whose grid of patches is
            unknown; words that match no nodes; a model without graph adapters on these layers; weights that
            are not finite.
    """
    layers = {"attention": graphs} if isinstance(graphs, AttentionGraph) else graphs
    if not (layers and isinstance(layers, Mapping)) or any(
        not isinstance(graph, AttentionGraph) for graph in layers.values()
    ):
        raise UserError(
            "there are no graphs to show: pass one graph, or one for each layer as attngraph.capture returns "
            "them; attngraph.record returns a list for each layer"
        )
    for name, graph in layers.items():
        if not 0 <= example < graph.shape[0]:
            raise UserError(f"example must be 0 to {graph.shape[0] - 1} for {name}, got {example}")
    kinds = {"M": {name: graph[example] for name, graph in layers.items()}}
    if model is not None:
        kinds["M\u0304"] = _reweighted(model, kinds["M"])
    picture = _opened(image)
    named: set[int] = set()
    texts = _texts(tokens, example, next(iter(layers.values())).shape[0])
    nodes = {
        name: (
            _nodes(graph, 0, texts, picture is not None, named),
            _nodes(graph, 1, texts, picture is not None, named),
        )
        for name, graph in kinds["M"].items()
    }
    for number, words in enumerate(texts):
        if number not in named:
            counts = sorted({sum(not x for x in side[0]) for both in nodes.values() for side in both})
            raise UserError(
                f"tokens has {len(words)} words, but the graphs have "
                f"{' or '.join(map(str, counts))} text nodes a side: pass one word for each"
            )
    patches = _grid(nodes, grid) if picture is not None else None
    sides, others = cells_of(nodes, patches or (0, 0))
    shown = ViewerExample("example " + str(example), kinds, sides, picture, patches, others)
    return replace(viewer_page([shown], title), height=height)


def _texts(tokens: Words | Sequence[Words] | None, example: int, batch: int) -> list[list[str]]:
    """The lists of words that name nodes of the example."""
    if tokens is None or len(tokens) == 0:
        return []
    texts: Any = [tokens] if isinstance(tokens[0], str) else tokens
    texts = [list(words) for words in texts]
    lengths = {len(words) for words in texts}
    if len(lengths) == 1 and len(texts) == batch:
        return [texts[example]]
    if len(lengths) < len(texts):
        raise UserError(
            "tokens has lists of one length, and nodes are found by the number of words: show the layers of "
            "each text separately"
        )
    return texts


def _nodes(graph: AttentionGraph, side: int, texts: list[list[str]], looks: bool, named: set[int]) -> Nodes:
    """Which nodes of a side are parts of the image, and the names of the others; the numbers of the lists of
    words that named nodes are added to ``named``."""
    valid, image = valid_nodes(graph, side)[0].tolist(), image_nodes(graph, side)[0].tolist()
    unknown = graph.is_image()[side] is None
    if looks and unknown and side == 1 and graph.kind == "cross":
        image = valid
    names: list[str | None] = [str(node) if real else None for node, real in enumerate(valid)]
    text = [node for node, is_image in enumerate(image) if not is_image]
    for number, words in enumerate(texts):
        if text and len(words) in (len(text), len(names)):
            named.add(number)
            places = text if len(words) == len(text) else range(len(names))
            for node, word in zip(places, words):
                names[node] = word if valid[node] else None
    if looks:
        return image, names
    for number, node in enumerate(node for node, is_image in enumerate(image) if is_image):
        names[node] = f"image {number}"
    return [False] * len(image), names


def _grid(nodes: Mapping[str, tuple[Nodes, Nodes]], grid: Grid | None) -> Grid:
    """The grid of patches: the last side's whose image nodes form one.

    Raises:
        UserError: there is none.
    """
    counts = [sum(is_image) for both in nodes.values() for is_image, _ in both if any(is_image)]
    for count in reversed(counts):
        try:
            return patch_grid(count, grid)[:2]
        except ValueError:
            continue
    if not counts:
        raise UserError("these graphs have no image nodes: remove image")
    form = "square" if grid is None else f"grid of {grid[0]} x {grid[1]}"
    raise UserError(f"{counts[-1]} image nodes form no {form}: pass grid=(rows, columns) of the patches")


def _opened(image: Image.Image | str | Path | None) -> Image.Image | None:
    if image is None or isinstance(image, Image.Image):
        return image
    try:
        with Image.open(image) as file:
            return file.convert("RGB")
    except (OSError, ValueError) as error:
        raise UserError(f"{image} is not a readable image ({error})") from None


def _reweighted(model: nn.Module, graphs: Graphs) -> dict[str, AttentionGraph]:
    """The graphs with the weights that the adapters use; those of layers without an adapter do not change.

    Raises:
        UserError: no layer has an adapter.
    """
    layers = getattr(getattr(model, "base_model", None), "layers", None)
    adapters: Mapping[str, Any] = layers() if callable(layers) else {}
    found = {
        name: adapters[name.removeprefix(PEFT)].reweighted(graph)
        for name, graph in graphs.items()
        if name.removeprefix(PEFT) in adapters
    }
    if not found:
        raise UserError(
            "model has no active graph adapter on these layers: pass the PEFT model whose graphs were "
            "captured, or remove model"
        )
    return {name: found.get(name, graph) for name, graph in graphs.items()}
