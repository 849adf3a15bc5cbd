r"""Forgetting of a model in training: the increase of its loss on another task,

.. math:: \text{forgetting} = L_\text{after} - L_\text{before}, \qquad
    L = -\frac{1}{N} \sum_{n=1}^{N} \log P(\text{answer token } n),

in nats per token, over all answer tokens of a fixed sample of examples. PEFT's ``method_comparison`` measures
the same on Wikipedia.
"""

from __future__ import annotations

from pathlib import Path

import torch

from attngraph.experiments.methods.method import Tuned
from attngraph.experiments.models import load_family
from attngraph.experiments.models.batch import IGNORED, token_losses
from attngraph.experiments.runs.data import TaskData, subset
from attngraph.experiments.runs.device import cpu_threads
from attngraph.experiments.runs.saved import Finished
from attngraph.experiments.tasks import Task

EXAMPLES = 512
BATCH = 64


class Forgetting:
    """Measures the forgetting of a task by runs.

    Args:
        task: a task that differs from the runs'.
        data: folder of its data.
        device: device of the models.

    Attributes:
        before: checkpoint and side of its images -> loss of the pre-trained model.
    """

    def __init__(self, task: Task, data: Path, device: str = "cpu"):
        self.task, self.device = task, device
        self.examples = subset(task.examples(data, "test"), EXAMPLES)
        self.before: dict[tuple[str | None, int | None], float] = {}

    def of(self, run: Finished) -> float:
        """The increase of the loss by a run, in nats per answer token; 0 for runs without training."""
        model, side = run.experiment.model, run.experiment.side
        with cpu_threads(run.threads):
            if (model, side) not in self.before:
                family = load_family(model, side=side)
                family.model.to(self.device)
                self.before[model, side] = self.loss(Tuned(family))
            return self.loss(run.tuned(None, self.device)) - self.before[model, side]

    @torch.no_grad()
    def loss(self, tuned: Tuned) -> float:
        """Mean cross-entropy of the answer tokens, in nats."""
        family = tuned.family
        data = TaskData(family, self.task, self.examples)
        total, tokens = 0.0, 0
        for start in range(0, len(data), BATCH):
            part = [data.sample(k, draw=0.0) for k in range(start, min(len(data), start + BATCH))]
            inputs = family.to_device(family.training_inputs(part))
            labels = inputs.pop("labels")
            total += token_losses(family.logits(inputs), labels).sum().item()
            tokens += int((labels[:, 1:] != IGNORED).sum())
        return total / tokens
