"""Classes of nodes, by which label statistics compare them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from attngraph import AttentionGraph
from attngraph.analysis.bipartite import Bipartite
from attngraph.analysis.nulls import Draws, gather, shuffle
from attngraph.extras import optional

TEXT, IMAGE, SPECIAL = range(3)


@dataclass(frozen=True, eq=False)
class Labels:
    """A class for each node of each side.

    Args:
        query: int ``(b, n)``, or ``(b, h, n)`` if classes differ between heads; -1 for a node without a
            class, whose edges count in no statistic of these labels.
        value: int, the same for the values.
        shared: equal numbers on the two sides mean the same class. With False the sides have separate
            alphabets, and only label informativeness, aggregation and neighbourhood similarity are defined.

    Raises:
        ValueError: labels that are not integers, or of the wrong number of axes.
    """

    query: Tensor
    value: Tensor
    shared: bool = True

    def __post_init__(self) -> None:
        for name in ("query", "value"):
            labels = getattr(self, name)
            if labels.is_floating_point() or labels.dim() not in (2, 3):
                raise ValueError(
                    f"{name} labels must be integers of shape (b, nodes) or (b, h, nodes), got "
                    f"{labels.dtype} {tuple(labels.shape)}"
                )
            if labels.dim() == 2:
                labels = labels[:, None]
            object.__setattr__(self, name, labels.long())

    @staticmethod
    def same(labels: Tensor | Sequence[int]) -> Labels:
        """For graphs whose two sides are the same nodes (self-attention, plain PyG graphs): ``(n,)`` or
        ``(b, n)``."""
        labels = torch.as_tensor(labels)
        labels = labels[None] if labels.dim() == 1 else labels
        return Labels(labels, labels)

    def on(self, graph: Bipartite) -> Labels:
        """The labels of a graph: without classes at nodes that no visible edge touches, and with classes
        renumbered in each example (and head), from 0 up, so that one-hot codes are narrow.

        Raises:
            ValueError: another number of nodes than the graph's.
        """
        b, _, n, m = graph.weight.shape
        for name, labels, nodes in (("query", self.query, n), ("value", self.value, m)):
            if labels.shape[-1] != nodes or labels.shape[0] != b or labels.shape[1] not in (1, graph.heads):
                raise ValueError(
                    f"{name} labels must have shape ({b}, {nodes}) or ({b}, {graph.heads}, {nodes}), got "
                    f"{tuple(labels.shape)}"
                )
        heads = max(self.query.shape[1], self.value.shape[1])
        query = torch.where(graph.rows[:, None], self.query.clamp(min=-1), -1).expand(-1, heads, -1)
        value = torch.where(graph.columns[:, None], self.value.clamp(min=-1), -1).expand(-1, heads, -1)
        if self.shared:
            query, value = _renumbered(torch.cat([query, value], -1)).split([n, m], -1)
        else:
            query, value = _renumbered(query), _renumbered(value)
        return replace(self, query=query, value=value)

    @cached_property
    def sizes(self) -> tuple[int, int]:
        """The numbers of classes of the labels :meth:`on` a graph, K of the queries and C of the values, at
        least 1. With ``shared`` labels K = C."""
        queries, values = (int(side.max()) + 1 if side.numel() else 0 for side in (self.query, self.value))
        most = max(queries, values)
        return (max(1, most), max(1, most)) if self.shared else (max(1, queries), max(1, values))

    def codes(self) -> tuple[Tensor, Tensor]:
        """One-hot codes of the labels :meth:`on` a graph, bool ``(b, h|1, n, K)`` and ``(b, h|1, m, C)``; a
        row of False for a node without a class."""
        query, value = (
            side[..., None] == torch.arange(size, device=side.device)
            for side, size in zip((self.query, self.value), self.sizes)
        )
        return query, value

    def permuted(self, graph: Bipartite, draws: Draws) -> Labels:
        """The labels :meth:`on` a graph, with the classes permuted; see :mod:`attngraph.analysis.nulls`."""
        touched = graph.columns[:, None]
        if not graph.paired:
            order = shuffle(touched & (self.value >= 0), draws)
            return replace(self, value=gather(self.value, order)).on(graph)
        known = (touched | graph.rows[:, None]) & ((self.query >= 0) | (self.value >= 0))
        order = shuffle(known, draws)
        return replace(self, query=gather(self.query, order), value=gather(self.value, order)).on(graph)


def _renumbered(labels: Tensor) -> Tensor:
    """The rank of each label among the different labels of its row; -1 stays."""
    ordered, order = labels.sort(-1)
    new = torch.zeros_like(ordered)
    new[..., 1:] = ordered[..., 1:] != ordered[..., :-1]
    rank = torch.zeros_like(labels).scatter(-1, order, new.cumsum(-1))
    return torch.where(labels < 0, -1, rank - (ordered[..., :1] < 0).long())


def modality(
    graph: AttentionGraph, special_query: Tensor | None = None, special_value: Tensor | None = None
) -> Labels | None:
    """Text, image or special (``TEXT``, ``IMAGE``, ``SPECIAL``) for every node; None where the graph does not
    know.

    Args:
        special_query, special_value: bool ``(b, n)`` and ``(b, m)``, which nodes are special tokens ([CLS],
            [SEP]...).
    """
    query, value = graph.is_image()
    if query is None or value is None:
        return None
    query, value = (torch.where(images, IMAGE, TEXT) for images in (query, value))
    if special_query is not None:
        query = torch.where(special_query, SPECIAL, query)
    if special_value is not None:
        value = torch.where(special_value, SPECIAL, value)
    return Labels(query, value)


def classes_of_tokens(
    tokens: Sequence[Sequence[str]],
    classes: Mapping[str, str] | Mapping[str, int],
    names: Sequence[str] | None = None,
) -> Tensor:
    """The class of each token, ``(b, n)``; -1 for tokens without a class.

    Args:
        tokens: ``b`` lists of ``n`` tokens.
        classes: token to class, such as a part of speech.
        names: the names of the classes in the order of their numbers. Default: sorted.
    """
    names = sorted(set(map(str, classes.values()))) if names is None else list(names)
    number = {name: k for k, name in enumerate(names)}
    return torch.tensor(
        [[number[str(classes[token])] if token in classes else -1 for token in line] for line in tokens]
    )


class SharedClusters:
    """k-means over the queries and values of one layer together, head by head.

    It is fitted on the nodes that were gathered, or, where none were, on the first graph that is to be
    labelled. Where the two clouds lie apart, a cluster holds nodes of one side only. Then no labels are
    shared, and the statistics say so.

    >>> clusters = SharedClusters(8)
    >>> for graph in stream:
    ...     clusters.gather("layer", graph)
    >>> clusters("layer", graph)

    Args:
        clusters: the number of clusters, at least 2.
        points: the most nodes of each side for the fit, chosen by ``seed``.
        examples: the number of first examples whose nodes are used.
        seed: of the choice and of k-means.

    Raises:
        ValueError: fewer than 2 clusters, or fewer points, or no examples.
    """

    def __init__(self, clusters: int = 8, points: int = 512, examples: int = 16, seed: int = 0):
        if clusters < 2 or points < clusters:
            raise ValueError(
                f"clusters must be at least 2 and at most points, got {clusters} clusters and {points} points"
            )
        if examples < 1:
            raise ValueError(f"examples must be at least 1, got {examples}")
        self.clusters, self.points, self.examples, self.seed = clusters, points, examples, seed
        self._seen: dict[str, int] = {}
        # layer: keys (points) and features (points, h, d) of either side
        self._gathered: dict[str, list[tuple[Tensor, Tensor]]] = {}
        self._centres: dict[str, Tensor] = {}  # (h, k, d)

    def gather(self, name: str, graph: Bipartite) -> None:
        """Gather nodes of a graph of the layer ``name`` for its fit; none after its first ``examples``, or
        after the fit.

        Raises:
            ValueError: a graph without features.
        """
        query, value = graph.features
        seen = self._seen.get(name, 0)
        new = self.examples - seen
        if new <= 0 or name in self._centres:
            return
        draws, sides = Draws(self.seed, name, seen), []
        for side, (x, valid) in enumerate(((query, graph.rows), (value, graph.columns))):
            valid = valid[:new]
            example, node = valid.nonzero(as_tuple=True)
            keys, x = draws(valid)[valid.cpu()], x[example, :, node]
            if seen:
                keys, x = (torch.cat(parts) for parts in zip(self._gathered[name][side], (keys, x)))
            order = keys.argsort()[: self.points]
            sides.append((keys[order], x[order.to(x.device)]))
        self._gathered[name], self._seen[name] = sides, seen + len(graph.rows)

    def fit(self, name: str) -> None:
        """Find the centres of a layer that was gathered.

        Raises:
            ValueError: fewer nodes than clusters.
        """
        # removed at once: after an error it is gathered again
        del self._seen[name]
        points = torch.cat([x for _, x in self._gathered.pop(name)]).transpose(0, 1)
        if points.shape[1] < self.clusters:
            raise ValueError(
                f"{self.clusters} clusters need at least as many nodes, and the first examples have "
                f"{points.shape[1]}"
            )
        centres = []
        for head in points:
            means = optional("sklearn.cluster").KMeans(self.clusters, n_init=1, random_state=self.seed)
            means.fit(head.double().cpu().numpy())
            centres.append(torch.from_numpy(means.cluster_centers_))
        self._centres[name] = torch.stack(centres).to(points)

    def __call__(self, name: str, graph: Bipartite) -> Labels:
        """Labels ``(b, h, nodes)`` of the graph's nodes: the nearest centre of the layer ``name``.

        Raises:
            ValueError: a graph without features, or fewer nodes than clusters for the fit.
        """
        if name not in self._centres:
            if name not in self._gathered:
                self.gather(name, graph)
            self.fit(name)
        centres = self._centres[name]
        query, value = (_nearest(x, centres) for x in graph.features)
        return Labels(
            torch.where(graph.rows[:, None], query, -1), torch.where(graph.columns[:, None], value, -1)
        )


def _nearest(x: Tensor, centres: Tensor) -> Tensor:
    """The nearest of ``(h, k, d)`` centres for each of ``(b, h, nodes, d)`` nodes, ``(b, h, nodes)``."""
    square = x.square().sum(-1, keepdim=True) - 2 * x @ centres.mT + centres.square().sum(-1)[:, None]
    return square.argmin(-1)
