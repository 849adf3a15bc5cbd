"""Answers to a split of a task, each example once, over however many processes there are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from accelerate.utils.memory import clear_device_cache

from attngraph.errors import UserError
from experiments.base.progress import note
from experiments.methods.method import Tuned
from experiments.models.family import Answering
from experiments.runs.data import TaskData
from experiments.runs.device import is_out_of_memory

EVAL_BATCH = 200


@torch.no_grad()
def predict(tuned: Tuned, data: TaskData, way: Answering | None = None) -> dict[str, str]:
    """A text per example id, in the order of the examples; the same on every process.

    Examples are sorted by the length of their prompts, so that batches carry little padding.

    Args:
        tuned: the model.
        data: a split of a task.
        way: how it answers; by default it generates as the task says.
    """
    way = way or data.task.decoding
    task = data.task
    lengths = [len(task.prompt(example, data.prompts)) for example in data.examples]
    order = sorted(range(len(lengths)), key=lambda k: lengths[k])
    state = PartialState()
    own = order[state.process_index :: state.num_processes]
    texts: list[tuple[int, str]] = []
    start, size = 0, EVAL_BATCH
    while start < len(own):
        part = own[start : start + size]
        if (answers := _answers(tuned, data, part, way)) is None:
            if size == 1:
                raise UserError(
                    f"{task.title}: out of memory with a single example to answer: choose fewer beams or a "
                    "smaller side"
                )
            size = (min(size, len(own)) + 1) // 2
            note(f"{task.title}: out of memory, {size} examples are answered at a time from now on")
            clear_device_cache(garbage_collection=True)
            continue
        texts += zip(part, answers)
        start += size
    found = dict(gather_object(texts))
    return {example.id: found[k] for k, example in enumerate(data.examples)}


def _answers(tuned: Tuned, data: TaskData, positions: Sequence[int], way: Answering) -> list[str] | None:
    """The answers to the examples at some positions; None where they do not fit in memory together."""
    try:
        return tuned.answer([data.sample(k) for k in positions], way)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return None
