"""Maps of clouds of points, and measures of how far they can be trusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch

from analysis.embedding import ITERATIONS, least_points, maps, quality
from analysis.plots.embedding import COLOURS, METHOD_NAMES
from analysis.points import Cloud
from attngraph.errors import UserError
from experiments.inspect.point_clouds import FROZEN
from experiments.progress import Progress

UNKNOWN = ("", "unknown")  # labels that say nothing
MEASURED = 3000  # points; more are sampled for the measures


@dataclass(frozen=True)
class MapSettings:
    """What maps to make.

    Args:
        method: see :mod:`analysis.embedding`.
        perplexities, seeds: a map for each pair.
        init: where they start.
        colours: labels by which the figures are coloured, and purity is measured.
        seed: of the points that are measured.
    """

    method: str
    perplexities: Sequence[float]
    seeds: Sequence[int]
    init: str
    colours: Sequence[str]
    seed: int

    @property
    def maps_of_each(self) -> int:
        """How many maps each cloud gets."""
        return 1 if self.method == "pca" else len(self.perplexities) * len(self.seeds)


def check_clouds(clouds: Sequence[Cloud], settings: MapSettings) -> None:
    """Refuse clouds that are too small for a map, and colours about which nothing is known.

    Raises:
        UserError: with the remedy.
    """
    perplexity = max(settings.perplexities)
    least = least_points(settings.method, perplexity)
    for cloud in clouds:
        if len(cloud.nodes) < least:
            layer = cloud.nodes.layer.iloc[0] if len(cloud.nodes) else "a layer"
            is_pca = settings.method == "pca"
            kind, remedy = (
                ("", "") if is_pca else (f" with perplexity {perplexity:g}", ", or a lower --perplexity")
            )
            raise UserError(
                f"{layer} gives {len(cloud.nodes)} points, too few for a map{kind}, which needs {least}: "
                f"give more --examples or --points{remedy}"
            )
    for colour in settings.colours:
        if all(cloud.nodes[colour].isin(UNKNOWN).all() for cloud in clouds):
            raise UserError(
                f"--colour {colour}: nothing is known about it here; choose among {', '.join(COLOURS)}"
            )


def embed(clouds: Mapping[str, Sequence[Cloud]], settings: MapSettings) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Coordinates and measures of all maps.

    Args:
        clouds: ``{state: clouds}``; the maps are those of the frozen state, the others' points are placed on
            them.
        settings: what maps.
    """
    steps = ITERATIONS if settings.method == "tsne" else 1
    total = steps * settings.maps_of_each * len(clouds[FROZEN])
    tables, measures, number = [], [], 0
    with Progress(total=total, desc=f"{METHOD_NAMES[settings.method]} maps", unit="step") as bar:
        for k, cloud in enumerate(clouds[FROZEN]):
            for one_map in maps(
                cloud.features,
                settings.method,
                settings.perplexities,
                settings.seeds,
                settings.init,
                torch.get_num_threads(),
                bar.update,
            ):
                for state, of_state in clouds.items():
                    keys = {
                        "map": number,
                        "panel": len(tables),
                        "state": state,
                        "method": settings.method,
                        "perplexity": one_map.perplexity,
                        "seed": one_map.seed,
                    }
                    features, nodes = of_state[k].features, of_state[k].nodes
                    points = one_map.coordinates if state == FROZEN else one_map.place(features)
                    tables.append(nodes.assign(x=points[:, 0], y=points[:, 1], **keys))
                    labels = {
                        label: nodes[label].mask(nodes[label].isin(UNKNOWN), None)
                        for label in dict.fromkeys(["role", *settings.colours])
                    }
                    measured = quality(features, points, labels, most=MEASURED, seed=settings.seed)
                    about = nodes.iloc[0][["layer", "kind", "head"]].to_dict()
                    measures.append(measured.assign(**about, **keys))
                number += 1
                if settings.method != "tsne":
                    bar.update()
    return pd.concat(tables, ignore_index=True), pd.concat(measures, ignore_index=True)
