"""Attention, rollout and gradient-weighted relevance, plotted over the images.

Unless images, texts or a task are given, the texts are questions about one object of each scene. Its location
is known, so the fraction of each map inside the object is measured. Gradients of all layers are in memory at
the same time: use a small ``--batch`` for large models. ``docs/maps.md`` describes which query a map is for.
"""

from __future__ import annotations

import pandas as pd

from attngraph.analysis.patches import mass_summary
from attngraph.analysis.plots.overlays import draw_mass
from attngraph.analysis.plots.style import files
from attngraph.analysis.viewer import viewer_page
from attngraph.errors import UserError
from attngraph.experiments.base.outputs import Outputs
from attngraph.experiments.commands.options import AttentionOptions
from attngraph.experiments.inspect.attention import ask, collect_maps, draw_queries
from attngraph.experiments.inspect.source import brings_own, open_source, settings_of
from attngraph.experiments.scenes.scene import Thing

MAPS, VIEWER, MASS, SUMMARY, MASS_FIGURE = "maps.csv", "viewer.html", "mass.csv", "summary.csv", "mass"
FIGURES = [name for stem in ("maps_*", "changes_*", MASS_FIGURE) for name in files(stem)]
NAMES = (MAPS, VIEWER, MASS, SUMMARY, *FIGURES)
ASKED = "questions about one object"
STREAMED = (
    "graphs of this size are streamed: there are no rollout and gradient maps, which need all weights of all "
    "layers; use a smaller --batch for these maps"
)


def run(options: AttentionOptions) -> int:
    """``attngraph attention``."""
    for token in options.tokens:
        if token not in ("first", "answer", "last") and not token.isdecimal():
            raise UserError(f"--tokens {token}: use first, answer, last, or the index of a token, from 0")
    outputs = Outputs(options.out, "attention", settings_of(options, ASKED), NAMES)
    with outputs.alone():
        source = open_source(options)
        things: dict[str, Thing] = {}
        asked = options.task is None and not brings_own(options)
        if asked and all(sample.scene is not None for sample in source.samples):
            source.samples, things = ask(source.samples, options.seed)
        source.stream = source.is_large()
        result = collect_maps(source, [*options.tokens] or None, things, options.pictures)

        model = f"{source.title} with adapters" if source.adapters else source.title
        shown = list(result.shown.values())
        first = result.last if result.last in shown[0].sides else None
        with outputs.writing() as out:
            result.maps.to_csv(out / MAPS, index=False, float_format="%.8g")
            viewer_page(shown, f"Attention graphs of {model}", source.heads, first=first).save(out / VIEWER)
            written = [MAPS, VIEWER, *draw_queries(result, model, out)]
            if len(result.mass):
                summary = mass_summary(result.mass, seed=options.seed)
                result.mass.to_csv(out / MASS, index=False, float_format="%.8g")
                summary.to_csv(out / SUMMARY, index=False, float_format="%.8g")
                rounded = pd.read_csv(out / SUMMARY, dtype={"query": str})  # which the figure follows
                draw_mass(rounded, out / MASS_FIGURE, f"{model}.")
                written += [MASS, SUMMARY, f"{MASS_FIGURE}.png"]
    if len(result.mass):
        print(summary.to_string(index=False, float_format="{:.3f}".format))
    print(f"raw attention: {result.last}")
    if source.stream:
        print(STREAMED)
    elif "gradient" not in {*result.maps.method}:
        print(f"no gradient map: {source.title} has no logits for the tokens of its text or for classes")
    print(f"written: {options.out}/{', '.join(written)}")
    return 0
