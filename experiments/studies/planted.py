"""The study on planted graphs: attention with uninformative weights, features of a known contrast, and every
scheme trained on them.

A graph has :data:`GROUPS` groups of values. The values of a group share a topic, which is the same in all
graphs, and a class, which is sampled for each graph. A query belongs to a group, and the answer is the class
of that group. :mod:`attngraph.experiments.studies.planted_theory` has the predictions, and
:mod:`attngraph.experiments.studies.planted_cues` graphs with a further cue.

Runs that differ in the seed or in the contrast only are stacked (``torch.func.vmap`` over the module that one
run trains), and Adam moves every number by its own gradients, so stacking changes no run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from fractions import Fraction
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.functional import cross_entropy, layer_norm

from attngraph import AttentionGraph
from attngraph.adapters import APPNP, GCN, GCNII, PGNN, Residual, RotatedQueries, Scheme, Tempering
from attngraph.adapters.joins import JOINS
from attngraph.analysis.contrast import Region
from attngraph.analysis.contrast import contrast as contrast_of_distances
from attngraph.experiments.studies.reweighting import CLOSED_FORM, Distances

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
        """The relevant values; a distractor is any other value with an edge."""
        return Region(self.relevant)


def mix(topic: Tensor, own: Tensor, contrast: Tensor | float) -> Tensor:
    r""":math:`c\, t + \sqrt{1 - c^2}\, s`."""
    c = torch.as_tensor(contrast, dtype=topic.dtype, device=topic.device)
    return c * topic + (1 - c.square()).sqrt() * own


def draw(
    graphs: int, ratio: Fraction, mass: float, seed: int, split: str, dtype: torch.dtype = torch.float32
) -> Planted:
    r"""Sample graphs.

    Every query has :data:`EDGES` edges: :math:`\delta` of them lead to distractors, the same number to each
    other group. Weights come in pairs :math:`(1 \pm u)` / :data:`EDGES`, assigned at random to a
    query's relevant values and to its distractors. So the weight of a single edge has the same
    distribution whether it leads to a relevant value or to a distractor, the mass on distractors is
    :math:`\delta` exactly, and, since all values have the same number of edges, value degrees are
    uninformative too.

    Args:
        graphs: number of graphs.
        ratio: N1/N2, of :data:`SHAPES`.
        mass: :math:`\delta`, the mass on distractors, of :data:`MASSES`.
        seed: of the features' directions and of all samples.
        split: one of :data:`SPLITS`; each has its own samples.
        dtype: of the features and weights.
    """
    queries, values = SHAPES[ratio]
    away = round(EDGES * mass)
    random = np.random.default_rng([seed, SPLITS.index(split), queries, values, away])

    pattern = _edges(queries, values, away)
    rows = random.permuted(np.tile(np.arange(queries), (graphs, 1)), axis=1)
    columns = random.permuted(np.tile(np.arange(values), (graphs, 1)), axis=1)
    edges = pattern[rows[:, :, None], columns[:, None, :]]  # (g, n, m)
    group_q, group_v = rows % GROUPS, columns % GROUPS
    relevant = group_q[:, :, None] == group_v[:, None, :]
    weight = _weights(edges, relevant, away, random)

    part = np.full(group_v.shape, np.sqrt(TOPIC))
    return plant(weight, relevant, group_q, group_v, part, directions(seed), random, dtype)


def plant(
    weight: np.ndarray,
    relevant: np.ndarray,
    group_q: np.ndarray,
    group_v: np.ndarray,
    part: np.ndarray,
    frame: np.ndarray,
    random: np.random.Generator,
    dtype: torch.dtype,
) -> Planted:
    """Features and answers for weights.

    Args:
        weight, relevant: as in :class:`Planted`.
        group_q, group_v: groups of the nodes, ``(g, n)`` and ``(g, m)``; queries are in the first
            :data:`GROUPS`.
        part: of each value along its topic, ``(g, m)``.
        frame: see :func:`directions`.
        random: samples classes and noise.
        dtype: of the features and weights.
    """
    graphs, values = group_v.shape
    groups = len(frame) - GROUPS - CLASSES
    classes = random.integers(0, CLASSES, (graphs, groups))
    class_v = np.take_along_axis(classes, group_v, 1)  # (g, m)
    noise = random.standard_normal((graphs, values, CLASSES))
    np.put_along_axis(noise, class_v[..., None], 0, 2)
    noise /= np.linalg.norm(noise, axis=2, keepdims=True)
    content = np.sqrt(CLEAN) * np.eye(CLASSES)[class_v] + np.sqrt(1 - CLEAN) * noise

    topics, owns, carriers = np.split(frame, [groups, groups + GROUPS])
    value = part[..., None] * topics[group_v] + np.sqrt(1 - TOPIC) * content @ carriers
    return Planted(
        weight=torch.from_numpy(weight).to(dtype),
        value=torch.from_numpy(value).to(dtype),
        topic=torch.from_numpy(topics[group_q]).to(dtype),
        own=torch.from_numpy(owns[group_q]).to(dtype),
        relevant=torch.from_numpy(relevant),
        answer=torch.from_numpy(np.take_along_axis(classes, group_q, 1)),
    )


def directions(seed: int, groups: int = GROUPS) -> np.ndarray:
    """Orthonormal directions of a seed: topics of groups of values, the queries' own, classes,
    ``(groups + GROUPS + CLASSES, d)``."""
    normal = np.random.default_rng([seed]).standard_normal((FEATURES, groups + GROUPS + CLASSES))
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


# ---- schemes and conditions --------------------------------------------------------------------------------

HIDDEN = FEATURES // 8  # width of the bottleneck, as in adapters
EXPONENTS = ("p", "a", "b")


@dataclass(frozen=True)
class Row:
    """A scheme, with the arguments that differ from its defaults."""

    title: str
    scheme: type[Scheme]
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def make(self) -> Scheme:
        """A new scheme."""
        return self.scheme(**self.arguments)


ROWS = {
    "gcn": Row("GCN", GCN),
    "appnp": Row("APPNP", APPNP),
    "gcnii": Row("GCNII", GCNII),
    "residual": Row("Residual alone", Residual),
    "p2": Row("p = 2", PGNN, {"p": 2, "learn_p": False}),
    "tempering": Row("Tempering", Tempering),
    "placebo": Row("Rotated queries", RotatedQueries),  # its name in earlier runs
    "pgnn": Row("pGNN, μ 0.1", PGNN),
    "pgnn_mu1": Row("pGNN, μ 1", PGNN, {"mu": 1}),
    "closed": Row("Closed form", Distances, {"sees": CLOSED_FORM}),
    "free": Row("Free exponents", Distances, {"free": True}),
}
#: Rows that do not use distances; pGNN is compared with the best of them. Rotated queries are not one of
#: them: they use lengths, degrees and distances of another space.
WITHOUT = ("gcn", "appnp", "gcnii", "residual", "p2", "tempering")


class Part(Protocol):
    """Graphs that differ in nothing but the contrast and the seed; their runs are trained together."""

    @property
    def axes(self) -> dict[str, float | str]:
        """Two columns of a table of runs."""
        ...

    def draw(self, graphs: int, seed: int, split: str, dtype: torch.dtype = torch.float32) -> Planted:
        """Sample graphs of one of :data:`SPLITS`."""
        ...


@dataclass(frozen=True)
class Direction:
    """Graphs in which relevant values differ from distractors in direction only; see :func:`draw`.

    Args:
        ratio: N1/N2, of :data:`SHAPES`.
        mass: on distractors, of :data:`MASSES`.
    """

    ratio: Fraction
    mass: float

    @property
    def axes(self) -> dict[str, float | str]:
        return {"ratio": float(self.ratio), "mass": self.mass}

    def draw(self, graphs: int, seed: int, split: str, dtype: torch.dtype = torch.float32) -> Planted:
        return draw(graphs, self.ratio, self.mass, seed, split, dtype)


@dataclass(frozen=True)
class Study:
    """Rows that are run at every rate in every condition, a part at one contrast.

    Args:
        parts: kinds of graphs.
        rows: of :data:`ROWS`.
        contrasts: c, in [-1, 1].
        rates: of Adam, the same for all rows; they fall to 0 in a straight line.
        steps: of Adam.
        batch: graphs of each step; no graph is seen twice.
        scored: graphs for validation, and as many for the test.
        join: of the schemes' output to the attention output, of ``attngraph.adapters.joins.JOINS``.
    """

    parts: Sequence[Part] = tuple(Direction(ratio, mass) for mass in MASSES for ratio in SHAPES)
    rows: Sequence[str] = tuple(name for name in ROWS if name not in ("closed", "free"))
    contrasts: Sequence[float] = (-0.9, -0.6, -0.3, 0, 0.3, 0.6, 0.9)
    rates: Sequence[float] = (0.006, 0.02, 0.06)
    steps: int = 120
    batch: int = 10
    scored: int = 128
    join: str = "replace"

    @property
    def columns(self) -> list[str]:
        """The columns of a table of runs. The first three are the condition; ``contrast`` is c. ``measured``
        is the contrast of distances of the test graphs, ``validation`` and ``test`` are accuracies; then come
        learned exponents, NaN where none is learned."""
        learned = set().union(*(ROWS[name].make().learned() for name in self.rows))
        return [
            *self.parts[0].axes,
            *("contrast", "row", "rate", "seed", "measured", "validation", "test"),
            *(name for name in EXPONENTS if name in learned),
        ]


#: A minute's worth.
QUICK = Study(
    parts=(Direction(Fraction(1), 0.5),),
    contrasts=(-0.9, 0, 0.9),
    rates=(0.02,),
    steps=60,
    batch=8,
    scored=16,
)


class Reader(nn.Module):
    """The trained parts of one run: a scheme, a join with its bottleneck, and, as after an attention layer,
    LayerNorm (without parameters) and a linear readout of the class."""

    def __init__(self, row: Row, join: str):
        super().__init__()
        self.scheme: Scheme = row.make()
        self.join = JOINS[join](FEATURES, HIDDEN)
        self.head = nn.Linear(FEATURES, CLASSES)

    def forward(self, query: Tensor, value: Tensor, weight: Tensor) -> Tensor:
        """Scores of the classes ``(g, n, CLASSES)`` from features ``(g, n, d)`` and ``(g, m, d)`` and weights
        ``(g, n, m)``."""
        aggregated = self.scheme(AttentionGraph(query[:, None], value[:, None], weight[:, None]))[:, 0]
        joined = self.join(weight @ value, aggregated, nn.Identity(), self.scheme)
        return self.head(layer_norm(joined, joined.shape[-1:]))


def run(study: Study, seeds: Sequence[int]) -> Iterator[pd.DataFrame]:
    """Train everything; a table with the study's columns for each part, row and rate, one after the other.
    The seeds are of the graphs and of the initial parameters."""
    for part in study.parts:
        data = drawn(study, part, seeds)
        tests = [part.draw(study.scored, seed, "test") for seed in seeds]
        measured = [
            [
                float(contrast_of_distances(one.graph(c), one.region()).contrast.mean())
                for c in study.contrasts
            ]
            for one in tests
        ]
        for name in study.rows:
            for rate in study.rates:
                found = {"measured": measured, **train(study, ROWS[name], rate, data, seeds)}
                lines = [
                    {
                        **part.axes,
                        "contrast": c,
                        "row": name,
                        "rate": rate,
                        "seed": seed,
                        **{column: float(values[s][k]) for column, values in found.items()},
                    }
                    for s, seed in enumerate(seeds)
                    for k, c in enumerate(study.contrasts)
                ]
                yield pd.DataFrame(lines, columns=study.columns)


def drawn(study: Study, part: Part, seeds: Sequence[int]) -> dict[str, Planted]:
    """The graphs of each split, of several seeds (the first dimension): ``weight`` is ``(s, g, n, m)``."""
    splits = {}
    for split, size in zip(SPLITS, (study.steps * study.batch, study.scored, study.scored)):
        every = [part.draw(size, seed, split) for seed in seeds]
        stacked = {
            one.name: torch.stack([getattr(graphs, one.name) for graphs in every]) for one in fields(Planted)
        }
        splits[split] = Planted(**stacked)
    return splits


def train(
    study: Study, row: Row, rate: float, data: Mapping[str, Planted], seeds: Sequence[int]
) -> dict[str, Tensor]:
    """Train and score one row at one learning rate, for every seed and contrast.

    Args:
        study: contrasts, join, steps, batch.
        row: the scheme and its arguments.
        rate: Adam's learning rate.
        data: of :func:`drawn`, for the same seeds.
        seeds: of the initial parameters.

    Returns:
        Accuracies ``validation`` and ``test``, and the learned ones of :data:`EXPONENTS`, each
        ``(seeds, contrasts)``.
    """
    c = torch.tensor(list(study.contrasts))
    readers = [_seeded(row, study.join, seed) for seed in seeds]
    parameters = {
        name: stack[:, None].expand(-1, len(c), *stack.shape[1:]).detach().clone().requires_grad_()
        for name, stack in stack_module_state(readers)[0].items()
    }

    def score(own_parameters, contrast, topic, own, value, weight, answer):
        query = mix(topic, own, contrast)
        scores = functional_call(readers[0], own_parameters, (query, value, weight)).flatten(0, 1)
        right = (scores.argmax(-1) == answer.flatten()).float().mean()
        return cross_entropy(scores, answer.flatten()), right

    stacked = vmap(vmap(score, in_dims=(0, 0, *[None] * 5)), in_dims=(0, None, *[0] * 5))
    optimizer = torch.optim.Adam(parameters.values(), lr=rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / study.steps)
    for batch in _batches(data["train"], study.batch):
        loss, _ = stacked(parameters, c, *batch)
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
        schedule.step()

    def accuracy(split: str) -> Tensor:
        with torch.no_grad():  # all batches are of one size, or the last would count too much
            size = max(k for k in range(1, study.batch + 1) if study.scored % k == 0)
            parts = [stacked(parameters, c, *batch)[1] for batch in _batches(data[split], size)]
        return torch.stack(parts).mean(0)

    return {
        "validation": accuracy("validation"),
        "test": accuracy("test"),
        **_learned(row, parameters, (len(seeds), len(c))),
    }


def _batches(graphs: Planted, size: int) -> Iterator[tuple[Tensor, ...]]:
    """Topics, own directions, values, weights and answers, ``size`` graphs at a time, in order."""
    for k in range(0, graphs.weight.shape[1], size):
        part = slice(k, k + size)
        yield tuple(
            x[:, part] for x in (graphs.topic, graphs.own, graphs.value, graphs.weight, graphs.answer)
        )


def _seeded(row: Row, join: str, seed: int) -> Reader:
    """A new reader whose start follows from the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Reader(row, join)


def _learned(row: Row, parameters: dict[str, Tensor], shape: tuple[int, int]) -> dict[str, Tensor]:
    """The learned exponents of each run, ``(seeds, contrasts)``."""
    scheme = row.make()
    found = {name: torch.full(shape, torch.nan) for name in EXPONENTS if name in scheme.learned()}
    prefix = "scheme."
    own = {name[len(prefix) :]: x.detach() for name, x in parameters.items() if name.startswith(prefix)}
    for place in np.ndindex(*shape):
        scheme.load_state_dict({name: x[place] for name, x in own.items()})
        for name, values in found.items():
            values[place] = scheme.learned()[name]
    return found
