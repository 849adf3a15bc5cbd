"""In which order a run sees its examples: a function of the seed and of the step alone.

So an interrupted run continues as if it had not been interrupted, and several processes see together what one
would.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Sampler


class Place(NamedTuple):
    """Where a run is.

    Args:
        position: of an example.
        draw: uniform, for its target.
        seed: of the changes of its picture.
    """

    position: int
    draw: float
    seed: int = 0


def batch_positions(examples: int, batch_size: int, seed: int, step: int) -> tuple[Tensor, Tensor]:
    """Positions of a step's examples, and a uniform draw for each. Every epoch is a new permutation; examples
    that do not fill a batch are left out of it."""
    batch_size = min(batch_size, examples)
    per_epoch = examples // batch_size
    epoch, k = divmod(step, per_epoch)
    order = torch.randperm(examples, generator=torch.Generator().manual_seed(1_000_003 * seed + epoch))
    draws = torch.rand(batch_size, generator=torch.Generator().manual_seed(7_368_787 * seed + 31 + step))
    return order[k * batch_size : (k + 1) * batch_size], draws


def picture_seed(seed: int, step: int, k: int) -> int:
    """The seed of the changes of the picture of a step's k-th example."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {step} {k}".encode(), digest_size=7).digest())


class StepSampler(Sampler[Place]):
    """The places of all steps of a run, one after the other.

    Args:
        examples: how many there are.
        batch_size: examples per step.
        seed: of the order and of the draws.
        steps: of the run.
        begin: how many of them are done already.
    """

    def __init__(self, examples: int, batch_size: int, seed: int, steps: int, begin: int = 0):
        self.examples, self.batch_size = examples, min(batch_size, examples)
        self.seed, self.steps, self.begin = seed, steps, begin

    def __len__(self) -> int:
        return (self.steps - self.begin) * self.batch_size

    def __iter__(self) -> Iterator[Place]:
        for step in range(self.begin, self.steps):
            positions, draws = batch_positions(self.examples, self.batch_size, self.seed, step)
            for k, (position, draw) in enumerate(zip(positions.tolist(), draws.tolist())):
                yield Place(position, draw, picture_seed(self.seed, step, k))
