"""Draw the projected query and value spaces of attention layers, and say how far the picture can be trusted.

    attngraph tsne                                               # mini-BLIP: the last self- and cross-attention
    attngraph tsne --layers 'text_decoder*' --colour role class  # every decoder layer, coloured in two ways
    attngraph tsne --layers '*.3.crossattention*' --heads 0 1    # heads apart
    attngraph tsne --perplexity 5 30 100                         # a sweep
    attngraph tsne --adapter runs/ablation/cells/pgnn/vqa/seed0  # the adapted model's points on the frozen model's map

Writes runs/tsne/{tsne-COLOUR.png,tsne-COLOUR.svg,coordinates.csv,quality.csv}. A whole layer's points are its nodes'
features after all of W_o, a head's those after its slice. With an adapter, the features that the same layer of the
adapted model gives the same nodes are placed on the map of the frozen model; in the first adapted layer these are the
same, since an adapter changes what comes after it.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from math import ceil
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from analysis.embedding import INITS, ITERATIONS, METHODS, least_points, maps, quality
from analysis.plots.embedding import COLOURS, METHOD_NAMES, draw
from analysis.points import Cloud, Points, output_matrices
from attngraph import AttentionGraph
from attngraph.errors import UserError
from experiments.files import published
from experiments.inspect.source import PATCH_NAMES, Batch, Source, add_source_arguments, open_source
from experiments.inspect.words import ROTATED, patches_of, words_of

OWN = (
    "coordinates.csv",
    "quality.csv",
    *(f"{method}-*.{kind}" for method in METHODS for kind in ("png", "svg")),
)
FROZEN, ADAPTED = "frozen", "adapted"
UNKNOWN = ("", "unknown")  # labels that say nothing
MEASURED = 3000  # points; more are sampled for the measures


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``attngraph tsne``."""
    add_source_arguments(parser, Path("runs/tsne"))
    parser.add_argument(
        "--points", type=int, default=3000, help="of each map, at most (default: %(default)s)"
    )
    parser.add_argument(
        "--method", choices=METHODS, default="tsne", help="default: %(default)s; umap needs umap-learn"
    )
    parser.add_argument(
        "--perplexity",
        type=float,
        nargs="+",
        default=[30],
        metavar="P",
        help="how many neighbours count, one map for each (default: 30); UMAP's number of neighbours",
    )
    parser.add_argument(
        "--map-seeds", type=int, nargs="+", metavar="SEED", help="a map for each (default: --seed)"
    )
    parser.add_argument(
        "--init", choices=INITS, default="pca", help="where the maps start (default: %(default)s)"
    )
    parser.add_argument(
        "--colour", nargs="+", choices=COLOURS, default=["role"], help="a figure for each (default: role)"
    )
    parser.epilog = (
        "Without --layers: the last cross-attention layer and the self-attention layer before it; "
        "--layers '*' takes all. Without --heads a layer's heads are one space, as after W_o; with it "
        "each head has its own map."
    )


def run(args: argparse.Namespace) -> int:
    """``attngraph tsne``."""
    _check(args)
    sources = {FROZEN: open_source(argparse.Namespace(**vars(args) | {"adapter": None}))}
    if args.adapter is not None:
        sources[ADAPTED] = open_source(args)
    source = sources[FROZEN]
    clouds, rotated = _gather(sources, args)
    _check_clouds(clouds[FROZEN], args)
    table, measures = _maps(clouds, args)

    title, notes = (
        f"{source.title}: projected query and value space",
        list(_notes(clouds, measures, args, rotated)),
    )
    with published(args.out, OWN) as out:
        table.to_csv(out / "coordinates.csv", index=False, float_format="%.5f")
        measures.to_csv(out / "quality.csv", index=False, float_format="%.5f")
        for colour in args.colour:
            paths = [out / f"{args.method}-{colour}.{kind}" for kind in ("png", "svg")]
            draw(table, measures, paths, colour, title, notes)
    print(_summary(table, measures))
    source.report_skipped()
    print(
        f"written: {args.out}/coordinates.csv, quality.csv, "
        + ", ".join(f"{args.method}-{colour}.png and .svg" for colour in args.colour)
    )
    return 0


def _check(args: argparse.Namespace) -> None:
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
    if not all(0 <= seed < 2**32 for seed in seeds):
        raise UserError(f"--map-seeds must lie in 0..{2**32 - 1}, got {' '.join(map(str, seeds))}")
    args.map_seeds = seeds
    for name in ("map_seeds", "perplexity", "colour", "heads"):  # each once
        given = getattr(args, name)
        setattr(args, name, None if given is None else list(dict.fromkeys(given)))


def _gather(sources: dict[str, Source], args: argparse.Namespace) -> tuple[dict[str, list[Cloud]], list[str]]:
    """The points of the frozen model and, with an adapter, those of the adapted model on the same inputs; and the layers
    whose queries could be read only with rotary positions in them."""
    layers = args.layers or _default_layers(sources[FROZEN])
    outputs, clouds, rotated = output_matrices(sources[FROZEN].model), {}, {}
    for state, source in sources.items():
        source.layers, parts, points = (
            layers,
            Counter(),
            Points(args.points, args.seed, source.heads, outputs),
        )
        for batch, graphs in tqdm(
            source.graphs(), f"reading layers ({state})", ceil(len(source) / source.batch), leave=False
        ):
            for layer, graph in graphs.items():
                rotated |= {layer: None} if graph.rotated else {}
                (query, some), (value, others) = (_labels(batch, graph, side) for side in (0, 1))
                names, b = batch.names, graph.shape[0]
                if b != len(names):  # image encoders that see parts of pictures
                    names = [f"part {parts[layer] + k + 1}" for k in range(b)]
                    parts[layer] += b
                points.add(layer, graph, names, query, value, some, others)
        clouds[state] = points.clouds()
    return clouds, list(rotated)


def _default_layers(source: Source) -> list[str]:
    """The last cross-attention layer and the self-attention layer before it; without cross-attention the last layer."""
    first = Source(source.model, source.encoder, source.items, source.title, batch=1, device=source.device)
    _, graphs = next(first.graphs())
    names = [name.partition("#")[0] for name in graphs]
    kinds = [graph.kind for graph in graphs.values()]
    if "cross" not in kinds:
        return names[-1:]
    last = len(kinds) - 1 - kinds[::-1].index("cross")
    return [name for name, kind in list(zip(names, kinds))[:last] if kind == "self"][-1:] + [names[last]]


def _labels(batch: Batch, graph: AttentionGraph, side: int) -> tuple[dict[str, np.ndarray], torch.Tensor]:
    """Tokens and classes of the query (0) or value nodes (1), and which of them are no padding."""
    shape = graph.shape[0], graph.shape[2 + side]
    image, words, patches = (
        graph.is_image()[side],
        words_of(batch, graph, side),
        patches_of(batch, graph, side),
    )
    token, kind = np.full((2, *shape), "", dtype=object)
    valid = torch.ones(shape, dtype=torch.bool)
    if image is not None:
        image = image.cpu().numpy()
        kind[image] = "image"
        if patches is not None:
            kind[image] = np.array([*PATCH_NAMES, "image's [CLS]"], dtype=object)[
                patches.numpy()[image]
            ]  # -1 is the last
    if words is not None:
        there, token, valid = words.there.numpy(), words.tokens, ~words.padding
        kind[there] = np.where(words.special.numpy()[there], "special token", "word")
    return {"token": token, "class": kind}, valid


def _check_clouds(clouds: list[Cloud], args: argparse.Namespace) -> None:
    perplexity = max(args.perplexity)
    least = least_points(args.method, perplexity)
    for cloud in clouds:
        if len(cloud.nodes) < least:
            layer = cloud.nodes.layer.iloc[0] if len(cloud.nodes) else "a layer"
            remedy = "" if args.method == "pca" else ", or a lower --perplexity"
            raise UserError(
                f"{layer} gives {len(cloud.nodes)} points, too few for a map with perplexity "
                f"{perplexity:g}, which needs {least}: give more --examples or --points{remedy}"
            )
    for colour in args.colour:
        if all(cloud.nodes[colour].isin(UNKNOWN).all() for cloud in clouds):
            raise UserError(
                f"--colour {colour}: nothing is known about it here; choose among {', '.join(COLOURS)}"
            )


def _maps(clouds: dict[str, list[Cloud]], args: argparse.Namespace) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Coordinates and measures of all maps."""
    each = 1 if args.method == "pca" else len(args.perplexity) * len(args.map_seeds)
    steps = ITERATIONS if args.method == "tsne" else 1
    tables, measures, number, panel = [], [], 0, 0
    with tqdm(
        total=steps * each * len(clouds[FROZEN]), desc=f"{METHOD_NAMES[args.method]} maps", unit="step"
    ) as bar:
        for k, cloud in enumerate(clouds[FROZEN]):
            for found in maps(
                cloud.features,
                args.method,
                args.perplexity,
                args.map_seeds,
                args.init,
                torch.get_num_threads(),
                bar.update,
            ):
                for state, there in clouds.items():
                    here = found.coordinates if state == FROZEN else found.place(there[k].features)
                    keys = {
                        "map": number,
                        "panel": panel,
                        "state": state,
                        "method": args.method,
                        "perplexity": found.perplexity,
                        "seed": found.seed,
                    }
                    nodes = there[k].nodes
                    tables.append(nodes.assign(x=here[:, 0], y=here[:, 1], **keys))
                    labels = {
                        label: nodes[label].mask(nodes[label].isin(UNKNOWN), None)
                        for label in dict.fromkeys(["role", *args.colour])
                    }
                    told = nodes.iloc[0][["layer", "kind", "head"]].to_dict() | keys
                    measured = quality(there[k].features, here, labels, most=MEASURED, seed=args.seed)
                    measures.append(measured.assign(**told))
                    panel += 1
                number += 1
                if args.method != "tsne":
                    bar.update()
    return pd.concat(tables, ignore_index=True), pd.concat(measures, ignore_index=True)


def _notes(
    clouds: dict[str, list[Cloud]], measures: pd.DataFrame, args: argparse.Namespace, rotated: list[str]
) -> Iterator[str]:
    if args.method == "pca":
        yield (
            "The two directions of most variance of each layer's or head's own points: what lies close here may lie "
            "apart in others."
        )
    else:
        yield (
            "Each layer, head and setting has a map of its own. Distances between groups, their sizes and densities "
            "are not those of V̂ = [Q Wq; V Wv] Wo, and groups that stand apart are not yet heterophily: that is a "
            "matter of which nodes the edges join."
        )
    yield (
        f"kNN purity: share of the {measures.neighbours.max()} nearest neighbours with the same label, in V̂ itself "
        "and on the map; chance: labels dealt out at random."
        + (
            f" Measured on a random {MEASURED:,} of the points."
            if measures.measured.max() == MEASURED
            else ""
        )
    )
    if ADAPTED in clouds:
        yield (
            "Adapted: where the same nodes of the adapted model belong on the frozen model's map, each placed for "
            "itself among the frozen points; one that has not changed is placed near where it was, not quite there."
        )
    plain = dict.fromkeys(cloud.nodes.layer.iloc[0] for cloud in clouds[FROZEN] if not cloud.projected)
    if rotated:
        yield f"{', '.join(rotated)}: {ROTATED}."
    if plain:
        yield f"No output projection was found in {', '.join(plain)}: distances there are those before Wo."


def _summary(table: pd.DataFrame, measures: pd.DataFrame) -> str:
    """The measures on screen, a line for each panel."""
    lines = []
    for panel, some in measures.groupby("panel", sort=False):
        about = some.iloc[0]
        words = [about.layer, "all heads" if about["head"] == "all" else f"head {about['head']}"]
        words += [about.state] if measures.state.nunique() > 1 else []
        words += [
            f"{name} {about[name]:g}" for name in ("perplexity", "seed") if measures[name].nunique() > 1
        ]
        lines.append(f"{', '.join(words)}: {(table.panel == panel).sum():,} points")
        trust = some[some.measure == "trustworthiness"].iloc[0]
        lines.append(f"  trustworthiness {trust.value:.3f} (random map {trust.chance:.1f})")
        for label, pair in some[some.measure == "purity"].groupby("label", sort=False):
            value = pair.set_index("space").value
            lines.append(
                f"  kNN purity by {label}: {value['features']:.3f} in V̂, {value['map']:.3f} on the map, "
                f"{pair.chance.iloc[0]:.3f} by chance"
            )
    return "\n".join(lines)
