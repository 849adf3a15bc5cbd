"""What is said of maps: notes below the figures, and measures on screen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import pandas as pd

from analysis.points import Cloud
from experiments.inspect.embedding_maps import MEASURED
from experiments.inspect.point_clouds import ADAPTED, FROZEN
from experiments.inspect.words import ROTATED


def notes(
    clouds: Mapping[str, Sequence[Cloud]], measures: pd.DataFrame, method: str, rotated: Sequence[str]
) -> Iterator[str]:
    """What a reader of the figures has to know.

    Args:
        clouds: ``{state: clouds}``.
        measures: of all maps.
        method: of the maps.
        rotated: layers whose queries could be read only with rotary positions in them.
    """
    if method == "pca":
        yield (
            "The two directions of most variance of each layer's or head's own points: what lies close here "
            "may lie apart in others."
        )
    else:
        yield (
            "Each layer, head and setting has a map of its own. Distances between groups, their sizes and "
            "densities are not those of V̂ = [Q Wq; V Wv] Wo, and groups that stand apart are not yet "
            "heterophily: that is a matter of which nodes the edges join."
        )
    sampled = measures.measured.max() == MEASURED
    yield (
        f"kNN purity: share of the {measures.neighbours.max()} nearest neighbours with the same label, in V̂ "
        "itself and on the map; chance: labels dealt out at random."
        + (f" Measured on a random {MEASURED:,} of the points." if sampled else "")
    )
    if ADAPTED in clouds:
        yield (
            "Adapted: where the same nodes of the adapted model belong on the frozen model's map, each "
            "placed for itself among the frozen points; one that has not changed is placed near where it "
            "was, not quite there."
        )
    plain = dict.fromkeys(cloud.nodes.layer.iloc[0] for cloud in clouds[FROZEN] if not cloud.projected)
    if rotated:
        yield f"{', '.join(rotated)}: {ROTATED}."
    if plain:
        yield f"No output projection was found in {', '.join(plain)}: distances there are those before Wo."


def summary(table: pd.DataFrame, measures: pd.DataFrame) -> str:
    """The measures on screen, a few lines for each panel."""
    lines = []
    for panel, measured in measures.groupby("panel", sort=False):
        first = measured.iloc[0]
        title = [first.layer, "all heads" if first["head"] == "all" else f"head {first['head']}"]
        title += [first.state] if measures.state.nunique() > 1 else []
        title += [
            f"{name} {first[name]:g}" for name in ("perplexity", "seed") if measures[name].nunique() > 1
        ]
        lines.append(f"{', '.join(title)}: {(table.panel == panel).sum():,} points")
        trust = measured[measured.measure == "trustworthiness"].iloc[0]
        lines.append(f"  trustworthiness {trust.value:.3f} (random map {trust.chance:.1f})")
        for label, pair in measured[measured.measure == "purity"].groupby("label", sort=False):
            value = pair.set_index("space").value
            lines.append(
                f"  kNN purity by {label}: {value['features']:.3f} in V̂, {value['map']:.3f} on the map, "
                f"{pair.chance.iloc[0]:.3f} by chance"
            )
    return "\n".join(lines)
