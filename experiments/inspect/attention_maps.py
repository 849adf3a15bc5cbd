"""Attention maps of all samples, and how much of each lies on the object that is asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil

import pandas as pd
from torch import Tensor

from analysis.maps import map_table, mass_table
from analysis.viewer import ViewerExample
from attngraph.errors import UserError
from experiments.inspect.questions import region
from experiments.inspect.source import Source
from experiments.inspect.viewer_examples import viewer_example
from experiments.inspect.views import read_view
from experiments.progress import Progress
from experiments.scenes.scene import Thing


@dataclass
class AttentionMaps:
    """Maps and masses. The mass is that of all samples; names, maps, regions and shown are of the first ones
    only.

    Args:
        names: of samples.
        maps, mass: tables, see :mod:`analysis.maps`.
        regions: ``{name: bool (patches,)}``, where the object is that was asked for.
        shown: what the viewer gets.
        last: the layer that raw attention is read from.
        looker: which node of the image looks at it; empty where a text's tokens do.
        scored: whether the model gives a score, of which relevance takes the gradient.
    """

    names: list[str] = field(default_factory=list)
    maps: pd.DataFrame = field(default_factory=pd.DataFrame)
    mass: pd.DataFrame = field(default_factory=pd.DataFrame)
    regions: dict[str, Tensor] = field(default_factory=dict)
    shown: list[ViewerExample] = field(default_factory=list)
    last: str = ""
    looker: str = ""
    scored: bool = True


def collect_maps(
    source: Source, tokens: list[str] | None, things: Mapping[str, Thing], pictures: int
) -> AttentionMaps:
    """Maps of all samples of a source, one per method and token, and their mass inside ``things``.

    Args:
        source: a model and its samples.
        tokens: whose maps; None for the first, and the one before the answer where that is known, or else a
            decoder's last.
        things: ``{sample's name: object}``.
        pictures: how many samples are drawn.
    """
    result, tables, masses, occurrences = AttentionMaps(), [], [], Counter()
    batches = ceil(len(source) / source.batch_size)
    for batch in Progress(source.batches(), "reading maps", batches, leave=False):
        if batch.pictures is None:
            raise UserError("attention maps need images: give --images, and a model that looks at them")
        view = read_view(source, batch, tokens, result.scored)
        result.last, result.looker = view.last, view.looker
        result.scored = any(method == "gradient" for method, _ in view.values)
        for k, name in enumerate(batch.names):
            values = {key: nodes[k][view.image[k]][None] for key, nodes in view.values.items()}
            grid = view.grids[k][:2]
            name, thing = _numbered(name, occurrences), things.get(name)
            inside = None
            if thing is not None and batch.pictures.whole and grid[0] == grid[1]:
                inside = region(batch.scenes[k], thing, grid[0])
                masses.append(mass_table(values, inside[None].to(source.device), [name], grid))
            if len(result.names) < pictures:
                result.names.append(name)
                tables.append(map_table(values, [name], grid))
                result.shown.append(viewer_example(name, batch, view, k))
                if inside is not None:
                    result.regions[name] = inside
        if not masses and len(result.names) == pictures:
            break
    result.maps = pd.concat(tables, ignore_index=True)
    if masses:
        result.mass = pd.concat(masses, ignore_index=True)
    return result


def _numbered(name: str, occurrences: Counter[str]) -> str:
    """Names of samples that occur again (files in several folders) get a number."""
    occurrences[name] += 1
    return name if occurrences[name] == 1 else f"{name} #{occurrences[name]}"
