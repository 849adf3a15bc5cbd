r"""Potential of each arm of the study of distances on frozen checkpoints, before adapters are trained::

    python -m attngraph.experiments.studies.distances_prediction runs/distances

For each checkpoint, arm and layer of cross-attention: the mass on distractors of the weights :math:`M`, and
of :math:`M^a R^b` with the exponents, among those that the arm can learn, that minimise it. Mass is the
fraction of a query's weight on patches that do not show the named object, among all patches; means are over
words that name an object, and heads. The contrast is that of the distances of the arm
(:func:`attngraph.analysis.contrast.contrast`).

The data of the preset are generated in the folder of the table, as by ``attngraph ablation``, and
``prediction.csv`` is written there. The examples are validation images with their first captions.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from attngraph import AttentionGraph
from attngraph.analysis.contrast import Distances as Measured
from attngraph.analysis.contrast import Region
from attngraph.backends import edges_of
from attngraph.edges import rsqrt, smallest_weight
from attngraph.errors import UserError
from attngraph.experiments.base.files import check_out, write_text
from attngraph.experiments.base.progress import note
from attngraph.experiments.inspect.regions import NAMED, Regions
from attngraph.experiments.inspect.source import Source
from attngraph.experiments.models import load_family
from attngraph.experiments.models.images import open_image
from attngraph.experiments.models.weights import weights_digest
from attngraph.experiments.studies.distances import COUPLED, FREE
from attngraph.experiments.studies.reweighting import A as A_RANGE
from attngraph.experiments.studies.reweighting import B as B_RANGE
from attngraph.experiments.studies.reweighting import Distances
from attngraph.experiments.tables.grid import load_preset
from attngraph.experiments.tasks import TASKS

PRESET = Path(__file__).with_name("distances.yaml")
FILE = "prediction.csv"
IMAGES = 200
#: Exponents (a, b) to try: (p/2, p - 2) for a coupled arm, all pairs for a free one.
STEPS = 41
LINE = [(float(p / 2), float(p - 2)) for p in np.linspace(1, 3, STEPS)]
PLANE = [(float(a), float(b)) for a in np.linspace(*A_RANGE, 21) for b in np.linspace(*B_RANGE, STEPS)]


def main(argv: Sequence[str] | None = None) -> None:
    """Write the prediction of all checkpoints."""
    parser = argparse.ArgumentParser(description="Prediction of the study of distances.")
    parser.add_argument("folder", type=Path, help="Folder of the table, as of `attngraph ablation --out`.")
    parser.add_argument("--preset", default=str(PRESET), help="Preset of the table.")
    parser.add_argument("--set", dest="changes", action="append", default=[], help="Change of the preset.")
    parser.add_argument("--model", help="One model in place of the preset's checkpoints.")
    parser.add_argument("--images", type=int, default=IMAGES, help="Number of validation images.")
    args = parser.parse_args(argv)
    file = args.folder / FILE
    check_out(args.folder)
    if file.exists():
        raise UserError(f"{file} exists: move it away to predict again")
    if args.images < 1:
        raise UserError(f"--images {args.images}: use 1 or more")
    torch.set_num_threads(1)
    grid = load_preset(args.preset, args.changes)
    data = args.folder / "data"
    grid.scenes.draw(data)
    models = (
        [grid.model_of(place) for place in range(len(grid.pretrained))]
        if args.model is None
        else [args.model]
    )
    lines = []
    for model in models:
        lines += prediction(model, data, args.images)
        note(f"{model}: predicted")
    write_text(file, pd.DataFrame(lines).to_csv(index=False))


def prediction(model: str | None, data: Path, images: int = IMAGES) -> list[dict[str, Any]]:
    """The lines of one checkpoint: ``checkpoint`` (digest of its weights), ``model`` (name of its folder),
    ``arm``, ``layer``, the best ``a`` and ``b``, the ``mass`` on distractors of M, its reduction ``saved``,
    and ``contrast``.

    Args:
        model: folder of the checkpoint; None for the shipped one.
        data: folder of the synthetic data.
        images: number of validation images.
    """
    measured = layers_of(model, data, images)
    about = {"checkpoint": weights_digest(model), "model": model and Path(model).name}
    lines = []
    for layer, seen in measured.items():
        for arms, exponents in ((COUPLED, LINE), (FREE, PLANE)):
            for sees, arm in arms.items():
                of_arm = seen[sees]
                before = float(mean_mass(of_arm, [(1.0, 0.0)])[0])
                masses = mean_mass(of_arm, exponents)
                best = int(masses.argmin())
                a, b = exponents[best]
                lines.append(
                    {
                        **about,
                        "arm": arm.name,
                        "layer": layer,
                        "a": a,
                        "b": b,
                        "mass": before,
                        "saved": before - float(masses[best]),
                        "contrast": float(torch.cat([part.contrast for part in of_arm]).nanmean()),
                    }
                )
    return lines


@dataclass(frozen=True)
class Queries:
    """The ``q`` queries of a batch with a known region, with ``m`` values.

    Args:
        log_m: logarithms of attention weights, ``(q, h, m)``; -inf for a weight of 0.
        log_r: logarithms of the distances of an arm, ``(q, h, m)``.
        relevant, distractor: bool ``(q, m)``.
        contrast: contrast of each example, ``(b, h)``.
    """

    log_m: Tensor
    log_r: Tensor
    relevant: Tensor
    distractor: Tensor
    contrast: Tensor

    def mass(self, a: float, b: float) -> Tensor:
        """The fraction of :math:`M^a R^b` on distractors, ``(q, h)``; NaN for a query without weight."""
        weight = (a * self.log_m + b * self.log_r).exp()
        near, far = ((weight * side[:, None]).sum(-1) for side in (self.relevant, self.distractor))
        return far / (near + far)


def mean_mass(parts: Sequence[Queries], exponents: Sequence[tuple[float, float]]) -> Tensor:
    """The mean mass on distractors for each pair of exponents."""
    return torch.stack([torch.cat([part.mass(a, b) for part in parts]).nanmean() for a, b in exponents])


def layers_of(model: str | None, data: Path, images: int) -> dict[str, dict[str, list[Queries]]]:
    """Layer -> what R sees -> the queries of each batch."""
    family, task = load_family(model), TASKS["caption"]
    samples = [
        task.sample(example, family.name, draw=0.0) for example in task.examples(data, "validation")[:images]
    ]
    examined = Source(
        family,
        [replace(sample, image=open_image(sample.image)) for sample in samples],
        layers=["*crossattention*"],
    )
    regions = Regions(samples)
    found: dict[str, dict[str, list[Queries]]] = {}
    for batch, graphs in examined.graphs():
        for name, graph in graphs.items():
            region = regions(batch, name, graph)[NAMED]
            for sees, queries in _seen(graph, region):
                found.setdefault(name, {}).setdefault(sees, []).append(queries)
    return found


class _Known:
    """The oracle's relevant values of a graph."""

    def __init__(self, relevant: Tensor):
        self._relevant = relevant

    def relevant(self) -> Tensor:
        return self._relevant


@torch.no_grad()
def _seen(graph: AttentionGraph, region: Region) -> Iterator[tuple[str, Queries]]:
    """Kind of distances -> the queries of a graph."""
    edges = edges_of(graph)
    degrees = rsqrt(edges.query_degree()), rsqrt(edges.value_degree("sum"))
    relevant, distractor = region.on(graph)
    known = relevant.any(-1)  # (b, n)
    weight = edges.weight
    log_m = weight.log().masked_fill(weight <= smallest_weight(weight.dtype), -torch.inf)
    for sees in COUPLED:
        scheme: Any = Distances(sees)
        scheme.shown = _Known(region.relevant)
        square = scheme.log_square(edges, edges.query, edges.value, *degrees) + torch.zeros_like(weight)
        contrast = Measured(square.exp()).contrast(graph, region).contrast
        log_m_of, log_r = (x.transpose(1, 2)[known] for x in (log_m, square / 2))
        yield sees, Queries(log_m_of, log_r, relevant[known], distractor[known], contrast)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
