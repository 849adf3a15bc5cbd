"""Answers to a split of a task, each example once, over however many processes there are."""

from __future__ import annotations

import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from experiments.methods.method import Tuned
from experiments.models.family import Answering
from experiments.training.data import TaskData

EVAL_BATCH = 200


@torch.no_grad()
def predict(tuned: Tuned, data: TaskData, way: Answering | None = None) -> dict[str, str]:
    """A text per example id, in the order of the examples; the same on every process. Examples that are left
    out since their pictures cannot be read have none.

    Examples are sorted by the length of their prompts, so that batches carry little padding.

    Args:
        tuned: the model.
        data: a split of a task.
        way: how it answers; by default it generates as the task says.
    """
    way = way or data.task.decoding
    family, task = tuned.family, data.task
    lengths = [len(task.prompt(example, family.name)) for example in data.examples]
    order = sorted(range(len(lengths)), key=lambda k: lengths[k])
    state = PartialState()
    own = order[state.process_index :: state.num_processes]
    texts: list[tuple[int, str]] = []
    for start in range(0, len(own), EVAL_BATCH):
        part = [k for k in own[start : start + EVAL_BATCH] if data.shows(k)]
        if part:
            texts += zip(part, tuned.answer([data.sample(k) for k in part], way))
    answers = dict(gather_object(texts))
    if not answers:
        raise data.empty()
    return {example.id: answers[k] for k, example in enumerate(data.examples) if k in answers}
