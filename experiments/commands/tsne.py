"""Plot the projected query and value spaces of attention layers, with measures of the maps' quality.

The points of a whole layer are its nodes' features after all of W_o, those of a head the features after its
slice of W_o. With an adapter, the features of the same nodes in the same layer of the adapted model are
placed on the map of the frozen model. In the first adapted layer they are identical, since an adapter only
affects later layers.
"""

from __future__ import annotations

from dataclasses import replace

from attngraph.analysis.embedding import METHODS
from attngraph.analysis.plots.embedding import METHOD_NAMES, draw
from attngraph.analysis.plots.style import files
from attngraph.errors import UserError
from attngraph.experiments.base.outputs import Outputs
from attngraph.experiments.commands.options import TsneOptions
from attngraph.experiments.inspect.points import ADAPTED, FROZEN, check_clouds, embed, gather_points, notes
from attngraph.experiments.inspect.source import open_source, settings_of
from attngraph.extras import require

TABLE, QUALITY = "coordinates.csv", "quality.csv"
NAMES = (TABLE, QUALITY, *(name for method in METHODS for name in files(f"{method}-*")))
PERPLEXITY = 30  # where none is given
SHOWN = ["layer", "head", "state", "perplexity", "measure", "label", "space", "value", "chance"]


def run(options: TsneOptions) -> int:
    """``attngraph tsne``."""
    method, colours = options.method, options.colour
    require(*{"tsne": ("openTSNE",), "umap": ("umap",)}.get(method, ()))
    options = replace(options, perplexity=_perplexities(options))
    outputs = Outputs(options.out, "tsne", settings_of(options), NAMES)
    with outputs.alone():
        sources = {FROZEN: open_source(replace(options, adapter=None))}
        if options.adapter is not None:
            sources[ADAPTED] = open_source(options)
        source = sources[FROZEN]
        clouds, rotated = gather_points(sources, source.layers, options.points, options.seed)
        check_clouds(clouds[FROZEN], method, options.perplexity)
        table, measures = embed(clouds, method, options.perplexity, colours, options.seed)

        written = [TABLE, QUALITY]
        with outputs.writing() as out:
            table.to_csv(out / TABLE, index=False, float_format="%.5f")
            measures.to_csv(out / QUALITY, index=False, float_format="%.5f")
            for colour in colours:
                subject = (
                    f"{source.title}: {METHOD_NAMES[method]} of projected queries and values, by {colour}."
                )
                about = list(notes(clouds, measures, method, rotated))
                draw(table, measures, out / f"{method}-{colour}", colour, subject, about)
                written.append(f"{method}-{colour}.png")
    print(measures[SHOWN].fillna("").to_string(index=False, float_format="{:.3f}".format))
    print(f"written: {options.out}/{', '.join(written)}")
    return 0


def _perplexities(options: TsneOptions) -> tuple[float, ...]:
    """The given perplexities, or the default; an error for values without a map."""
    if options.method == "pca":
        if options.perplexity:
            raise UserError("--perplexity has no effect on PCA: remove it")
        return (PERPLEXITY,)
    given = options.perplexity or (PERPLEXITY,)
    least = 2 if options.method == "umap" else 1  # UMAP takes it for a number of neighbours
    if min(given) < least:
        raise UserError(f"--perplexity must be at least {least} for {options.method}, got {min(given):g}")
    return given
