"""Draw the projected query and value spaces of attention layers, and say how far the picture can be trusted.

A whole layer's points are its nodes' features after all of W_o, a head's those after its slice. With an
adapter, the features that the same layer of the adapted model gives the same nodes are placed on the map of
the frozen model; in the first adapted layer these are the same, since an adapter changes what comes after it.
"""

from __future__ import annotations

from dataclasses import replace

from analysis.embedding import METHODS
from analysis.plots.embedding import draw
from attngraph.errors import UserError
from experiments.base.outputs import Outputs
from experiments.commands.options import TsneOptions
from experiments.inspect.points import ADAPTED, FROZEN, check_clouds, embed, gather_points, notes, summary
from experiments.inspect.source import open_source, settings_of

NAMES = (
    "coordinates.csv",
    "quality.csv",
    *(f"{method}-*.{kind}" for method in METHODS for kind in ("png", "svg")),
)
PERPLEXITY = 30  # where none is given


def run(options: TsneOptions) -> int:
    """``attngraph tsne``."""
    options = replace(options, perplexity=_perplexities(options))
    outputs = Outputs(options.out, "tsne", settings_of(options), NAMES)
    with outputs.alone():
        return _draw(options, outputs)


def _draw(options: TsneOptions, outputs: Outputs) -> int:
    """Draw into a folder that is checked."""
    method, colours = options.method, options.colour
    sources = {FROZEN: open_source(replace(options, adapter=None))}
    if options.adapter is not None:
        sources[ADAPTED] = open_source(options)
    source = sources[FROZEN]
    clouds, rotated = gather_points(sources, source.layers, options.points, options.seed)
    check_clouds(clouds[FROZEN], method, options.perplexity, colours)
    table, measures = embed(clouds, method, options.perplexity, colours, options.seed)

    title = f"{source.title}: projected query and value space"
    lines = list(notes(clouds, measures, method, rotated))
    with outputs.writing() as out:
        table.to_csv(out / "coordinates.csv", index=False, float_format="%.5f")
        measures.to_csv(out / "quality.csv", index=False, float_format="%.5f")
        for colour in colours:
            paths = [out / f"{method}-{colour}.{kind}" for kind in ("png", "svg")]
            draw(table, measures, paths, colour, title, lines)
    print(summary(table, measures))
    source.report_skipped()
    figures = ", ".join(f"{method}-{colour}.png and .svg" for colour in colours)
    print(f"written: {options.out}/coordinates.csv, quality.csv, {figures}")
    return 0


def _perplexities(options: TsneOptions) -> tuple[float, ...]:
    """Those that are asked for, or the default; refuses those that make no map."""
    if options.method == "pca":
        if options.perplexity:
            raise UserError("--perplexity changes nothing in PCA: leave it out")
        return (PERPLEXITY,)
    given = options.perplexity or (PERPLEXITY,)
    least = 2 if options.method == "umap" else 1  # UMAP takes it for a number of neighbours
    if min(given) < least:
        raise UserError(
            f"--perplexity must be numbers from {least} on for {options.method}, got {min(given):g}"
        )
    return given
