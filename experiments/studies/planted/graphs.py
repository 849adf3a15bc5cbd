"""Planted graphs: attention whose weights say nothing, and features of a known contrast.

A graph has :data:`GROUPS` groups of values. The values of a group share a topic, which is the same in all
graphs, and a class, which is drawn anew for each graph. A query belongs to a group, and the answer is the
class of that group. :mod:`experiments.studies.planted.theory` says what follows.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from analysis.contrast import Region
from attngraph import AttentionGraph

GROUPS = 3
CLASSES = 8
EDGES = 8  # of each query
FEATURES = 32
TOPIC = 0.8  # share of the topic in the square of a value's length, which is 1
CLEAN = 0.25  # share of the class's own direction in the square of a value's content; the rest is noise
SPREAD = 0.9  # most by which an attention weight differs from 1/EDGES, as a share of it
SPLITS = ("train", "validation", "test")
#: N1/N2 → queries and values of a graph. Every value has the same number of edges, EDGES · N1/N2.
SHAPES = {Fraction(1, 4): (9, 36), Fraction(1): (18, 18), Fraction(2): (36, 18)}
#: Shares of the attention mass on distractors: :data:`EDGES` times them can be shared out in pairs.
MASSES = (0.25, 0.5, 0.75)


@dataclass(frozen=True, eq=False)
class Planted:
    """Some graphs of one seed; ``g`` graphs, ``n`` queries and ``m`` values in each, ``d`` features.

    Args:
        weight: attention weights ``(g, n, m)``; rows sum to 1.
        value: value features ``(g, m, d)``, of length 1.
        topic: of each query's group, ``(g, n, d)``, unit vectors.
        own: a direction of each query's group that no value has, ``(g, n, d)``, unit vectors.
        relevant: bool ``(g, n, m)``, which values are of the query's group.
        answer: ``(g, n)``, the class that the query's relevant values carry.
    """

    weight: Tensor
    value: Tensor
    topic: Tensor
    own: Tensor
    relevant: Tensor
    answer: Tensor

    def query(self, contrast: Tensor | float) -> Tensor:
        r"""Query features :math:`c\, t + \sqrt{1 - c^2}\, s`, ``(g, n, d)``, of length 1."""
        return mix(self.topic, self.own, contrast)

    def graph(self, contrast: float) -> AttentionGraph:
        """All graphs, as a batch."""
        query, value, weight = (x[:, None] for x in (self.query(contrast), self.value, self.weight))
        return AttentionGraph(query, value, weight)

    def region(self) -> Region:
        """What is relevant; a distractor is any other value with an edge."""
        return Region(self.relevant)


def mix(topic: Tensor, own: Tensor, contrast: Tensor | float) -> Tensor:
    r""":math:`c\, t + \sqrt{1 - c^2}\, s`."""
    c = torch.as_tensor(contrast, dtype=topic.dtype, device=topic.device)
    return c * topic + (1 - c.square()).sqrt() * own


def draw(
    graphs: int, ratio: Fraction, mass: float, seed: int, split: str, dtype: torch.dtype = torch.float32
) -> Planted:
    r"""Draw graphs.

    Every query has :data:`EDGES` edges: :math:`\delta` of them lead to distractors, the same number to each
    other group. Weights come in pairs :math:`(1 \pm u)` / :data:`EDGES`, dealt at random among a
    query's relevant values and among its distractors. So the weight of a single edge has the same
    distribution whether it leads to a relevant value or to a distractor, the mass on distractors is
    :math:`\delta` exactly, and, since all values have the same number of edges, value degrees tell nothing
    either.

    Args:
        graphs: how many.
        ratio: N1/N2, of :data:`SHAPES`.
        mass: :math:`\delta`, the mass on distractors, of :data:`MASSES`.
        seed: of the features' directions and of all draws.
        split: one of :data:`SPLITS`; each has draws of its own.
        dtype: of the features and weights.
    """
    queries, values = SHAPES[ratio]
    away = round(EDGES * mass)
    random = np.random.default_rng([seed, SPLITS.index(split), queries, values, away])
    frame = _frame(seed)

    pattern = _edges(queries, values, away)
    rows = random.permuted(np.tile(np.arange(queries), (graphs, 1)), axis=1)
    columns = random.permuted(np.tile(np.arange(values), (graphs, 1)), axis=1)
    edges = pattern[rows[:, :, None], columns[:, None, :]]  # (g, n, m)
    group_q, group_v = rows % GROUPS, columns % GROUPS
    relevant = group_q[:, :, None] == group_v[:, None, :]
    weight = _weights(edges, relevant, away, random)

    classes = random.integers(0, CLASSES, (graphs, GROUPS))
    class_v = np.take_along_axis(classes, group_v, 1)  # (g, m)
    noise = random.standard_normal((graphs, values, CLASSES))
    np.put_along_axis(noise, class_v[..., None], 0, 2)
    noise /= np.linalg.norm(noise, axis=2, keepdims=True)
    content = np.sqrt(CLEAN) * np.eye(CLASSES)[class_v] + np.sqrt(1 - CLEAN) * noise

    topics, owns, directions = np.split(frame, [GROUPS, 2 * GROUPS])
    value = np.sqrt(TOPIC) * topics[group_v] + np.sqrt(1 - TOPIC) * content @ directions
    return Planted(
        weight=torch.from_numpy(weight).to(dtype),
        value=torch.from_numpy(value).to(dtype),
        topic=torch.from_numpy(topics[group_q]).to(dtype),
        own=torch.from_numpy(owns[group_q]).to(dtype),
        relevant=torch.from_numpy(relevant),
        answer=torch.from_numpy(np.take_along_axis(classes, group_q, 1)),
    )


def _frame(seed: int) -> np.ndarray:
    """Orthonormal directions of a seed: topics, the queries' own, classes, ``(2 GROUPS + CLASSES, d)``."""
    normal = np.random.default_rng([seed]).standard_normal((FEATURES, 2 * GROUPS + CLASSES))
    return np.linalg.qr(normal)[0].T


@lru_cache
def _edges(queries: int, values: int, away: int) -> np.ndarray:
    """Which edges there are, bool ``(n, m)``: node k is of group k modulo :data:`GROUPS`.

    Each group of values is walked through again and again, a query taking the next ones, so that all values
    have the same number of edges.
    """
    edges = np.zeros((queries, values), dtype=bool)
    size = values // GROUPS
    for group in range(GROUPS):
        place = 0
        for query in range(queries):
            count = EDGES - away if query % GROUPS == group else away // (GROUPS - 1)
            edges[query, group + GROUPS * (np.arange(place, place + count) % size)] = True
            place += count
    return edges


def _weights(edges: np.ndarray, relevant: np.ndarray, away: int, random: np.random.Generator) -> np.ndarray:
    """Weights of the edges, ``(g, n, m)``, in pairs."""
    graphs, queries, _ = edges.shape
    order = random.random(edges.shape) + np.where(edges, np.where(relevant, 0, 1), 2)
    places = np.argpartition(order, [EDGES - away - 1, EDGES - 1], axis=2)[..., :EDGES]
    places = np.take_along_axis(places, np.take_along_axis(order, places, 2).argsort(2), 2)
    u = random.uniform(0, SPREAD, (graphs, queries, EDGES // 2))
    pairs = np.stack([1 + u, 1 - u], axis=-1).reshape(graphs, queries, EDGES) / EDGES
    weight = np.zeros(edges.shape)
    np.put_along_axis(weight, places, pairs, 2)
    return weight
