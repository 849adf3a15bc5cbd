r"""The second page of planted graphs: relevant values differ from distractors by a further cue, in their
attention weights, degrees or lengths.

All distractors are *background* values: they have a separate topic and belong to no query. Half of every
query's attention leads to them, in weights that are equal among its relevant values and equal among its
distractors. So nothing but the cue and the contrast has an influence, and theory
(:mod:`attngraph.experiments.studies.planted_theory`) is exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from attngraph.experiments.studies.planted import (
    EDGES,
    GROUPS,
    SPLITS,
    TOPIC,
    Planted,
    Study,
    directions,
    plant,
)

QUERIES = 12
MASS = 0.5  # of each query's attention on distractors
#: Cue -> factors by which it is larger for distractors than for relevant values.
CUES = {"weight": (1 / 3, 3.0), "degree": (0.25, 4.0), "length": (0.5, 2.0)}


@dataclass(frozen=True)
class Cue:
    """Graphs with a cue.

    Args:
        name: of the cue: ``weight`` of an edge in attention, ``degree`` of a value (distractors of large
            degree are hubs), ``length`` of a value's features.
        factor: by which it is larger for distractors than for relevant values, of :data:`CUES`.
    """

    name: str
    factor: float

    @property
    def axes(self) -> dict[str, float | str]:
        """See :class:`attngraph.experiments.studies.planted.Part`."""
        return {"cue": self.name, "factor": round(self.factor, 4)}

    @property
    def edges(self) -> tuple[int, int]:
        """Numbers of edges of a query to relevant values and to distractors."""
        relevant = round(EDGES * self._of("weight") / (1 + self._of("weight")))
        return relevant, EDGES - relevant

    @property
    def values(self) -> tuple[int, int]:
        """Numbers of values in each group of queries, and of background values."""
        root = round(self._of("degree") ** 0.5, 4)
        return round(8 * root), round(8 * GROUPS / root)

    @property
    def degrees(self) -> tuple[float, float]:
        """Degrees of relevant values and of distractors, the same in every graph."""
        group, background = self.values
        return (1 - MASS) * QUERIES / (GROUPS * group), MASS * QUERIES / background

    @property
    def length(self) -> float:
        """Length of distractors; relevant values have length 1."""
        return self._of("length")

    def _of(self, name: str) -> float:
        return self.factor if name == self.name else 1.0

    def draw(self, graphs: int, seed: int, split: str, dtype: torch.dtype = torch.float32) -> Planted:
        """Sample graphs; see :class:`attngraph.experiments.studies.planted.Part`.

        The class content of all values has the same size: a longer value has more of its topic.
        """
        (group, background), (near, far) = self.values, self.edges
        place = [list(CUES).index(self.name), CUES[self.name].index(self.factor)]
        random = np.random.default_rng([seed, SPLITS.index(split), *place])
        pattern = _edges(group, background, near, far)
        queries, values = pattern.shape
        rows = random.permuted(np.tile(np.arange(queries), (graphs, 1)), axis=1)
        columns = random.permuted(np.tile(np.arange(values), (graphs, 1)), axis=1)
        edges = pattern[rows[:, :, None], columns[:, None, :]]  # (g, n, m)
        group_q = rows % GROUPS
        group_v = np.where(columns < GROUPS * group, columns % GROUPS, GROUPS)
        relevant = group_q[:, :, None] == group_v[:, None, :]
        weight = edges * np.where(relevant, (1 - MASS) / near, MASS / far)
        length = np.where(group_v == GROUPS, self.length, 1)
        part = np.sqrt(length**2 - (1 - TOPIC))
        return plant(weight, relevant, group_q, group_v, part, directions(seed, GROUPS + 1), random, dtype)


def _edges(group: int, background: int, near: int, far: int) -> np.ndarray:
    """Which edges there are, bool ``(n, m)``. Queries and the values of groups are of group k modulo
    :data:`GROUPS`; background values come last. A query takes the next values of each kind, so that all
    values of a kind have the same number of edges."""
    edges = np.zeros((QUERIES, GROUPS * group + background), dtype=bool)
    for query in range(QUERIES):
        own, order = query % GROUPS, query // GROUPS
        edges[query, own + GROUPS * (np.arange(near * order, near * (order + 1)) % group)] = True
        edges[query, GROUPS * group + np.arange(far * query, far * (query + 1)) % background] = True
    return edges


#: The second page.
SECOND = Study(
    parts=tuple(Cue(name, factor) for name, factors in CUES.items() for factor in factors),
    rows=("gcn", "p2", "tempering", "placebo", "pgnn", "closed", "free"),
    contrasts=(-0.9, -0.5, 0, 0.5, 0.9),
    rates=(0.02, 0.06),
)
