"""Settings of the measurement."""

from __future__ import annotations

from dataclasses import dataclass

from attngraph.degrees import check_degree

_LEAST = {"permutations": 1, "replicates": 2, "p": 1, "bins": 0, "points": 4, "seed": 0}


@dataclass(frozen=True)
class Settings:
    """Settings of :class:`analysis.heterophily.Heterophily`.

    Args:
        permutations: permuted graphs per graph, over which the null is the mean; at least 1.
        replicates: resamplings of the examples for intervals, at least 2.
        level: of the intervals.
        p: exponent of the p-Dirichlet energy and of pGNN in its closed form
            (:func:`analysis.closed_form.closed_form`), at least 1.
        bins: of the spectrum, an odd number; 0 leaves spectra out, which need a decomposition of every graph.
        points: nodes of each side, chosen at random in each example, for the distance of the clouds; at least
            4.
        degree: of the values, ``"sum"`` or ``"mean"``, in the distances of regions
            (:func:`analysis.contrast.contrast`) and in the closed form.
        seed: of permutations, choices, resamplings and the rotation of queries.

    Raises:
        ValueError: a value out of range.
    """

    permutations: int = 2
    replicates: int = 200
    level: float = 0.95
    p: float = 1.5
    bins: int = 0
    points: int = 64
    degree: str = "sum"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            if not least <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be at least {least} and finite, got {getattr(self, name)}")
        check_degree(self.degree)
        if not 0 < self.level < 1:
            raise ValueError(f"level must lie between 0 and 1, got {self.level}")
        if self.bins and self.bins % 2 == 0:
            raise ValueError(f"bins must be an odd number (0 for no spectra), got {self.bins}")


DEFAULT = Settings()
