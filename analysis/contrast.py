r"""Contrast of distances between a query's relevant values and its distractors: the condition under which
p-Laplacian message passing can move weight to the relevant values.

p-Laplacian message passing (Fu et al. 2022) gives an edge the weight :math:`M_{ij}^{p/2} R_{ij}^{p-2}` with
:math:`R_{ij} = \lVert \hat V_i/\sqrt{d_i} - \hat V_j/\sqrt{e_{ij}} \rVert` in the metric of :math:`W_o`. So p
below 2 moves weight to a query's near values, p above 2 to its far ones, and it can help only if distance is
related to relevance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor
from torch.nn.functional import pad

from attngraph import AttentionGraph
from attngraph.analysis.bipartite import Bipartite, divide, visible_edges
from attngraph.analysis.nulls import Draws
from attngraph.backends import edges_of
from attngraph.edges import rsqrt, square_distance
from attngraph.rotation import rotated_metric


@dataclass(frozen=True, eq=False)
class Region:
    """Which values are relevant for each query, and which of the others are distractors.

    Args:
        relevant: bool ``(b, n, m)``. A query without relevant values has no known region and is not counted.
        candidates: bool ``(b, m)``, values that are relevant or distractors, for instance the patches of an
            image; others ([CLS], text) are neither. Default: all values that some query sees.
        grids: rows and columns of each example's candidates, in row-major order. Default: one row.

    Raises:
        ValueError: masks that are not bool or do not fit one another.
    """

    relevant: Tensor
    candidates: Tensor | None = None
    grids: Sequence[tuple[int, int]] | None = None

    def __post_init__(self) -> None:
        if self.relevant.dtype != torch.bool or self.relevant.dim() != 3:
            raise ValueError(
                f"relevant must be bool of shape (b, n, m), got {self.relevant.dtype} "
                f"{tuple(self.relevant.shape)}"
            )
        b, _, m = self.relevant.shape
        if self.candidates is not None and (
            self.candidates.dtype != torch.bool or self.candidates.shape != (b, m)
        ):
            raise ValueError(
                f"candidates must be bool of shape ({b}, {m}), got {self.candidates.dtype} "
                f"{tuple(self.candidates.shape)}"
            )
        if self.grids is not None:
            sizes = None if self.candidates is None else self.candidates.sum(1).tolist()
            if sizes != [prod(grid) for grid in self.grids]:
                raise ValueError(f"grids must have as many entries as candidates ({sizes}), got {self.grids}")

    def on(self, graph: AttentionGraph) -> tuple[Tensor, Tensor]:
        """The relevant edges and those to distractors, bool ``(b, n, m)`` each; none of queries without a
        known region.

        Raises:
            ValueError: a region of another size than the graph.
        """
        b, _, n, m, _ = graph.shape
        if self.relevant.shape != (b, n, m):
            raise ValueError(f"relevant must have shape {(b, n, m)}, got {tuple(self.relevant.shape)}")
        visible = visible_edges(graph)
        usable = visible if self.candidates is None else visible & self.candidates[:, None]
        relevant = self.relevant & usable
        return relevant, usable & ~relevant & relevant.any(2, keepdim=True)

    def elsewhere(self, graph: AttentionGraph, draws: Draws) -> Region:
        """The null: the region of the same size and form at another place. All of an example's regions are
        shifted by the same random number of rows and columns, never by none, and what leaves the grid on one
        side comes in on the other (Lotwick & Silverman 1982). Distances, weights and degrees stay. An example
        with one candidate keeps its region.
        """
        candidates = visible_edges(graph).any(1) if self.candidates is None else self.candidates
        keys = draws(torch.ones(len(candidates), 1, dtype=torch.bool))[:, 0].tolist()
        moved = self.relevant & False
        for k, (key, chosen) in enumerate(zip(keys, candidates)):
            count = int(chosen.sum())
            rows, columns = (1, count) if self.grids is None else self.grids[k]
            step = 1 + int(key * (count - 1)) if count > 1 else 0
            shift = divmod(step, columns) if columns else (0, 0)
            grid = self.relevant[k][:, chosen].unflatten(1, (rows, columns))
            moved[k][:, chosen] = grid.roll(shift, (1, 2)).flatten(1)
        return replace(self, relevant=moved)


@dataclass(frozen=True, eq=False)
class Contrast:
    r"""Statistics of distances and a region. All ``(b, h)``: means over the queries whose region is known and
    that have weight on relevant values and on distractors (for the mass: on either); NaN if there are none.

    Args:
        contrast: the difference of the mean squared distances of distractors and of relevant values over
            their sum, in [-1, 1].
        raw: the difference itself, in the squared unit of the features.
        auc: the probability that a distractor is farther than a relevant value, both sampled with weights
            :math:`M_{ij}`, in [0, 1]; ties count one half.
        distractor_mass: :math:`\delta_i`, the fraction of a query's weight on distractors, in [0, 1].
    """

    contrast: Tensor
    raw: Tensor
    auc: Tensor
    distractor_mass: Tensor


def contrast(graph: AttentionGraph, region: Region, degree: str = "sum") -> Contrast:
    r"""Contrast of distances: how much farther than its relevant values a query's distractors are.

    .. math::
        c = \frac1{|I|} \sum_{i \in I} \frac{E_i[R^2 \mid \text{distractor}] - E_i[R^2 \mid \text{relevant}]}
            {E_i[R^2 \mid \text{distractor}] + E_i[R^2 \mid \text{relevant}]}, \qquad
        E_i[R^2 \mid J] = \frac{\sum_{j \in J} M_{ij} R_{ij}^2}{\sum_{j \in J} M_{ij}}

    with :math:`R_{ij}` as pGNN has it, causal degrees included, and :math:`I` the queries with weight on both
    sides. Means are taken query by query, since message passing weighs a query's edges against one another;
    in a causal graph R of the first queries is several times that of the last, and would drown all others in
    a common mean. In [-1, 1]: 0 where distance says nothing, positive where distractors are farther (p < 2
    helps), negative where relevant values are (p > 2 helps). It does not change with the scale of the
    features, and division by the sum keeps it apart from the share of weight on distractors, which the mean
    over all edges would bring in.

    Args:
        graph: an attention graph.
        region: the relevant values.
        degree: of the values, ``"sum"`` or ``"mean"``, see :meth:`attngraph.AttentionGraph.value_degree`.

    Raises:
        ValueError: a region of another size than the graph, or another name for ``degree``.
    """
    return Distances(square_distances(graph, degree)).contrast(graph, region)


def square_distances(graph: AttentionGraph, degree: str = "sum", rotated: int | None = None) -> Tensor:
    r""":math:`R_{ij}^2`, ``(b, h, n, m)``, bounded below as in message passing: differences that are rounding
    count as such.

    Args:
        graph: an attention graph.
        degree: of the values, ``"sum"`` or ``"mean"``.
        rotated: seed of a random rotation of the queries (:func:`attngraph.rotation.rotated_metric`), which
            keeps lengths and degrees. Default: none.

    Raises:
        ValueError: another name for ``degree``.
    """
    edges = edges_of(graph)
    rsqrt_d, rsqrt_e = rsqrt(edges.query_degree()), rsqrt(edges.value_degree(degree))
    between = None if rotated is None else rotated_metric(edges, rotated)
    return square_distance(*edges.products(edges.query, edges.value, between), rsqrt_d, rsqrt_e)


class Distances:
    """Squared distances that several regions are measured by; they are put in order once.

    Args:
        square: ``(b, h, n, m)``, see :func:`square_distances`.
    """

    def __init__(self, square: Tensor):
        self.square = square
        ordered, self.order = square.sort(-1)
        self.ties = _ties(ordered)

    def contrast(self, graph: AttentionGraph, region: Region) -> Contrast:
        """See :func:`contrast`."""
        square = self.square
        relevant, distractor = (
            graph.weight.to(square.dtype) * side[:, None] for side in region.on(graph)
        )  # (b, h, n, m)
        mass_r, mass_d = (side.sum(-1, dtype=torch.float64) for side in (relevant, distractor))
        sum_r, sum_d = ((side * square).sum(-1, dtype=torch.float64) for side in (relevant, distractor))
        near, far = divide(sum_r, mass_r), divide(sum_d, mass_d)  # (b, h, n), NaN without weight
        raw, scaled = far - near, divide(far - near, far + near)
        auc = divide(self._nearer(relevant, distractor), mass_r * mass_d)
        share = divide(mass_d, mass_r + mass_d)
        return Contrast(*(x.nanmean(-1) for x in (scaled, raw, auc, share)))

    def _nearer(self, relevant: Tensor, distractor: Tensor) -> Tensor:
        r"""Per query, :math:`\sum_{jk} r_j d_k ([R_j < R_k] + [R_j = R_k]/2)`, ``(b, h, n)``, without
        an array of pairs."""
        relevant, distractor = (side.gather(-1, self.order) for side in (relevant, distractor))
        total = pad(relevant.cumsum(-1, dtype=torch.float64), (1, 0))  # of those before each place
        if self.ties is None:
            below = total[..., :-1] + total[..., 1:]
        else:
            first, after = self.ties
            below = total.gather(-1, first) + total.gather(-1, after)
        return (distractor * below).sum(-1) / 2


def queries_per_value(graph: Bipartite) -> Tensor:
    """Ratio of the numbers of queries and values, :math:`N_1/N_2`, without padding, ``(b, h)``."""
    ratio = divide(graph.rows.sum(1).double(), graph.columns.sum(1).double())
    return ratio[:, None].expand(-1, graph.heads)


def _ties(ordered: Tensor) -> tuple[Tensor, Tensor] | None:
    """For each place of rising numbers ``(..., m)`` the first place with the same number and the first with a
    larger one; None where all numbers of a row differ."""
    new = pad(ordered[..., 1:] != ordered[..., :-1], (1, 0), value=True)
    if new.all():
        return None
    m = ordered.shape[-1]
    places = torch.arange(m, device=ordered.device)
    first = torch.where(new, places, 0).cummax(-1).values
    ends = pad(new[..., 1:], (0, 1), value=True)
    after = torch.where(ends, places + 1, m).flip(-1).cummin(-1).values.flip(-1)
    return first, after
