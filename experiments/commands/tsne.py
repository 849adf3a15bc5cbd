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

from analysis.embedding import METHODS
from analysis.plots.embedding import COLOURS, draw
from attngraph.errors import UserError
from experiments.base.arguments import LARGEST, Between, EachOnce
from experiments.base.outputs import Outputs
from experiments.inspect.points import ADAPTED, FROZEN, check_clouds, embed, gather_points, notes, summary
from experiments.inspect.source import add_source_arguments, open_source, settings_of

NAMES = (
    "coordinates.csv",
    "quality.csv",
    *(f"{method}-*.{kind}" for method in METHODS for kind in ("png", "svg")),
)
PERPLEXITY = 30  # where none is given


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``attngraph tsne``."""
    add_source_arguments(
        parser,
        Path("runs/tsne"),
        layers="the last cross-attention layer and the self-attention layer before it",
        heads="all in one space, as after W_o",
    )
    parser.add_argument(
        "--points",
        type=Between(3, LARGEST),
        default=3000,
        metavar="N",
        help="Draw at most this many points on each map.",
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
    _check(args)
    outputs = Outputs(args.out, "tsne", settings_of(args), NAMES)
    with outputs.alone():
        return _draw(args, outputs)


def _draw(args: argparse.Namespace, outputs: Outputs) -> int:
    """Draw into a folder that is checked."""
    sources = {FROZEN: open_source(argparse.Namespace(**vars(args) | {"adapter": None}))}
    if args.adapter is not None:
        sources[ADAPTED] = open_source(args)
    source = sources[FROZEN]
    perplexities = args.perplexity or [PERPLEXITY]
    clouds, rotated = gather_points(sources, args.layers, args.points, args.seed)
    check_clouds(clouds[FROZEN], args.method, perplexities, args.colour)
    table, measures = embed(clouds, args.method, perplexities, args.colour, args.seed)

    title = f"{source.title}: projected query and value space"
    lines = list(notes(clouds, measures, args.method, rotated))
    with outputs.writing() as out:
        table.to_csv(out / "coordinates.csv", index=False, float_format="%.5f")
        measures.to_csv(out / "quality.csv", index=False, float_format="%.5f")
        for colour in args.colour:
            paths = [out / f"{args.method}-{colour}.{kind}" for kind in ("png", "svg")]
            draw(table, measures, paths, colour, title, lines)
    print(summary(table, measures))
    source.report_skipped()
    figures = ", ".join(f"{args.method}-{colour}.png and .svg" for colour in args.colour)
    print(f"written: {args.out}/coordinates.csv, quality.csv, {figures}")
    return 0


def _check(args: argparse.Namespace) -> None:
    """Refuse perplexities that make no map; without any, the default's name goes into the settings."""
    if args.method == "pca":
        if args.perplexity is not None:
            raise UserError("--perplexity changes nothing in PCA: leave it out")
        return
    args.perplexity = args.perplexity or [PERPLEXITY]
    least = 2 if args.method == "umap" else 1  # UMAP takes it for a number of neighbours
    if not all(least <= perplexity < float("inf") for perplexity in args.perplexity):
        raise UserError(
            f"--perplexity must be numbers from {least} on for {args.method}, got "
            f"{' '.join(f'{perplexity:g}' for perplexity in args.perplexity)}"
        )
