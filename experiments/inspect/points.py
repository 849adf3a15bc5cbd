"""The nodes of attention layers as points, their maps in the plane, and measures of the maps' quality."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from attngraph import AttentionGraph
from attngraph.analysis.embedding import least_points, maps, quality
from attngraph.analysis.plots.embedding import METHOD_NAMES
from attngraph.analysis.points import Cloud, Points, output_matrices
from attngraph.errors import UserError
from attngraph.experiments.base.progress import Progress
from attngraph.experiments.inspect.source import Source
from attngraph.experiments.inspect.words import PATCH_NAMES, ROTATED, patches_of, words_of
from attngraph.experiments.models.batch import Batch

FROZEN, ADAPTED = "frozen", "adapted"
UNKNOWN = ("", "unknown")  # labels that say nothing
MEASURED = 3000  # points; more are sampled for the measures


def gather_points(
    sources: Mapping[str, Source], layers: list[str] | None, limit: int, seed: int
) -> tuple[dict[str, list[Cloud]], list[str]]:
    """The points of the frozen model and, with an adapter, those of the adapted model on the same inputs.

    Args:
        sources: ``{state: source}``, the frozen model's first.
        layers: names or patterns; None for the last cross-attention and the self-attention before it.
        limit: maximum number of points of each layer or head.
        seed: seed of the choice of points.

    Returns:
        The clouds of each state, and the layers whose queries were read with rotary positions.
    """
    layers = layers or default_layers(sources[FROZEN])
    outputs, clouds, rotated = output_matrices(sources[FROZEN].model), {}, {}
    for state, source in sources.items():
        source.layers = layers
        parts, points = Counter(), Points(limit, seed, source.heads, outputs)
        for batch, graphs in source.graphs(f"reading layers ({state})"):
            for layer, graph in graphs.items():
                rotated |= {layer: None} if graph.rotated else {}
                (query, is_query), (value, is_value) = (node_labels(batch, graph, side) for side in (0, 1))
                names, b = batch.names, graph.shape[0]
                if b != len(names):  # image encoders that see parts of pictures
                    names = [f"part {parts[layer] + k + 1}" for k in range(b)]
                    parts[layer] += b
                points.add(layer, graph, names, query, value, is_query, is_value)
        clouds[state] = points.clouds()
    return clouds, list(rotated)


def default_layers(source: Source) -> list[str]:
    """The last cross-attention layer and the self-attention layer before it; without cross-attention the
    last layer."""
    _, graphs = next(replace(source, batch_size=1, layers=None, heads=None).graphs())
    names = [name.partition("#")[0] for name in graphs]
    kinds = [graph.kind for graph in graphs.values()]
    if "cross" not in kinds:
        return names[-1:]
    last = len(kinds) - 1 - kinds[::-1].index("cross")
    return [name for name, kind in list(zip(names, kinds))[:last] if kind == "self"][-1:] + [names[last]]


def node_labels(batch: Batch, graph: AttentionGraph, side: int) -> tuple[dict[str, np.ndarray], Tensor]:
    """Tokens and classes of the query (0) or value nodes (1), and whether they are not padding."""
    shape = graph.shape[0], graph.shape[2 + side]
    image, words = graph.is_image()[side], words_of(batch, graph, side)
    patches = patches_of(batch, graph, side)
    token, kind = np.full((2, *shape), "", dtype=object)
    valid = torch.ones(shape, dtype=torch.bool)
    if image is not None:
        image = image.cpu().numpy()
        kind[image] = "image"
        if patches is not None:
            names = np.array([*PATCH_NAMES, "image's [CLS]"], dtype=object)  # the last has number -1
            kind[image] = names[patches.numpy()[image]]
    if words is not None:
        is_token, token, valid = words.is_token.numpy(), words.tokens, ~words.padding
        kind[is_token] = np.where(words.special.numpy()[is_token], "special token", "word")
    return {"token": token, "class": kind}, valid


def check_clouds(clouds: Sequence[Cloud], method: str, perplexities: Sequence[float]) -> None:
    """Raise :class:`~attngraph.errors.UserError` if a cloud is too small for a map."""
    least = least_points(method, max(perplexities))
    for cloud in clouds:
        if len(cloud.nodes) < least:
            layer = cloud.nodes.layer.iloc[0] if len(cloud.nodes) else "a layer"
            raise UserError(
                f"{layer} has {len(cloud.nodes)} points, too few for a map, which needs {least}: use more "
                "--examples or --points, or a lower --perplexity"
            )


def embed(
    clouds: Mapping[str, Sequence[Cloud]],
    method: str,
    perplexities: Sequence[float],
    colours: Sequence[str],
    seed: int,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Coordinates and measures of all maps.

    Args:
        clouds: ``{state: clouds}``; the maps are those of the frozen state, and the points of the other state
            are placed on them.
        method: see :mod:`attngraph.analysis.embedding`.
        perplexities: perplexities, with a map for each.
        colours: labels for the colours of figures and for purity.
        seed: seed of the maps, and of the sample of points for the measures.
    """
    tables, measures, number = [], [], 0
    for k, cloud in enumerate(Progress(clouds[FROZEN], f"{METHOD_NAMES[method]} maps")):
        for one in maps(cloud.features, method, perplexities, [seed], jobs=torch.get_num_threads()):
            for state, of_state in clouds.items():
                keys = {"map": number, "panel": len(tables), "state": state, "method": method}
                keys |= {"perplexity": one.perplexity, "seed": one.seed}
                features, nodes = of_state[k].features, of_state[k].nodes
                points = one.coordinates if state == FROZEN else one.place(features)
                tables.append(nodes.assign(x=points[:, 0], y=points[:, 1], **keys))
                labels = {
                    label: nodes[label].mask(nodes[label].isin(UNKNOWN), None)
                    for label in dict.fromkeys(["role", *colours])
                }
                measured = quality(features, points, labels, most=MEASURED, seed=seed)
                about = nodes.iloc[0][["layer", "kind", "head"]].to_dict()
                measures.append(measured.assign(**about, **keys))
            number += 1
    return pd.concat(tables, ignore_index=True), pd.concat(measures, ignore_index=True)


def notes(
    clouds: Mapping[str, Sequence[Cloud]], measures: pd.DataFrame, method: str, rotated: Sequence[str]
) -> Iterator[str]:
    """Notes for the reader of the figures; ``rotated``: layers whose queries could be read only with rotary
    positions."""
    if method == "pca":
        yield (
            "The two directions of largest variance of each layer's or head's points: points that are close "
            "here may be far apart in other directions."
        )
    else:
        yield (
            "Each layer, head and setting has a separate map. Distances between groups, their sizes and "
            "densities are not those of V̂ = [Q Wq; V Wv] Wo, and separate groups are not evidence of "
            "heterophily, which depends on the edges."
        )
    sampled = any(len(cloud.nodes) > MEASURED for of_state in clouds.values() for cloud in of_state)
    yield (
        f"kNN purity: fraction of the {measures.neighbours.max()} nearest neighbours with the same label, in "
        "V̂ and on the map; chance: permuted labels."
        + (f" Measured on a random {MEASURED:,} of the points." if sampled else "")
    )
    if ADAPTED in clouds:
        yield (
            "Adapted: the same nodes in the adapted model, each placed separately on the frozen model's map; "
            "a node that has not changed is placed near its position there, not exactly at it."
        )
    plain = dict.fromkeys(cloud.nodes.layer.iloc[0] for cloud in clouds[FROZEN] if not cloud.projected)
    if rotated:
        yield f"{', '.join(rotated)}: {ROTATED}."
    if plain:
        yield f"No output projection was found in {', '.join(plain)}: distances there are before Wo."
