"""In which order a run sees its examples: a function of the seed and of the step alone.

So an interrupted run continues as if it had not been interrupted, and several processes see together what one
would.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import Sampler

Place = tuple[int, float]  # an example's position, and a uniform draw for its target


def batch_positions(examples: int, batch_size: int, seed: int, step: int) -> tuple[Tensor, Tensor]:
    """Positions of a step's examples, and a uniform draw for each. Every epoch is a new permutation; examples
    that do not fill a batch are left out of it."""
    batch_size = min(batch_size, examples)
    per_epoch = examples // batch_size
    epoch, k = divmod(step, per_epoch)
    order = torch.randperm(examples, generator=torch.Generator().manual_seed(1_000_003 * seed + epoch))
    draws = torch.rand(batch_size, generator=torch.Generator().manual_seed(7_368_787 * seed + 31 + step))
    return order[k * batch_size : (k + 1) * batch_size], draws


class StepSampler(Sampler[Place]):
    """The places of all steps of a run, one after the other.

    Args:
        examples: how many there are.
        batch_size: examples per step.
        seed: of the order and of the draws.
        steps: of the run.
    """

    def __init__(self, examples: int, batch_size: int, seed: int, steps: int):
        self.examples, self.batch_size = examples, min(batch_size, examples)
        self.seed, self.steps = seed, steps

    def __len__(self) -> int:
        return self.steps * self.batch_size

    def __iter__(self) -> Iterator[Place]:
        for step in range(self.steps):
            positions, draws = batch_positions(self.examples, self.batch_size, self.seed, step)
            yield from zip(positions.tolist(), draws.tolist())
