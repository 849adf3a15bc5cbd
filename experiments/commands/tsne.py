"""Draw the projected query and value spaces of attention layers, and say how far the picture can be trusted::

    attngraph tsne                                             # mini-BLIP: its last self- and cross-layer
    attngraph tsne --layers 'text_decoder*' --colour role class --out runs/all     # every decoder layer
    attngraph tsne --layers '*.3.crossattention*' --heads 0 1 --out runs/heads     # heads apart
    attngraph tsne --perplexity 5 30 100 --out runs/sweep
    attngraph tsne --adapter runs/ablation-quick/cells/pgnn/vqa/seed0 --out runs/pgnn  # on the frozen map

Writes ``tsne-COLOUR.png``, ``tsne-COLOUR.svg``, ``coordinates.csv`` and ``quality.csv`` to ``runs/tsne``. A
whole layer's points are its nodes' features after all of W_o, a head's those after its slice. With an
adapter, the features that the same layer of the adapted model gives the same nodes are placed on the map of
the frozen model; in the first adapted layer these are the same, since an adapter changes what comes after it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from analysis.embedding import INITS, METHODS
from analysis.plots.embedding import COLOURS, draw
from attngraph.errors import UserError
from experiments.arguments import EachOnce, seed
from experiments.inspect.embedding_maps import MapSettings, check_clouds, embed
from experiments.inspect.embedding_report import notes, summary
from experiments.inspect.options import add_source_arguments, open_source, settings_of
from experiments.inspect.point_clouds import ADAPTED, FROZEN, gather_points
from experiments.outputs import Outputs

NAMES = (
    "coordinates.csv",
    "quality.csv",
    *(f"{method}-*.{kind}" for method in METHODS for kind in ("png", "svg")),
)


PERPLEXITY, INIT = 30, "pca"  # where none is given


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``attngraph tsne``."""
    add_source_arguments(
        parser,
        Path("runs/tsne"),
        layers="the last cross-attention layer and the self-attention layer before it",
        heads="all in one space, as after W_o",
    )
    parser.add_argument(
        "--points", type=int, default=3000, metavar="N", help="Draw at most this many points on each map."
    )
    parser.add_argument(
        "--method",
        choices=METHODS,
        default="tsne",
        metavar="NAME",
        help=f"Make the maps by this method: {', '.join(METHODS)}; umap needs the package umap-learn.",
    )
    parser.add_argument(
        "--perplexity",
        type=float,
        nargs="+",
        action=EachOnce,
        metavar="P",
        help="Make a map for each of these perplexities: how many neighbours count, UMAP's number of "
        f"neighbours. Default: {PERPLEXITY}.",
    )
    parser.add_argument(
        "--map-seeds",
        type=seed,
        nargs="+",
        action=EachOnce,
        metavar="N",
        help="Make a map for each of these seeds. Default: that of --seed.",
    )
    parser.add_argument(
        "--init",
        choices=INITS,
        metavar="START",
        help=f"Start the maps from principal components (pca) or at random (random). Default: {INIT}.",
    )
    parser.add_argument(
        "--colour",
        nargs="+",
        action=EachOnce,
        choices=COLOURS,
        default=["role"],
        metavar="LABEL",
        help=f"Draw a figure for each of these labels: {', '.join(COLOURS)}.",
    )
    parser.epilog = "--layers '*' takes all layers. With --heads, each head has a map of its own."


def run(args: argparse.Namespace) -> int:
    """``attngraph tsne``."""
    settings = _settings(args)
    outputs = Outputs(args.out, "tsne", settings_of(args), NAMES)
    with outputs.alone():
        return _draw(args, settings, outputs)


def _draw(args: argparse.Namespace, settings: MapSettings, outputs: Outputs) -> int:
    """Draw into a folder that is checked."""
    sources = {FROZEN: open_source(argparse.Namespace(**vars(args) | {"adapter": None}))}
    if args.adapter is not None:
        sources[ADAPTED] = open_source(args)
    source = sources[FROZEN]
    clouds, rotated = gather_points(sources, args.layers, args.points, args.seed)
    check_clouds(clouds[FROZEN], settings)
    table, measures = embed(clouds, settings)

    title = f"{source.title}: projected query and value space"
    lines = list(notes(clouds, measures, settings.method, rotated))
    with outputs.writing() as out:
        table.to_csv(out / "coordinates.csv", index=False, float_format="%.5f")
        measures.to_csv(out / "quality.csv", index=False, float_format="%.5f")
        for colour in settings.colours:
            paths = [out / f"{settings.method}-{colour}.{kind}" for kind in ("png", "svg")]
            draw(table, measures, paths, colour, title, lines)
    print(summary(table, measures))
    source.report_skipped()
    figures = ", ".join(f"{settings.method}-{colour}.png and .svg" for colour in settings.colours)
    print(f"written: {args.out}/coordinates.csv, quality.csv, {figures}")
    return 0


def _settings(args: argparse.Namespace) -> MapSettings:
    if args.points < 3:
        raise UserError(f"--points must be at least 3, got {args.points}")
    if args.method == "pca":
        for name in ("perplexity", "map_seeds", "init"):
            if getattr(args, name) is not None:
                raise UserError(f"--{name.replace('_', '-')} changes nothing in PCA: leave it out")
    else:
        args.perplexity, args.init = args.perplexity or [PERPLEXITY], args.init or INIT
    perplexities, seeds = args.perplexity or [PERPLEXITY], args.map_seeds or [args.seed]
    if not all(1 <= perplexity < float("inf") for perplexity in perplexities):
        raise UserError(
            f"--perplexity must be numbers from 1 on, got {' '.join(f'{p:g}' for p in perplexities)}"
        )
    if args.method == "umap" and round(min(perplexities)) < 2:
        raise UserError(
            f"--perplexity must be at least 2 for umap, which takes it for a number of neighbours, got "
            f"{min(perplexities):g}"
        )
    return MapSettings(args.method, perplexities, seeds, args.init or INIT, args.colour, args.seed)
