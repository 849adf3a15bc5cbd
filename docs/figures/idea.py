"""Plots the figure ``idea``: an attention layer of the mini-BLIP as a graph, and the adapter on it.

    python docs/figures/idea.py [FOLDER]

The image, the question and the weights are real: a synthetic scene and the second cross-attention layer of
the shipped model, mean over heads. The 64 patches are pooled to 4 x 4, and only the heaviest edges of each
word are drawn.
"""

import sys
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch

from attngraph import capture
from attngraph.analysis.plots.style import PAGE, new_figure, save, styled
from attngraph.experiments.models import load_family
from attngraph.experiments.models.images import preprocess
from attngraph.experiments.scenes.drawing import draw
from attngraph.experiments.scenes.scene import Background, Scene, Thing

LAYER = "text_decoder.bert.encoder.layer.1.crossattention.self"
QUESTION = "what color is the circle ?"
POOLED = 4  # patches along a side of the image, as drawn
EDGES = 3  # drawn for each word
INK, GREY, QUERY, ADAPTER = "#222222", "#666666", "#0b5fa5", "#c2571a"
CAPTION = (
    "Attention M as a bipartite graph. Left: attention of the words of a question to the patches of an image "
    "(columns: 4 x 4 patches, row by row). Middle: the same weights as edges from query nodes to value "
    "nodes, the heaviest three of each word. Right: a graph adapter passes messages on this graph and adds "
    "the result, through a bottleneck, to the output of the frozen layer."
)


def scene() -> Scene:
    """A blue circle, an orange square and a purple star on a light ground."""
    things = (
        Thing("circle", "blue", "large", 12, 14, 9),
        Thing("square", "orange", "large", 50, 34, 9),
        Thing("star", "purple", "large", 18, 50, 9),
    )
    return Scene(0, things, Background("plain", (244, 244, 238), (244, 244, 238), 0), None, "downstream")


def attention() -> tuple[list[str], np.ndarray, np.ndarray]:
    """The question's words, their weights on the pooled patches ``(words, 16)`` and the image."""
    family = load_family()
    model, tokenizer = family.model, family.tokenizer
    picture = draw(scene())
    inputs = tokenizer(QUESTION, return_tensors="pt", add_special_tokens=False)
    graph = capture(
        model, {"input_ids": inputs.input_ids, "pixel_values": preprocess([picture])}, layers=LAYER
    )[LAYER]
    weight = graph.weight[0].mean(0)[:, 1:]  # heads averaged, [CLS] left out
    side = round(weight.shape[1] ** 0.5)
    share = side // POOLED
    pooled = weight.reshape(-1, POOLED, share, POOLED, share).sum((2, 4)).flatten(1)
    words = tokenizer.convert_ids_to_tokens(inputs.input_ids[0].tolist())
    return words, pooled.numpy(), np.asarray(picture)


def title(axes: Axes, x: float, text: str) -> None:
    axes.text(x, 4.62, text, ha="center", va="center", fontsize=9, weight="bold", color=INK)


def box(
    axes: Axes, x: float, y: float, width: float, height: float, text: str, color: str, fill: str
) -> None:
    axes.add_patch(
        FancyBboxPatch(
            (x - width / 2, y - height / 2),
            width,
            height,
            boxstyle="round,pad=0.02,rounding_size=0.12",
            facecolor=fill,
            edgecolor=color,
            linewidth=1,
        )
    )
    axes.text(x, y, text, ha="center", va="center", fontsize=7, color=INK, linespacing=1.45)


def arrow(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], color: str = INK, bend: float = 0
) -> None:
    axes.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle="-|>",
            mutation_scale=8,
            color=color,
            linewidth=1,
            connectionstyle=f"arc3,rad={bend}",
        )
    )


def matrix(axes: Axes, words: list[str], weight: np.ndarray) -> None:
    """The attention matrix, words by patches."""
    title(axes, 1.95, "attention")
    left, right, top, step = 0.85, 3.25, 3.95, 0.43
    axes.imshow(
        weight,
        cmap="Blues",
        extent=(left, right, top - step * len(words), top),
        aspect="auto",
        interpolation="nearest",
        vmin=0,
    )
    for i, word in enumerate(words):
        axes.text(left - 0.1, top - step * (i + 0.5), word, ha="right", va="center", fontsize=7, color=QUERY)
    middle = (left + right) / 2
    axes.text(middle, top + 0.14, "patches of the image", ha="center", va="bottom", fontsize=6.5, color=GREY)
    axes.text(
        middle,
        top - step * len(words) - 0.3,
        r"$M = \mathrm{softmax}(QK^\top\!/\sqrt{d})$",
        ha="center",
        va="center",
        fontsize=8,
    )
    axes.text(
        middle, 0.47, "one matrix for each layer and head", ha="center", va="center", fontsize=6.5, color=GREY
    )


def graph(axes: Axes, words: list[str], weight: np.ndarray, picture: np.ndarray) -> None:
    """The bipartite graph: words on the left, patches on the right."""
    title(axes, 5.55, "is a bipartite graph")
    heights = np.linspace(3.75, 1.5, len(words))
    size, gap, left, top = 0.56, 0.08, 5.85, 3.95
    pixels = picture.shape[0] // POOLED
    centres = []
    for k in range(POOLED**2):
        row, column = divmod(k, POOLED)
        x, y = left + column * (size + gap), top - row * (size + gap)
        crop = picture[row * pixels : (row + 1) * pixels, column * pixels : (column + 1) * pixels]
        axes.imshow(crop, extent=(x, x + size, y - size, y), zorder=3, interpolation="nearest")
        axes.plot([x, x + size, x + size, x, x], [y, y, y - size, y - size, y], color=GREY, lw=0.5, zorder=4)
        centres.append((x + 0.1, y - size / 2))
    for i, row in enumerate(weight):
        for k in np.argsort(row)[::-1][:EDGES]:
            axes.plot(
                [4.62, centres[k][0]],
                [heights[i], centres[k][1]],
                color=QUERY,
                lw=0.4 + 5 * row[k],
                alpha=0.25 + 0.6 * row[k] / weight.max(),
                zorder=5,
                solid_capstyle="round",
            )
    for height, word in zip(heights, words):
        axes.plot(4.62, height, "o", ms=5, color=QUERY, zorder=6)
        axes.text(4.47, height, word, ha="right", va="center", fontsize=7, color=QUERY)
    axes.text(4.3, 0.83, "query nodes", ha="center", va="center", fontsize=7, color=QUERY)
    axes.text(7.1, 0.83, "value nodes", ha="center", va="center", fontsize=7, color=INK)
    axes.text(5.75, 0.47, r"edges weighted by $M_{ij}$", ha="center", va="center", fontsize=6.5, color=GREY)


def adapter(axes: Axes) -> None:
    """Where the graph network runs: parallel to the frozen layer, followed by a bottleneck."""
    title(axes, 11.2, "that a small GNN can run on")
    box(axes, 10.05, 3.5, 1.45, 0.9, "frozen layer\n" r"$M\,V\,W_o$", GREY, "#eeeeee")
    box(axes, 12.2, 3.5, 1.85, 1.15, "message passing\nGCN · APPNP\nGCNII · pGNN", ADAPTER, "#fbeadf")
    box(axes, 12.2, 1.9, 1.85, 0.85, "bottleneck\n" r"$W_{down},\ \sigma,\ W_{up}$", ADAPTER, "#fbeadf")
    axes.text(10.05, 1.235, "+", ha="center", va="center", fontsize=10, color=INK)
    axes.add_patch(Circle((10.05, 1.25), 0.2, fill=False, color=INK, lw=1))
    arrow(axes, (8.55, 3.5), (9.2, 3.5), GREY)
    arrow(axes, (10.05, 3.0), (10.05, 1.5))
    arrow(axes, (10.85, 3.5), (11.2, 3.5), ADAPTER)
    arrow(axes, (12.2, 2.88), (12.2, 2.37), ADAPTER)
    arrow(axes, (12.2, 1.43), (10.3, 1.25), ADAPTER, bend=-0.22)
    arrow(axes, (10.05, 1.02), (10.05, 0.62))
    axes.text(
        11.85, 0.47, "only the orange part is trained", ha="center", va="center", fontsize=6.5, color=ADAPTER
    )


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    words, weight, picture = attention()
    with styled(), matplotlib.rc_context({"text.parse_math": True, "mathtext.fontset": "cm"}):
        figure = new_figure(PAGE, 2.52, layout=None)
        axes = figure.add_axes((0, 0, 1, 1))
        matrix(axes, words, weight)
        graph(axes, words, weight, picture)
        adapter(axes)
        axes.set(xlim=(0, 13.4), ylim=(0.13, 4.954), aspect="equal")
        axes.axis("off")
        save(figure, folder / "idea", CAPTION)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
