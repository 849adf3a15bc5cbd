"""All heterophily statistics of a stream of attention graphs, in one pass, as a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch_geometric.data import Data, HeteroData

from analysis import clouds, energy, entropy, feature_homophily, homophily, spectrum
from analysis.bipartite import Bipartite, divide
from analysis.bootstrap import Means
from analysis.labels import Labels
from analysis.mixing import Mixing
from analysis.nulls import Draws, permuted, shuffle, uniform
from attngraph import AttentionGraph

AnyGraph = AttentionGraph | Data | HeteroData | Bipartite
Labelling = Mapping[str, Labels] | Callable[[str, AnyGraph], Mapping[str, Labels]] | None
Differences = Mapping[str, tuple[str, str]]

COLUMNS = (
    "layer",
    "kind",
    "weights",
    "head",
    "statistic",
    "labels",
    "value",
    "low",
    "high",
    "null_uniform",
    "null_permuted",
    "excess",
    "excess_low",
    "excess_high",
    "examples",
    "note",
)
LABEL_STATISTICS = (*homophily.SHARED, *homophily.ANY, "aggregation", "neighbourhood_contrast")
FEATURE_STATISTICS = (
    "cosine",
    "generalised_edge",
    "dirichlet",
    "dirichlet_normalised",
    "p_dirichlet",
    "p_dirichlet_normalised",
    "neighbour_cka",
)
WEIGHT_STATISTICS = {
    "entropy": entropy.entropy,
    "effective_degree": entropy.effective_degree,
    "effective_degree_value": entropy.effective_degree_value,
    "hubs": entropy.hubs,
    "self_weight": entropy.self_weight,
}
CLOUD_STATISTICS = ("mmd", "probe_auc")
STATISTICS = (*LABEL_STATISTICS, *FEATURE_STATISTICS, *WEIGHT_STATISTICS, *CLOUD_STATISTICS)
_SPECTRA = ("spectral_energy", "spectral_density")
_UNITS = ("dirichlet", "p_dirichlet")  # grow with the features; all others are of the order of 1
TOLERANCE = 1e-6  # differences that are rounding


@dataclass(frozen=True)
class Settings:
    """How :class:`Heterophily` measures.

    Args:
        permutations: permuted graphs per graph, over which the null is the mean; at least 1.
        replicates: resamplings of the examples for intervals, at least 2.
        level: of the intervals.
        p: of the p-Dirichlet energy, at least 1.
        bins: of the spectrum, an odd number; 0 leaves spectra out, which need a decomposition of every graph.
        points: nodes of each side, chosen at random in each example, for the distance of the clouds.
        seed: of permutations, choices and resamplings.

    Raises:
        ValueError: a value out of range.
    """

    permutations: int = 2
    replicates: int = 200
    level: float = 0.95
    p: float = 1.5
    bins: int = 0
    points: int = 64
    seed: int = 0

    def __post_init__(self):
        for name, least in (
            ("permutations", 1),
            ("replicates", 2),
            ("p", 1),
            ("bins", 0),
            ("points", 4),
            ("seed", 0),
        ):
            if not least <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be at least {least} and finite, got {getattr(self, name)}")
        if not 0 < self.level < 1:
            raise ValueError(f"level must lie between 0 and 1, got {self.level}")
        if self.bins and self.bins % 2 == 0:
            raise ValueError(f"bins must be an odd number (0 for no spectra), got {self.bins}")


@dataclass(frozen=True)
class _Found:
    """A statistic of each graph of a batch, each field ``(b, h)``."""

    value: Tensor
    uniform: Tensor | None = None
    permuted: Tensor | None = None
    reason: Tensor | None = None  # a place in homophily.REASONS; the graph does not count where it is not 0


class _Layer:
    """What is kept of a layer."""

    def __init__(self, kind: str, keys: list[tuple[str, str]], heads: int, settings: Settings):
        self.kind, self.keys, self.heads = kind, keys, heads
        self.means = Means((len(keys), heads + 1, 4), settings.replicates, settings.seed)
        self.left_out = np.zeros((len(keys), heads + 1, len(homophily.REASONS)), int)

    def lines(
        self, mean: np.ndarray, low: np.ndarray, high: np.ndarray
    ) -> Iterable[tuple[tuple[int, int], dict]]:
        """The numbers of each statistic and head, and their place."""
        for k, (statistic, labels) in enumerate(self.keys):
            for head in range(self.heads + 1):
                yield (
                    (k, head),
                    {
                        "head": "all" if head == self.heads else head,
                        "statistic": statistic,
                        "labels": labels,
                        "value": mean[k, head, 0],
                        "low": low[k, head, 0],
                        "high": high[k, head, 0],
                        "null_uniform": mean[k, head, 1],
                        "null_permuted": mean[k, head, 2],
                        "excess": mean[k, head, 3],
                        "excess_low": low[k, head, 3],
                        "excess_high": high[k, head, 3],
                    },
                )


class Heterophily:
    """Collects the statistics of graphs as they come: of every example and head of its own, then their mean
    over examples with an interval, beside the same statistic of two null models. Memory does not grow with
    the number of examples.

    >>> measured = Heterophily()
    >>> for graphs in stream:
    ...     for name, graph in graphs.items():
    ...         measured.add(name, graph, {"class": labels})
    >>> measured.table()

    Label statistics leave the diagonal of self-attention out (a token is always of its own class), and
    ``self_weight`` tells how much weight lies on it; all others keep it.

    Args:
        settings: how to measure.
    """

    def __init__(self, settings: Settings = Settings()):
        self.settings = settings
        self._layers: dict[tuple[str, str], _Layer] = {}

    def add(
        self, name: str, graph: AnyGraph, labels: Mapping[str, Labels] | None = None, weights: str = "M"
    ) -> None:
        """Measure a batch of graphs of a layer.

        Args:
            name: of the layer.
            graph: an attention graph of any number of examples and heads, or a plain PyG graph.
            labels: ``{name: classes}``; the same names in every batch of a layer.
            weights: what the edge weights are, for the column of that name.

        Raises:
            ValueError: labels that do not fit, or other labels or heads than in the layer's earlier batches.
        """
        kind = (graph.kind if isinstance(graph, AttentionGraph) else None) or ""
        view = Bipartite.of(graph)
        if view.weight.shape[0] == 0:
            return
        layer = self._layers.get((name, weights))
        first = 0 if layer is None else layer.means.examples
        with torch.no_grad():  # all kinds of weights of a layer see the same permutations
            found = self._measure(
                view,
                labels or {},
                lambda what: Draws(self.settings.seed, f"{name}/{what}", first),
                self_loops=kind != "self",
            )
        if layer is None:
            layer = self._layers[name, weights] = _Layer(kind, list(found), view.heads, self.settings)
        if layer.keys != list(found) or layer.heads != view.heads:
            raise ValueError(f"{name}: a layer must have the same labels, features and heads in every batch")
        values, left_out = _stack(found, view)
        layer.means.add(values)
        layer.left_out += left_out

    def table(self, differences: Differences | None = None) -> pd.DataFrame:
        """One line for each layer, weights, head, statistic and labels, with the columns of :data:`COLUMNS`.

        ``head`` is a number, or "all" for the mean over heads. ``value`` is the mean over ``examples``
        graphs, ``low`` and ``high`` the ends of its interval. ``excess`` is the mean difference to the
        permuted null, or to the uniform one where a permutation changes nothing. ``note`` says which graphs
        were left out and why.

        Args:
            differences: ``{name: (one, other)}`` of kinds of weights: lines with this name in the column
                ``weights``, in which every number is that of one minus that of other, with the interval of
                the paired difference; where a layer has both. ``examples`` is then the smaller number of
                graphs.

        Raises:
            ValueError: the two kinds were not measured on the same examples and labels.
        """
        lines = [line for line in self._lines() if line["statistic"] not in _SPECTRA]
        for name, pair in (differences or {}).items():
            lines += [line for line in self._differences(name, *pair) if line["statistic"] not in _SPECTRA]
        return pd.DataFrame(lines, columns=list(COLUMNS))

    def spectrum(self) -> pd.DataFrame:
        """The spectra: as :meth:`table`, with the column ``frequency`` (the middle of the bin) in place of
        ``labels``."""
        lines = [
            line | {"frequency": float(line["labels"])}
            for line in self._lines()
            if line["statistic"] in _SPECTRA
        ]
        return pd.DataFrame(
            lines, columns=["frequency" if column == "labels" else column for column in COLUMNS]
        )

    def _lines(self) -> Iterable[dict]:
        for (name, weights), layer in self._layers.items():
            mean, (low, high), counts = (
                layer.means.mean(),
                layer.means.interval(self.settings.level),
                layer.means.counts,
            )
            for place, line in layer.lines(mean, low, high):
                yield (
                    {"layer": name, "kind": layer.kind, "weights": weights}
                    | line
                    | {"examples": counts[*place, 0], "note": _note(layer.left_out[place], counts[*place, 0])}
                )

    def _differences(self, difference: str, one: str, other: str) -> Iterable[dict]:
        for name, weights in self._layers:
            if weights != one or (name, other) not in self._layers:
                continue
            a, b = (self._layers[name, kind] for kind in (one, other))
            if a.keys != b.keys:
                raise ValueError(f"{name}: {one} and {other} must have the same labels and features")
            mean, low, high = a.means.minus(b.means, self.settings.level)
            rounding = TOLERANCE * np.where([[[key[0] in _UNITS]] for key in a.keys], abs(a.means.mean()), 1)
            mean, low, high = (np.where(abs(x) <= rounding, 0, x) for x in (mean, low, high))
            counts = [layer.means.counts for layer in (a, b)]
            for place, line in a.lines(mean, low, high):
                pair = [int(count[*place, 0]) for count in counts]
                note = (
                    _note(np.zeros(0, int), min(pair))
                    if pair[0] == pair[1]
                    else f"not the same graphs: {pair[0]} of {one}, {pair[1]} of {other}"
                )
                yield (
                    {"layer": name, "kind": a.kind, "weights": difference}
                    | line
                    | {"examples": min(pair), "note": note}
                )

    def _measure(
        self, graph: Bipartite, labels: Mapping[str, Labels], draws: Callable[[str], Draws], self_loops: bool
    ) -> dict[tuple[str, str], _Found]:
        even = uniform(graph)
        found = {
            (name, ""): _Found(function(graph), function(even))
            for name, function in WEIGHT_STATISTICS.items()
            if name != "self_weight" or graph.paired
        }
        bare = graph.without_self_loops() if graph.paired and not self_loops else graph
        for name, classes in labels.items():
            found |= {
                (statistic, name): one for statistic, one in self._labels(bare, classes, draws(name)).items()
            }
        if graph.query is not None:
            found |= {
                (name, ""): one
                for name, one in (
                    self._features(graph, even, draws("features")) | self._clouds(graph, draws("clouds"))
                ).items()
            }
            if self.settings.bins:
                found |= self._spectra(graph, even, draws("spectra"))
        return found

    def _labels(self, graph: Bipartite, classes: Labels, draws: Draws) -> dict[str, _Found]:
        observed, even = (Mixing(view, classes.on(view)) for view in (graph, uniform(graph)))
        dealt = [Mixing(graph, classes.permuted(graph, draws)) for _ in range(self.settings.permutations)]
        values, evens, *nulls = [
            homophily.label_statistics(mixing) | feature_homophily.aggregation_statistics(mixing)
            for mixing in (observed, even, *dealt)
        ]
        equal, other = (
            homophily.degenerate(observed, even) if classes.shared else None,
            homophily.degenerate(observed),
        )
        return {
            name: _Found(
                value,
                evens[name],
                _mean([null[name] for null in nulls]),
                equal if name in homophily.SHARED else other,
            )
            for name, value in values.items()
        }

    def _features(self, graph: Bipartite, even: Bipartite, draws: Draws) -> dict[str, _Found]:
        def all_of(view: Bipartite) -> dict[str, Tensor]:
            cosine, chance = feature_homophily.cosines(view)
            p, plain, curved = (
                self.settings.p,
                energy.dirichlet(view),
                energy.p_dirichlet(view, self.settings.p),
            )
            return dict(
                zip(
                    FEATURE_STATISTICS,
                    (
                        cosine,
                        cosine - chance,
                        plain,
                        divide(plain, energy.norm(view, 2)),
                        curved,
                        divide(curved, energy.norm(view, p)),
                        clouds.neighbour_cka(view),
                    ),
                )
            )

        nulls = [all_of(permuted(graph, draws)) for _ in range(self.settings.permutations)]
        evens = all_of(even)
        return {
            name: _Found(value, evens[name], _mean([null[name] for null in nulls]))
            for name, value in all_of(graph).items()
        }

    def _clouds(self, graph: Bipartite, draws: Draws) -> dict[str, _Found]:
        """Their null deals the points' sides anew."""
        parts = []
        for x, valid in ((graph.query, graph.rows), (graph.value, graph.columns)):
            chosen = draws(valid).argsort(-1)[:, : self.settings.points].to(valid.device)
            index = chosen[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3])
            parts.append((x.gather(2, index), valid.gather(1, chosen)))
        x = torch.cat([part[0] for part in parts], 2)
        valid = torch.cat([part[1] for part in parts], 1)[:, None]
        places = torch.cat([torch.arange(part[1].shape[1], device=x.device) for part in parts])
        fold = (places % 2 == 0).expand_as(valid)
        is_query = (torch.arange(x.shape[2], device=x.device) < parts[0][1].shape[1]).expand_as(valid)
        dealt = is_query.gather(-1, shuffle(valid, draws))
        return {
            "mmd": _Found(clouds.mmd(x, is_query, valid), None, clouds.mmd(x, dealt, valid)),
            "probe_auc": _Found(
                clouds.probe_auc(x, is_query, valid, fold), None, clouds.probe_auc(x, dealt, valid, fold)
            ),
        }

    def _spectra(self, graph: Bipartite, even: Bipartite, draws: Draws) -> dict[tuple[str, str], _Found]:
        bins = self.settings.bins
        value, flat = spectrum.spectral_energy(graph, bins), spectrum.spectral_energy(even, bins)
        null = spectrum.spectral_energy(permuted(graph, draws), bins)
        density, even_density = spectrum.spectral_density(graph, bins), spectrum.spectral_density(even, bins)
        found = {}
        for k in range(bins):
            middle = f"{(2 * k + 1) / bins:.4f}"
            found["spectral_energy", middle] = _Found(value[..., k], flat[..., k], null[..., k])
            found["spectral_density", middle] = _Found(density[..., k], even_density[..., k])
        return found


def heterophily(
    graphs: AnyGraph | Mapping[str, AnyGraph] | Iterable[AnyGraph | Mapping[str, AnyGraph]],
    labels: Labelling = None,
    settings: Settings = Settings(),
) -> pd.DataFrame:
    """The table of :class:`Heterophily` for one graph, several, or a stream of them.

    Args:
        graphs: a graph, ``{layer: graph}`` as :func:`attngraph.capture` returns it, or an iterable of either.
            Graphs without a name are those of the layer "graph".
        labels: ``{name: classes}`` for all graphs, or a function that gives them for a layer's name and a
            graph.
        settings: how to measure.

    Raises:
        ValueError: no graphs, or labels that do not fit.
    """
    measured = Heterophily(settings)
    single = isinstance(graphs, (AttentionGraph, Data, HeteroData, Bipartite, Mapping))
    some = False
    for item in [graphs] if single else graphs:
        for name, graph in (item if isinstance(item, Mapping) else {"graph": item}).items():
            measured.add(name, graph, labels(name, graph) if callable(labels) else labels)
            some = True
    if not some:
        raise ValueError("graphs is empty: give at least one graph")
    return measured.table()


def _mean(parts: list[Tensor]) -> Tensor:
    return torch.stack(parts).nanmean(0)


def _stack(found: Mapping[tuple[str, str], _Found], graph: Bipartite) -> tuple[np.ndarray, np.ndarray]:
    """Values, both nulls and the excess ``(b, k, h + 1, 4)``, and numbers of graphs left out by reason,
    ``(k, h + 1, reasons)``; the last head is the mean (the sum) over heads. An excess that is rounding is
    0."""
    shape = graph.weight.shape[:2]
    nothing = torch.full(shape, torch.nan, dtype=torch.float64, device=graph.weight.device)
    fine = torch.zeros(shape, dtype=torch.long, device=graph.weight.device)
    values, reasons = [], []
    for (statistic, _), one in found.items():
        parts = [
            nothing if x is None else x.double().expand(shape) for x in (one.value, one.uniform, one.permuted)
        ]
        null = parts[1] if one.permuted is None else parts[2]
        excess = parts[0] - null
        rounding = TOLERANCE * (parts[0].abs() + null.abs() + (statistic not in _UNITS))
        parts.append(torch.where(excess.abs() <= rounding, 0, excess))
        reason = fine if one.reason is None else one.reason.expand(shape)
        values.append(torch.stack([x.masked_fill(reason > 0, torch.nan) for x in parts], -1))
        reasons.append(reason)
    values, reasons = torch.stack(values, 1), torch.stack(reasons, 0)  # (b, k, h, 4), (k, b, h)
    values = torch.cat([values, values.nanmean(2, keepdim=True)], 2)
    left_out = torch.stack(
        [(reasons == k).sum(1) * (k > 0) for k in range(len(homophily.REASONS))], -1
    )  # (k, h, reasons)
    left_out = torch.cat([left_out, left_out.sum(1, keepdim=True)], 1)
    return values.cpu().numpy(), left_out.cpu().numpy()


def _note(left_out: np.ndarray, counted: int) -> str:
    why = "; ".join(
        f"{number} graph{'s' * (number > 1)} left out: {homophily.REASONS[k]}"
        for k, number in enumerate(left_out.tolist())
        if number
    )
    if why:
        return why
    if not counted:
        return "undefined in every graph"
    return "one example: no interval" if counted == 1 else ""
