"""The nodes of attention graphs as points of the projected query and value space."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from attngraph.analysis.bipartite import factor, visible_edges
from attngraph.analysis.relevance import valid_nodes
from attngraph.extras import pandas as pd
from attngraph.graph import AttentionGraph
from attngraph.reading.instrument import instrument
from attngraph.reading.outputs import matrix

ROLES = ("query", "value")
WHOLE = "all"  # all heads of a layer together
COLUMNS = ["layer", "kind", "head", "role", "modality", "token", "class", "example", "node"]
NodeLabels: TypeAlias = Mapping[str, Sequence[Sequence[str]]]


@dataclass(frozen=True, eq=False)
class Cloud:
    r"""The points of one layer, or of one head of it.

    Attributes:
        nodes: a row for each point, with ``COLUMNS``: head is a number or "all", role query or value,
            modality text, image or unknown, node the place in the sequence, padding not counted.
        features: ``(points, width)``; their Euclidean distances are those in :math:`\hat V`.
        projected: False where the layer has no output projection that could be read: distances are those
            before it.
    """

    nodes: pd.DataFrame
    features: np.ndarray
    projected: bool


def output_matrices(model: nn.Module) -> dict[str, Tensor]:
    """:math:`W_o` of every attention layer that has one, ``{layer: (h·d, width)}``."""
    handle = instrument(model)
    try:
        outputs = {name: site.adapted_output() for name, site in handle.sites.items()}
    finally:
        handle.remove()
    return {name: matrix(output).detach() for name, output in outputs.items() if output is not None}


class Points:
    r"""Gathers points from graph after graph, at most ``most`` for each layer and head.

    The features are queries and values after :math:`W_o`, up to a rotation, so that all distances are kept.
    For a whole layer: :math:`\hat V = \sum_h x^h W_o^h`, which needs :math:`W_o` itself (concatenated heads,
    each in its own metric, have other distances: the products :math:`W_o^h {W_o^{h'}}^\top` are missing). For
    one head: :math:`x^h L^h` with :math:`L^h {L^h}^\top = W_o^h {W_o^h}^\top`, as wide as the head. Points of
    different heads are in different bases, and do not share a map.

    Padding is excluded, special tokens are kept. If there are too many points, the queries and the values of
    every example are subsampled at random to the same number. The sample depends on the seed and on the nodes
    only, and is the same for all heads, for any batches, and for the same examples in another model.

    Args:
        most: points kept for each cloud.
        seed: seed of the sample.
        heads: numbers of the heads if the graphs hold only some: a cloud for each. Default: a cloud for the
            whole layer.
        outputs: from :func:`output_matrices`; only for whole layers.
    """

    def __init__(
        self,
        most: int = 3000,
        seed: int = 0,
        heads: Sequence[int] | None = None,
        outputs: Mapping[str, Tensor] | None = None,
    ):
        if most < 1:
            raise ValueError(f"most must be at least 1, got {most}")
        self.most, self.seed = most, seed
        self.heads = None if heads is None else list(heads)
        self.outputs = outputs or {}
        self._layers: dict[str, _Layer] = {}

    @torch.no_grad()
    def add(
        self,
        layer: str,
        graph: AttentionGraph,
        examples: Sequence[str],
        query_labels: NodeLabels | None = None,
        value_labels: NodeLabels | None = None,
        query_valid: Tensor | None = None,
        value_valid: Tensor | None = None,
    ) -> None:
        """Add the nodes of a batch of graphs of a layer.

        Args:
            layer: its name.
            graph: ``b`` examples.
            examples: their names, ``b``.
            query_labels, value_labels: any of ``"token"`` and ``"class"``: ``(b, n)`` and ``(b, m)`` strings.
            query_valid, value_valid: ``(b, n)`` and ``(b, m)`` bool, False for padding that the graph's masks
                do not hold.

        Raises:
            ValueError: shapes that do not fit, or another number of heads than were named.
        """
        b, h = graph.shape[:2]
        if len(examples) != b:
            raise ValueError(
                f"examples must be as many as the graph's, got {len(examples)} for {b} ({layer})"
            )
        if self.heads is not None and len(self.heads) != h:
            raise ValueError(f"heads must be those of the graph: got {len(self.heads)} for {h} ({layer})")
        kept = self._layers.get(layer, _Layer(graph.kind))
        project, kept.projected = self._projection(layer, graph)
        sides = [
            self._side(graph, kept, 0, query_labels, query_valid),
            self._side(graph, kept, 1, value_labels, value_valid),
        ]
        self._layers[layer] = kept
        kept.sizes += [side.valid.sum(1) for side in sides]
        each = kept.each(self.most)
        for side in sides:
            example, node = (side.valid & (side.rank < each)).nonzero()
            rows = side.rows(example, node)
            kept.rows.append(
                rows.assign(
                    number=kept.examples + example, example=np.asarray(examples, dtype=object)[example]
                )
            )
            chosen = side.features[torch.from_numpy(example), :, torch.from_numpy(node)]  # (points, h, d)
            kept.features.append(project(chosen.float()).cpu().numpy())
        kept.examples += b
        if sum(map(len, kept.rows)) > 2 * max(self.most, kept.thinned):  # twice the last number of points
            kept.thin(self.most)

    def clouds(self) -> list[Cloud]:
        """One cloud for each layer, or for each layer and head, in the order in which the layers came."""
        clouds = []
        for name, kept in self._layers.items():
            kept.thin(self.most)
            order = np.lexsort([kept.rows[0][key] for key in ("node", "role", "number")])
            rows, features = kept.rows[0].iloc[order], kept.features[0][:, order]
            if len(rows) > self.most:  # more examples than points
                sample = np.sort(np.random.default_rng(self.seed).choice(len(rows), self.most, replace=False))
                rows, features = rows.iloc[sample], features[:, sample]
            rows = rows.reset_index(drop=True).assign(layer=name, kind=kept.kind or "unknown")
            for head, points in zip([WHOLE] if self.heads is None else self.heads, features):
                nodes = rows.assign(head=head)[COLUMNS]
                clouds.append(Cloud(nodes, np.ascontiguousarray(points), kept.projected))
        return clouds

    def _side(
        self, graph: AttentionGraph, kept: _Layer, side: int, labels: NodeLabels | None, valid: Tensor | None
    ) -> _Side:
        own = visible_edges(graph).any(1) if side else valid_nodes(graph, 0)  # values that a query sees
        mask = (own if valid is None else own & valid.to(own.device)).cpu().numpy()
        image = graph.is_image()[side]
        return _Side(
            ROLES[side],
            (graph.query, graph.value)[side],
            mask,
            self._ranks(mask, side, kept.examples),
            None if image is None else image.cpu().numpy(),
            labels or {},
        )

    def _projection(self, layer: str, graph: AttentionGraph) -> tuple[Callable[[Tensor], Tensor], bool]:
        """Function from features ``(points, h, d)`` to ``(clouds, points, width)``, and whether it is W_o."""
        _, h, _, _, d = graph.shape
        if self.heads is None and h > 1:
            output = self.outputs.get(layer.partition("#")[0])
            if output is not None and output.shape[0] == h * d:
                return lambda x: (x.flatten(1) @ output.to(x))[None], True
            if graph.metric is not None:
                raise ValueError(
                    f"{layer}: the points of a whole layer need W_o, but the metric is that of each head: "
                    "pass outputs=output_matrices(model), or select heads"
                )
            return lambda x: x.flatten(1)[None], False
        if graph.metric is None:
            return lambda x: x.transpose(0, 1), False
        root = factor(graph.metric.cpu())  # (h, d, d), G = L L^T
        return lambda x: x.transpose(0, 1) @ root.to(x), True

    def _ranks(self, valid: np.ndarray, role: int, before: int) -> np.ndarray:
        """Random ranks of the valid nodes of each example: ``(b, nodes)``, from 0 up."""
        order = np.full(valid.shape, np.inf)
        for k, nodes in enumerate(valid):
            order[k, nodes] = np.random.default_rng([self.seed, role, before + k]).random(int(nodes.sum()))
        return order.argsort(1).argsort(1)


@dataclass(frozen=True, eq=False)
class _Side:
    """The queries, or the values, of a batch of graphs.

    Args:
        role: one of ``ROLES``.
        features: ``(b, h, nodes, d)``.
        valid: bool ``(b, nodes)``, False for padding.
        rank: ``(b, nodes)``, the place of each node in a random order of its example's valid nodes.
        image: bool ``(b, nodes)``, which nodes stand for parts of an image; None if unknown.
        labels: see :meth:`Points.add`.
    """

    role: str
    features: Tensor
    valid: np.ndarray
    rank: np.ndarray
    image: np.ndarray | None
    labels: NodeLabels

    def __post_init__(self):
        for name in ("token", "class"):
            shape = self.names(name).shape
            if shape != self.rank.shape:
                raise ValueError(
                    f"{self.role}_labels[{name!r}] must have shape {self.rank.shape}, got {shape}"
                )

    def names(self, label: str) -> np.ndarray:
        """The nodes' labels of a kind, ``(b, nodes)``."""
        return np.asarray(self.labels.get(label, np.full(self.rank.shape, "")), dtype=object)

    def rows(self, example: np.ndarray, node: np.ndarray) -> pd.DataFrame:
        """A row for each of some nodes, given by their example and their place in it."""
        if self.image is None:
            modality = np.full(len(node), "unknown")
        else:
            modality = np.where(self.image[example, node], "image", "text")
        rows = {
            "role": self.role,
            "modality": modality,
            "rank": self.rank[example, node],
            "node": self.valid.cumsum(1)[example, node] - 1,
        }
        for name in ("token", "class"):
            rows[name] = self.names(name)[example, node]
        return pd.DataFrame(rows)


@dataclass(eq=False)
class _Layer:
    """The points of one layer so far. ``features``: ``(clouds, points, width)`` arrays."""

    kind: str | None
    projected: bool = True
    examples: int = 0
    thinned: int = 0  # points that the last thinning left
    sizes: list[np.ndarray] = field(default_factory=list)  # valid nodes of each example and role
    rows: list[pd.DataFrame] = field(default_factory=list)
    features: list[np.ndarray] = field(default_factory=list)

    def each(self, most: int) -> int:
        """Number of queries, and of values, of each example that gives at most ``most`` points in total; at
        least one. More examples only lower it."""
        sizes = np.concatenate(self.sizes)
        return max(1, bisect_right(range(1, most + 1), most, key=lambda k: np.minimum(sizes, k).sum()))

    def thin(self, most: int) -> None:
        """Keep the first :meth:`each` nodes of every example and role, in their random order."""
        rows, features = pd.concat(self.rows, ignore_index=True), np.concatenate(self.features, 1)
        kept = (rows["rank"] < self.each(most)).to_numpy()
        self.rows, self.features, self.thinned = [rows[kept]], [features[:, kept]], int(kept.sum())
