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
from experiments.arguments import seed
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``attngraph tsne``."""
    add_source_arguments(
        parser,
        Path("runs/tsne"),
        layers="the last cross-attention layer and the self-attention layer before it",
        heads="all in one space, as after W_o",
    )
    parser.add_argument("--points", type=int, default=3000, help="Draw at most this many points on each map.")
    parser.add_argument(
        "--method",
        choices=METHODS,
        default="tsne",
        help="Make the maps by this method; umap needs the package umap-learn.",
    )
    parser.add_argument(
        "--perplexity",
        type=float,
        nargs="+",
        default=[30],
        metavar="P",
        help="Make a map for each of these perplexities: how many neighbours count, UMAP's number of "
        "neighbours.",
    )
    parser.add_argument(
        "--map-seeds",
        type=seed,
        nargs="+",
        metavar="SEED",
        help="Make a map for each of these seeds. Default: that of --seed.",
    )
    parser.add_argument(
        "--init", choices=INITS, default="pca", help="Start the maps from principal components or at random."
    )
    parser.add_argument(
        "--colour",
        nargs="+",
        choices=COLOURS,
        default=["role"],
        help="Draw a figure for each of these labels.",
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
    if not all(1 <= perplexity < float("inf") for perplexity in args.perplexity):
        raise UserError(
            f"--perplexity must be numbers from 1 on, got {' '.join(f'{p:g}' for p in args.perplexity)}"
        )
    if args.method == "umap" and round(min(args.perplexity)) < 2:
        raise UserError(
            f"--perplexity must be at least 2 for umap, which takes it for a number of neighbours, got "
            f"{min(args.perplexity):g}"
        )
    seeds = [args.seed] if args.map_seeds is None else args.map_seeds
    args.heads = None if args.heads is None else _each_once(args.heads)
    perplexities, seeds, colours = (_each_once(values) for values in (args.perplexity, seeds, args.colour))
    return MapSettings(args.method, perplexities, seeds, args.init, colours, args.seed)


def _each_once(values: list) -> list:
    return list(dict.fromkeys(values))
