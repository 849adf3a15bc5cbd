"""Which conditions are run, and all runs as a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import pandas as pd

from analysis.contrast import contrast as contrast_of_distances
from experiments.planted.graphs import MASSES, SHAPES, draw
from experiments.planted.rows import ROWS
from experiments.planted.training import Budget, Data, train

#: The columns of a table of runs. ``contrast`` is c, ``measured`` the contrast of distances of the test
#: graphs, ``validation`` and ``test`` are accuracies.
COLUMNS = ("ratio", "mass", "contrast", "row", "rate", "seed", "measured", "validation", "test", "p")


@dataclass(frozen=True)
class Study:
    """What is run: every row at every rate in every condition.

    Args:
        ratios: N1/N2, of ``graphs.SHAPES``.
        masses: on distractors, of ``graphs.MASSES``.
        contrasts: c, in [-1, 1].
        rates: learning rates, the same for all rows.
        budget: of each run.
    """

    ratios: Sequence[Fraction] = tuple(SHAPES)
    masses: Sequence[float] = MASSES
    contrasts: Sequence[float] = (-0.9, -0.6, -0.3, 0, 0.3, 0.6, 0.9)
    rates: Sequence[float] = (0.006, 0.02, 0.06)
    budget: Budget = field(default_factory=Budget)

    @property
    def parts(self) -> list[tuple[Fraction, float]]:
        """Ratios and masses; the runs of a part are trained together."""
        return [(ratio, mass) for mass in self.masses for ratio in self.ratios]


#: A minute's worth.
QUICK = Study(
    ratios=(Fraction(1),),
    masses=(0.5,),
    contrasts=(-0.9, 0, 0.9),
    rates=(0.02,),
    budget=Budget(steps=60, batch=8, scored=16),
)


def run_part(
    study: Study,
    ratio: Fraction,
    mass: float,
    seeds: Sequence[int],
    join: str = "replace",
    device: str = "cpu",
) -> Iterator[pd.DataFrame]:
    """Train all rows of a part; a table for each row and rate, as they come.

    Args:
        study: contrasts, rates and budget.
        ratio: N1/N2.
        mass: on distractors.
        seeds: of the graphs and of the initial parameters.
        join: how the schemes' output is joined to the attention output.
        device: where to train.
    """
    data = Data.of(seeds, ratio, mass, study.budget, device)
    measured = {(seed, c): _measured(study, ratio, mass, seed, c) for seed in seeds for c in study.contrasts}
    for name, row in ROWS.items():
        for rate in study.rates:
            runs = train(row, join, rate, study.contrasts, data, study.budget)
            lines = [
                {
                    "ratio": float(ratio),
                    "mass": mass,
                    "contrast": c,
                    "row": name,
                    "rate": rate,
                    "seed": seed,
                    "measured": measured[seed, c],
                    "validation": float(runs.validation[s, k]),
                    "test": float(runs.test[s, k]),
                    "p": float(runs.p[s, k]),
                }
                for s, seed in enumerate(seeds)
                for k, c in enumerate(study.contrasts)
            ]
            yield pd.DataFrame(lines, columns=list(COLUMNS))


def _measured(study: Study, ratio: Fraction, mass: float, seed: int, contrast: float) -> float:
    """The contrast of distances of a seed's test graphs, at this c."""
    graphs = draw(study.budget.scored, ratio, mass, seed, "test")
    return float(contrast_of_distances(graphs.graph(contrast), graphs.region()).contrast.mean())
