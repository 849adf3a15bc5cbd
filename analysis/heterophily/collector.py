"""Statistics of a stream of graphs, collected batch by batch into one table."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch_geometric.data import Data, HeteroData

from attngraph import AttentionGraph
from attngraph.analysis import homophily
from attngraph.analysis.bipartite import AnyGraph, Bipartite, Stream, restored
from attngraph.analysis.bootstrap import Means
from attngraph.analysis.contrast import Region
from attngraph.analysis.heterophily.measurement import (
    DEFAULT,
    SPECTRA,
    TOLERANCE,
    UNBOUNDED,
    Key,
    Settings,
    measure,
    measure_regions,
    to_arrays,
)
from attngraph.analysis.labels import Labels
from attngraph.analysis.nulls import Draws
from attngraph.extras import pandas as pd

Labelling: TypeAlias = Mapping[str, Labels] | Callable[[str, AnyGraph], Mapping[str, Labels]] | None
Graphs: TypeAlias = Mapping[str, AnyGraph] | Mapping[str, list[AnyGraph]]
Differences: TypeAlias = Mapping[str, tuple[str, str]]

#: The columns of a heterophily table.
COLUMNS = tuple(
    "layer kind weights head statistic labels value low high null_uniform null_permuted excess excess_low "
    "excess_high examples note".split()
)


@dataclass(frozen=True)
class _Summary:
    """Means over examples and the ends of their intervals, each ``(statistics, h + 1, 4)``."""

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


class _LayerRecord:
    """The running means of one layer with one kind of weights."""

    def __init__(self, kind: str, keys: list[Key], heads: int, settings: Settings):
        self.kind, self.keys, self.heads = kind, keys, heads
        self.means = Means((len(keys), heads + 1, 4), settings.replicates, settings.seed)
        self.graphs, self.defined = 0, np.zeros((len(keys), heads + 1), int)
        self.left_out = np.zeros((len(keys), heads + 1, len(homophily.REASONS)), int)

    def summary(self, level: float) -> _Summary:
        return _Summary(self.means.mean(), *self.means.interval(level))

    def lines(self, summary: _Summary) -> Iterator[tuple[tuple[int, int], dict]]:
        """The numbers of each statistic and head, and their indices."""
        mean, low, high = summary.mean, summary.low, summary.high
        for k, (statistic, labels) in enumerate(self.keys):
            for head in range(self.heads + 1):
                yield (
                    (k, head),
                    {
                        "kind": self.kind,
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
    """Collects the statistics of graphs, batch by batch: first of every example and head, then their mean
    over examples with an interval, next to the same statistic of two null models. Memory does not grow with
    the number of examples.

    >>> collected = Heterophily()
    >>> for graphs in stream:
    ...     for name, graph in graphs.items():
    ...         collected.add(name, graph, {"class": labels})
    >>> collected.table()

    Label statistics exclude the diagonal of self-attention (where the classes are always equal);
    ``self_weight`` is the weight on it. All other statistics include it.

    Args:
        settings: settings of the measurement.
    """

    def __init__(self, settings: Settings = DEFAULT):
        self.settings = settings
        self._layers: dict[tuple[str, str], _LayerRecord] = {}

    def add(
        self,
        name: str,
        graph: AnyGraph,
        labels: Mapping[str, Labels] | None = None,
        weights: str = "M",
        regions: Mapping[str, Region] | None = None,
        examples: int | None = None,
    ) -> None:
        """Measure a batch of graphs of a layer.

        Args:
            name: of the layer.
            graph: an attention graph of any number of examples and heads, or a plain PyG graph. Of a streamed
                one (``capture(..., stream=True)``) there are the statistics that are sums over edges: no
                spectra, closed form and regions.
            labels: ``{name: classes}``; the same names in every batch of a layer.
            weights: what the edge weights are, for the column of that name.
            regions: ``{name: relevant values}`` in an attention graph; names go into the column ``labels``,
                and are the same in every batch of a layer.
            examples: number of examples that the graphs belong to, the same number of successive graphs each
                (attention in windows of an image); their mean is the example's. Default: one graph each.

        Raises:
            ValueError: labels, regions or a number of examples that do not fit, regions in a plain graph, or
                other labels, regions or heads than in the layer's earlier batches.
        """
        graph = restored(graph)
        if regions and not isinstance(graph, AttentionGraph):
            raise ValueError(f"{name}: only attention graphs have regions, got {type(graph).__name__}")
        kind = (graph.kind if isinstance(graph, AttentionGraph) else None) or ""
        view = Bipartite.of(graph)
        if view.weight.shape[0] == 0:
            return
        if isinstance(view, Stream) and self.settings.bins:
            raise ValueError(
                f"{name}: spectra need all weights at once, and the graph is streamed: set bins=0"
            )
        graphs = len(view.weight)
        if graphs % (examples or graphs):
            raise ValueError(
                f"{name}: {graphs} graphs cannot be the same number of each of {examples} examples"
            )
        record = self._layers.get((name, weights))
        first = 0 if record is None else record.graphs

        def new_draws(purpose: str) -> Draws:  # all kinds of weights of a layer see the same permutations
            return Draws(self.settings.seed, f"{name}/{purpose}", first)

        with torch.no_grad():
            scheme = graph if isinstance(graph, AttentionGraph) and not isinstance(view, Stream) else None
            measured = measure(view, labels or {}, self.settings, new_draws, kind != "self", scheme)
            if scheme is not None:
                measured |= measure_regions(scheme, regions or {}, self.settings, new_draws)
        if record is None:
            record = _LayerRecord(kind, list(measured), view.heads, self.settings)
            self._layers[name, weights] = record
        if record.keys != list(measured) or record.heads != view.heads:
            raise ValueError(
                f"{name}: a layer must have the same labels, regions, features and heads in every batch"
            )
        values, left_out = to_arrays(measured, view)
        parts = values.reshape(examples or graphs, -1, *values.shape[1:])
        with warnings.catch_warnings():  # NaN where a statistic is undefined in all graphs of an example
            warnings.simplefilter("ignore", RuntimeWarning)
            record.means.add(np.nanmean(parts, axis=1))
        record.graphs += graphs
        record.defined += (~np.isnan(values[..., 0])).sum(0)
        record.left_out += left_out

    def table(self, differences: Differences | None = None) -> pd.DataFrame:
        """One row for each layer, kind of weights, head, statistic and labels.

        The columns are those of :data:`~attngraph.analysis.heterophily.collector.COLUMNS`. ``head`` is a
        number, or "all" for the mean over heads. ``value`` is the mean over examples, ``examples`` their
        number, ``low`` and ``high`` the ends of its interval. ``excess`` is the mean difference to the
        permuted null, or to the uniform one where a permutation changes nothing. ``note`` says which graphs
        were excluded and why.

        Args:
            differences: ``{name: (minuend, subtrahend)}``, two kinds of weights each. For every layer that
                has both, rows with this name in the column ``weights`` hold the difference of every number,
                with the interval of the paired difference. ``examples`` is then the smaller number.

        Raises:
            ValueError: the two kinds were not measured on the same examples and labels.
        """
        lines = list(self._lines())
        for name, (minuend, subtrahend) in (differences or {}).items():
            lines += self._differences(name, minuend, subtrahend)
        kept = [line for line in lines if line["statistic"] not in SPECTRA]
        return pd.DataFrame(kept, columns=list(COLUMNS))

    def spectrum(self) -> pd.DataFrame:
        """The spectra: as :meth:`table`, with the column ``frequency`` (the middle of the bin) in place of
        ``labels``."""
        lines = [
            line | {"frequency": float(line["labels"])}
            for line in self._lines()
            if line["statistic"] in SPECTRA
        ]
        columns = ["frequency" if column == "labels" else column for column in COLUMNS]
        return pd.DataFrame(lines, columns=columns)

    def _lines(self) -> Iterator[dict]:
        for (name, weights), record in self._layers.items():
            counts = record.means.counts
            for place, line in record.lines(record.summary(self.settings.level)):
                note = _note(record.left_out[place], counts[*place, 0])
                yield {"layer": name, "weights": weights, "examples": counts[*place, 0], "note": note} | line

    def _differences(self, difference: str, minuend: str, subtrahend: str) -> Iterator[dict]:
        for name, weights in self._layers:
            if weights != minuend or (name, subtrahend) not in self._layers:
                continue
            record, other = self._layers[name, minuend], self._layers[name, subtrahend]
            if record.keys != other.keys:
                raise ValueError(f"{name}: {minuend} and {subtrahend} must have the same labels and features")
            numbers = record.means.minus(other.means, self.settings.level)
            scale = np.where([[[key[0] in UNBOUNDED]] for key in record.keys], abs(record.means.mean()), 1)
            summary = _Summary(*(np.where(abs(x) <= TOLERANCE * scale, 0, x) for x in numbers))
            counts, other_counts = record.means.counts, other.means.counts
            for place, line in record.lines(summary):
                fewest = int(min(counts[*place, 0], other_counts[*place, 0]))
                graphs, other_graphs = record.defined[place], other.defined[place]
                note = (
                    _note(np.zeros(0, int), fewest)
                    if graphs == other_graphs
                    else f"not the same graphs: {graphs} of {minuend}, {other_graphs} of {subtrahend}"
                )
                yield {"layer": name, "weights": difference, "examples": fewest, "note": note} | line


def heterophily(
    graphs: AnyGraph | Graphs | Iterable[AnyGraph | Graphs],
    labels: Labelling = None,
    settings: Settings = DEFAULT,
) -> pd.DataFrame:
    """The table of :class:`Heterophily` for one graph, several, or a stream of them.

    Args:
        graphs: a graph, ``{layer: graph}`` as :func:`attngraph.capture` returns it, ``{layer: [graphs]}`` of
            :func:`attngraph.record`, or an iterable of these. Graphs without a name are those of the layer
            "graph". Each graph counts as an example, also windows of an image (but see
            :meth:`Heterophily.add`).
        labels: ``{name: classes}`` for all graphs, or a function that gives them for a layer's name and a
            graph.
        settings: how to measure.

    Returns:
        See :meth:`Heterophily.table`.

    Raises:
        ValueError: no graphs, or labels that do not fit.
    """
    collected = Heterophily(settings)
    stream = (
        [graphs] if isinstance(graphs, (AttentionGraph, Data, HeteroData, Bipartite, Mapping)) else graphs
    )
    empty = True
    for item in stream:
        for name, found in (item if isinstance(item, Mapping) else {"graph": item}).items():
            for graph in found if isinstance(found, list) else [found]:
                collected.add(name, graph, labels(name, graph) if callable(labels) else labels)
                empty = False
    if empty:
        raise ValueError("graphs is empty: pass at least one graph")
    return collected.table()


def _note(left_out: np.ndarray, examples: int) -> str:
    """Reasons why graphs were excluded (with their numbers), or why there is no interval."""
    reasons = "; ".join(
        f"{number} graph{'s' * (number > 1)} excluded: {homophily.REASONS[k]}"
        for k, number in enumerate(left_out.tolist())
        if number
    )
    if reasons:
        return reasons
    if not examples:
        return "undefined in every graph"
    return "one example: no interval" if examples == 1 else ""
