"""All statistics of a batch of graphs, and the same statistics of their null models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from attngraph import AttentionGraph
from attngraph.analysis import clouds, energy, entropy, homophily
from attngraph.analysis.along import Along, along_edges
from attngraph.analysis.bipartite import Bipartite
from attngraph.analysis.closed_form import ClosedForm, degree_roots
from attngraph.analysis.contrast import Contrast, Distances, Region, queries_per_value, square_distances
from attngraph.analysis.homophily import mixings
from attngraph.analysis.labels import Labels
from attngraph.analysis.nulls import Draws, in_orders, permutation, permuted, shuffle, uniform
from attngraph.analysis.sums import ClassSums, EdgeSums
from attngraph.degrees import check_degree

LABEL_STATISTICS = (*homophily.SHARED, *homophily.ANY)
FEATURE_STATISTICS = (*energy.Energies._fields, "neighbour_cka")
WEIGHT_STATISTICS = {
    "entropy": entropy.entropy,
    "effective_degree": entropy.effective_degree,
    "effective_degree_value": entropy.effective_degree_value,
    "hubs": entropy.hubs,
    "self_weight": entropy.self_weight,
}
CLOUD_STATISTICS = ("mmd", "probe_auc")
CONTRAST_STATISTICS = ("contrast", "contrast_raw", "distance_auc", "distractor_mass")
REGION_STATISTICS = (*CONTRAST_STATISTICS, "rotation_change", "queries_per_value")
CLOSED_FORM_STATISTICS = (
    "closed_form_r",
    "closed_form_variation",
    "lengths_variation",
    "attention_variation",
)
STATISTICS = (
    *LABEL_STATISTICS,
    *FEATURE_STATISTICS,
    *WEIGHT_STATISTICS,
    *CLOUD_STATISTICS,
    *CLOSED_FORM_STATISTICS,
    *REGION_STATISTICS,
)
SPECTRA = ("spectral_energy", "spectral_density")
# Grow with the features; all others are of the order of 1.
UNBOUNDED = ("dirichlet", "p_dirichlet", "contrast_raw")
TOLERANCE = 1e-6  # relative size of differences that are rounding

_LEAST = {"permutations": 1, "replicates": 2, "p": 1, "bins": 0, "points": 4, "seed": 0}

Key: TypeAlias = tuple[str, str]  # name of the statistic, name of the labels
NewDraws: TypeAlias = Callable[[str], Draws]  # from a purpose to its random numbers


@dataclass(frozen=True)
class Settings:
    """Settings of :class:`attngraph.analysis.heterophily.Heterophily`.

    Args:
        permutations: permuted graphs per graph, over which the null is the mean; at least 1.
        replicates: resamplings of the examples for intervals, at least 2.
        level: of the intervals.
        p: exponent of the p-Dirichlet energy and of pGNN in its closed form
            (:func:`attngraph.analysis.closed_form.closed_form`), at least 1.
        bins: of the spectrum, an odd number; 0 leaves spectra out, which need a decomposition of every graph.
        points: nodes of each side, chosen at random in each example, for the distance of the clouds; at least
            4.
        degree: of the values, ``"sum"`` or ``"mean"``, in the distances of regions
            (:func:`attngraph.analysis.contrast.contrast`) and in the closed form.
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
            raise ValueError(f"level must be between 0 and 1, got {self.level}")
        if self.bins and self.bins % 2 == 0:
            raise ValueError(f"bins must be an odd number (0 for no spectra), got {self.bins}")


DEFAULT = Settings()


@dataclass(frozen=True)
class Measured:
    """One statistic of each graph of a batch, and of its null models.

    Args:
        value: ``(b, h)``, of the graphs.
        uniform: ``(b, h)``, of uniform attention with the same mask; None where that is not a null model.
        permuted: ``(b, h)``, the mean over permuted graphs; None where a permutation changes nothing.
        reason: ``(b, h)``, an index of :data:`attngraph.analysis.homophily.REASONS`; a graph counts only
            where it is 0. None: all graphs count.
    """

    value: Tensor
    uniform: Tensor | None = None
    permuted: Tensor | None = None
    reason: Tensor | None = None


def measure(
    graph: Bipartite,
    labels: Mapping[str, Labels],
    settings: Settings,
    new_draws: NewDraws,
    self_loops: bool,
    scheme: AttentionGraph | None = None,
) -> dict[Key, Measured]:
    """All statistics that are defined for a batch of graphs.

    Args:
        graph: the batch.
        labels: ``{name: classes}``.
        settings: how to measure.
        new_draws: the random numbers of each purpose (a labelling's name, "features", "clouds", "spectra").
        self_loops: keep the diagonal of a paired graph in label statistics.
        scheme: the same batch as an attention graph with all its weights, whose messages in pGNN are compared
            with their closed form; None leaves that out.
    """
    orders, values = [], None
    if graph.value is not None:
        draws = new_draws("features")
        orders = [permutation(graph, draws) for _ in range(settings.permutations)]
        values = in_orders(graph.value, [None, *orders]).flatten(3)
    self_loops = self_loops or not graph.paired
    nodes = graph if self_loops else graph.hiding_self_loops()
    labellings = {
        name: _permuted(classes, nodes, settings.permutations, new_draws(name))
        for name, classes in labels.items()
    }
    sums = EdgeSums.of(graph, values, list(chain(*labellings.values())), self_loops)
    even = EdgeSums.uniform(graph, graph.value, sums)
    measured: dict[Key, Measured] = {
        (name, ""): Measured(function(sums), function(even))
        for name, function in WEIGHT_STATISTICS.items()
        if name != "self_weight" or graph.paired
    }
    if labels:
        measured |= _by_labels(nodes, labellings, sums.by_class)
    if graph.query is not None:
        roots = None if scheme is None else degree_roots(scheme, settings.degree, sums)
        along = along_edges(graph, settings.p, sums, orders, even, roots)
        by_feature = _by_features(graph, along, sums, even, settings.p)
        by_feature |= _by_clouds(graph, settings, new_draws("clouds"))
        measured |= {(statistic, ""): result for statistic, result in by_feature.items()}
        if settings.bins:
            measured |= _by_frequency(graph, uniform(graph), settings.bins, new_draws("spectra"))
        if along.form is not None:
            measured |= _by_closed_form(ClosedForm.of(along.form))
    return measured


def _permuted(labels: Labels, graph: Bipartite, permutations: int, draws: Draws) -> list[Labels]:
    """The classes of a graph's nodes, and permuted ones."""
    return [labels.on(graph), *(labels.permuted(graph, draws) for _ in range(permutations))]


def _by_labels(
    graph: Bipartite, labellings: Mapping[str, list[Labels]], sums: ClassSums
) -> dict[Key, Measured]:
    """The first of each list are the observed classes, the others are permuted."""
    observations = [observed for observed, *_ in labellings.values()]
    every = iter(mixings(list(chain(*labellings.values())), sums, graph.paired))
    flat = ClassSums.uniform(graph, observations, sums.query_degree)
    measured = {}
    for (name, of), even in zip(labellings.items(), mixings(observations, flat, graph.paired)):
        observed, *nulls = islice(every, len(of))
        reason = homophily.degenerate(observed)
        reason_of_pairs = homophily.degenerate(observed, even) if of[0].shared else None
        value, of_even, *others = map(homophily.label_statistics, (observed, even, *nulls))
        for statistic in value:
            measured[statistic, name] = Measured(
                value[statistic],
                of_even[statistic],
                _mean([other[statistic] for other in others]),
                reason_of_pairs if statistic in homophily.SHARED else reason,
            )
    return measured


def _by_features(
    graph: Bipartite, along: Along, sums: EdgeSums, even: EdgeSums, p: float
) -> dict[str, Measured]:
    query, value = graph.features
    received = sums.at_queries.unflatten(-1, (-1, value.shape[-1]))  # (b, h, n, graphs, d)
    aligned = clouds.neighbour_cka(query, received, sums, along.backs if graph.paired else ())
    flat = clouds.neighbour_cka(query, even.at_queries[..., None, :], even)
    found = energy.energies_of_graphs(graph, p, along)
    parts = [
        energies._asdict() | {"neighbour_cka": x}
        for energies, x in zip(found, (*aligned.unbind(-1), flat[..., 0]))
    ]
    own, *nulls, of_even = parts
    return {name: Measured(own[name], of_even[name], _mean([null[name] for null in nulls])) for name in own}


def _by_clouds(graph: Bipartite, settings: Settings, draws: Draws) -> dict[str, Measured]:
    """Statistics of the two clouds; the null model permutes the sides (query, value) among the points."""
    features, nodes = [], []
    for x, valid in zip(graph.features, (graph.rows, graph.columns)):
        chosen = draws(valid).argsort(-1)[:, : settings.points].to(valid.device)
        index = chosen[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3])
        features.append(x.gather(2, index))
        nodes.append(valid.gather(1, chosen))
    x, valid = torch.cat(features, 2), torch.cat(nodes, 1)[:, None]
    places = torch.cat([torch.arange(side.shape[1], device=x.device) for side in nodes])
    is_query = (torch.arange(x.shape[2], device=x.device) < nodes[0].shape[1]).expand_as(valid)
    sides = torch.stack([is_query, is_query.gather(-1, shuffle(valid, draws))], -1)
    mmd, null = clouds.mmd(x, sides, valid).unbind(-1)
    auc, null_auc = clouds.probe_auc(x, sides, valid, places % 2 == 0).unbind(-1)
    return {"mmd": Measured(mmd, permuted=null), "probe_auc": Measured(auc, permuted=null_auc)}


def _by_frequency(graph: Bipartite, even: Bipartite, bins: int, draws: Draws) -> dict[Key, Measured]:
    """Spectra, with the middle of each bin in place of the labels' name."""
    value, flat, null = (energy.spectral_energy(view, bins) for view in (graph, even, permuted(graph, draws)))
    density, even_density = (energy.spectral_density(view, bins) for view in (graph, even))
    measured = {}
    for k in range(bins):
        middle = f"{(2 * k + 1) / bins:.4f}"
        measured["spectral_energy", middle] = Measured(value[..., k], flat[..., k], null[..., k])
        measured["spectral_density", middle] = Measured(density[..., k], even_density[..., k])
    return measured


def _by_closed_form(found: ClosedForm) -> dict[Key, Measured]:
    """How near pGNN's message weights are to a form without the query; there is no null."""
    values = (found.r, found.variation, found.without_product, found.from_attention)
    return {(name, ""): Measured(value) for name, value in zip(CLOSED_FORM_STATISTICS, values)}


def measure_regions(
    graph: AttentionGraph, regions: Mapping[str, Region], settings: Settings, new_draws: NewDraws
) -> dict[Key, Measured]:
    """Statistics of distances and regions, by the region's name, the change of the contrast when queries are
    rotated, and :math:`N_1/N_2` of the graphs in which the region is known; empty without regions.

    The uniform null is the contrast under uniform attention, with its degrees and distances; the other null
    moves the regions (:meth:`attngraph.analysis.contrast.Region.elsewhere`).
    """
    if not regions:
        return {}
    view, measured = Bipartite.of(graph), {}
    even = replace(graph, weight=uniform(view).weight.to(graph.weight.dtype))
    distances, even_distances = (Distances(square_distances(x, settings.degree)) for x in (graph, even))
    rotated = Distances(square_distances(graph, settings.degree, settings.seed))
    for name, region in regions.items():
        draws = new_draws(f"region {name}")
        nulls = [
            _of_contrast(distances.contrast(graph, region.elsewhere(graph, draws)))
            for _ in range(settings.permutations)
        ]
        flat = _of_contrast(even_distances.contrast(even, region))
        found = _of_contrast(distances.contrast(graph, region))
        for statistic, value in found.items():
            shifted = _mean([null[statistic] for null in nulls])
            measured[statistic, name] = Measured(value, flat[statistic], shifted)
        turned = rotated.contrast(graph, region).contrast
        measured["rotation_change", name] = Measured(turned - found["contrast"])
        unknown = found["distractor_mass"].isnan()
        measured["queries_per_value", name] = Measured(
            queries_per_value(view).masked_fill(unknown, torch.nan)
        )
    return measured


def _of_contrast(found: Contrast) -> dict[str, Tensor]:
    return dict(zip(CONTRAST_STATISTICS, (found.contrast, found.raw, found.auc, found.distractor_mass)))


def _mean(parts: list[Tensor]) -> Tensor:
    return torch.stack(parts).nanmean(0)


def to_arrays(measured: Mapping[Key, Measured], graph: Bipartite) -> tuple[np.ndarray, np.ndarray]:
    """The results of a batch as arrays.

    Returns:
        Values, both nulls and the excess over the null, ``(b, statistics, h + 1, 4)``, and the numbers of
        graphs excluded for each reason, ``(statistics, h + 1, reasons)``. The last head is the mean (the sum)
        over heads. An excess within rounding error is 0.
    """
    shape = graph.weight.shape[:2]
    undefined = torch.full(shape, torch.nan, dtype=torch.float64, device=graph.weight.device)
    no_reason = torch.zeros(shape, dtype=torch.long, device=graph.weight.device)
    columns, reasons = [], []
    for (statistic, _), result in measured.items():
        value, even, shuffled = (
            undefined if x is None else x.double().expand(shape)
            for x in (result.value, result.uniform, result.permuted)
        )
        null = even if result.permuted is None else shuffled
        excess = value - null
        rounding = TOLERANCE * (value.abs() + null.abs() + (statistic not in UNBOUNDED))
        excess = torch.where(excess.abs() <= rounding, 0, excess)
        reason = no_reason if result.reason is None else result.reason.expand(shape)
        parts = [x.masked_fill(reason > 0, torch.nan) for x in (value, even, shuffled, excess)]
        columns.append(torch.stack(parts, -1))
        reasons.append(reason)
    values = torch.stack(columns, 1)  # (b, k, h, 4)
    values = torch.cat([values, values.nanmean(2, keepdim=True)], 2)
    left_out = torch.stack(
        [(torch.stack(reasons) == k).sum(1) * (k > 0) for k in range(len(homophily.REASONS))], -1
    )  # (k, h, reasons)
    left_out = torch.cat([left_out, left_out.sum(1, keepdim=True)], 1)
    return values.cpu().numpy(), left_out.cpu().numpy()
