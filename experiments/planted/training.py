"""Training on planted graphs: every seed and contrast at once, each as if it were alone.

Runs that differ in the seed or in the contrast only are stacked (``torch.func.vmap`` over the module that one
run trains), and Adam moves every number by its own gradients, so stacking changes no run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.functional import cross_entropy, layer_norm

from adapters import Scheme
from adapters.joins import JOINS
from attngraph import AttentionGraph
from experiments.planted.graphs import CLASSES, FEATURES, SPLITS, Planted, draw, mix
from experiments.planted.rows import Row

HIDDEN = FEATURES // 8  # width of the bottleneck, as in adapters


@dataclass(frozen=True)
class Budget:
    """How long a run trains, and on how many graphs it is scored.

    Args:
        steps: of Adam; the learning rate falls to 0 in a straight line.
        batch: graphs of each step; no graph is seen twice.
        scored: graphs for validation, and as many for the test.
    """

    steps: int = 120
    batch: int = 10
    scored: int = 128


class Reader(nn.Module):
    """What one run trains: a scheme, a join with its bottleneck, and what follows an attention layer:
    LayerNorm (without parameters) and a linear readout of the class.

    Args:
        row: the scheme and its arguments.
        join: of ``adapters.joins.JOINS``.
    """

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


@dataclass(frozen=True, eq=False)
class Runs:
    """What runs of one row at one rate gave, each ``(seeds, contrasts)``.

    Args:
        validation, test: accuracies.
        p: the learned p; NaN where none is learned.
    """

    validation: Tensor
    test: Tensor
    p: Tensor


@dataclass(frozen=True, eq=False)
class Data:
    """Graphs of several seeds, a split's tensors with the seeds in front: ``weight`` is ``(s, g, n, m)``."""

    seeds: Sequence[int]
    splits: dict[str, Planted]

    @staticmethod
    def of(seeds: Sequence[int], ratio: Fraction, mass: float, budget: Budget, device: str = "cpu") -> Data:
        """Draw all graphs of some seeds."""
        sizes = dict(zip(SPLITS, (budget.steps * budget.batch, budget.scored, budget.scored)))
        splits = {}
        for split, size in sizes.items():
            drawn = [draw(size, ratio, mass, seed, split) for seed in seeds]
            stacked = {
                field.name: torch.stack([getattr(part, field.name) for part in drawn]).to(device)
                for field in fields(Planted)
            }
            splits[split] = Planted(**stacked)
        return Data(seeds, splits)

    def batches(self, split: str, size: int) -> Iterator[tuple[Tensor, ...]]:
        """Topics, own directions, values, weights and answers, ``size`` graphs at a time, in order."""
        graphs = self.splits[split]
        for k in range(0, graphs.weight.shape[1], size):
            part = slice(k, k + size)
            yield tuple(
                x[:, part] for x in (graphs.topic, graphs.own, graphs.value, graphs.weight, graphs.answer)
            )


def train(row: Row, join: str, rate: float, contrasts: Sequence[float], data: Data, budget: Budget) -> Runs:
    """Train and score one row at one learning rate, for every seed and contrast.

    Args:
        row: the scheme and its arguments.
        join: of ``adapters.joins.JOINS``.
        rate: Adam's learning rate.
        contrasts: c of the queries.
        data: graphs of all seeds.
        budget: steps, batch and graphs to score.
    """
    device = data.splits["train"].weight.device
    c = torch.tensor(list(contrasts), device=device)
    readers = [_seeded(row, join, seed) for seed in data.seeds]
    reader = readers[0].to(device)
    parameters = {
        name: stack[:, None].expand(-1, len(c), *stack.shape[1:]).detach().clone().to(device).requires_grad_()
        for name, stack in stack_module_state(readers)[0].items()
    }

    def score(own_parameters, contrast, topic, own, value, weight, answer):
        query = mix(topic, own, contrast)
        scores = functional_call(reader, own_parameters, (query, value, weight)).flatten(0, 1)
        right = (scores.argmax(-1) == answer.flatten()).float().mean()
        return cross_entropy(scores, answer.flatten()), right

    data_dims = (None,) * 5
    stacked = vmap(vmap(score, in_dims=(0, 0, *data_dims)), in_dims=(0, None, *(0,) * 5))

    optimizer = torch.optim.Adam(parameters.values(), lr=rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / budget.steps)
    for batch in data.batches("train", budget.batch):
        loss, _ = stacked(parameters, c, *batch)
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
        schedule.step()

    def accuracy(split: str) -> Tensor:
        with torch.no_grad():  # all batches are of one size, or the last would count too much
            size = max(k for k in range(1, budget.batch + 1) if budget.scored % k == 0)
            parts = [stacked(parameters, c, *batch)[1] for batch in data.batches(split, size)]
        return torch.stack(parts).mean(0).cpu()

    return Runs(accuracy("validation"), accuracy("test"), _p(row, parameters, (len(readers), len(c))))


def _seeded(row: Row, join: str, seed: int) -> Reader:
    """A new reader whose start follows from the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Reader(row, join)


def _p(row: Row, parameters: dict[str, Tensor], shape: tuple[int, int]) -> Tensor:
    """The learned p of each run, ``(seeds, contrasts)``."""
    scheme = row.make()
    found = torch.full(shape, torch.nan)
    if "p" in scheme.learned():
        prefix = "scheme."
        own = {name[len(prefix) :]: x.detach() for name, x in parameters.items() if name.startswith(prefix)}
        for place in np.ndindex(*shape):
            scheme.load_state_dict({name: x[place] for name, x in own.items()})
            found[place] = scheme.learned()["p"]
    return found
