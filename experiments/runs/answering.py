"""Answering mode of a run's model (the task's, or chosen by the user), and its answers to a split."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from accelerate.utils.memory import clear_device_cache
from transformers import PreTrainedModel

from attngraph.errors import UserError
from attngraph.experiments.methods.method import Tuned
from attngraph.experiments.models.family import BLIP, LENGTH, Answering, ModelFamily
from attngraph.experiments.models.loading import type_of
from attngraph.experiments.models.ranking import Ranking
from attngraph.experiments.runs.data import TaskData
from attngraph.experiments.runs.device import is_out_of_memory
from attngraph.experiments.tasks.task import Task

GENERATE, RANK = "generate", "rank"
EVAL_BATCH = 200  # examples that are answered at a time


def way_of(
    task: Task,
    data: Path,
    chosen: str | None,
    model: str | PreTrainedModel | None,
    changes: Mapping[str, Any] | None = None,
) -> Answering:
    """The answering mode of a model.

    Args:
        task: the task.
        data: folder of the datasets.
        chosen: :data:`GENERATE` for generated texts, :data:`RANK` for the best of the task's list of answers;
            None for the task's default.
        model: a model, or its checkpoint folder or hub name, whose type may have its own mode; None for the
            mini-BLIP.
        changes: options of generation or ranking to change, by name. ``as_released`` and the beams and limits
            that come with it apply to models of BLIP's type; others keep their mode.

    Raises:
        UserError: a change is out of range, or names an option that this mode does not have.
    """
    if chosen == GENERATE:
        way: Answering = task.decoding
    else:
        answers = task.answers(data) if chosen == RANK else None
        way = task.answering(data) if answers is None else Ranking(answers)
    changes = dict(changes or {})
    released = changes.get("as_released") is not None
    if task.decodings or released:
        kind = type_of(model)
        way = task.way_of_type(way, kind)
        if released and kind not in (None, BLIP):
            of_blip = ("as_released", "num_beams", "min_new_tokens", "max_new_tokens")
            changes = {name: x for name, x in changes.items() if name not in of_blip}
    return changed_way(task, way, changes)


def changed_way(task: Task, way: Answering, changes: Mapping[str, Any]) -> Answering:
    """An answering mode with some of its options changed, by name.

    Raises:
        UserError: a change is out of range, or names an option that this mode does not have.
    """
    for name in changes:
        if not hasattr(way, name):
            ranks = isinstance(way, Ranking)
            does, other = ("ranks a list of answers", GENERATE) if ranks else ("generates its answers", RANK)
            remedy = f", or use answering={other}" if ranks or task.ranks else ""
            raise UserError(f"{task.title} {does}: remove {name}{remedy}")
    return replace(way, **changes)


def check_answering(task: Task, chosen: str | None) -> None:
    """Raise UserError for ranking in a task that has no list of answers."""
    if chosen == RANK and not task.ranks:
        raise UserError(f"answering {RANK}: {task.name} has no list of answers: remove answering")


def described(way: Answering, family: ModelFamily | None = None) -> dict[str, Any]:
    """The options that determine the answers, as plain values.

    Args:
        way: the answering mode.
        family: the model, whose number of short-listed answers is used if ``way`` does not set it.
    """
    if not isinstance(way, Ranking):
        least = {"least": way.min_new_tokens} if way.min_new_tokens else {}
        penalty = {"penalty": way.length_penalty} if way.length_penalty != LENGTH else {}
        released = {"released": way.as_released} if way.as_released else {}
        about = {"way": GENERATE, "beams": way.num_beams, "tokens": way.max_new_tokens}
        return {**about, **least, **penalty, **released}
    digest = hashlib.sha256(json.dumps(way.answers).encode()).hexdigest()
    k = way.k or (family and family.shortlist)
    about = {"way": RANK, "k": k and min(k, len(way.answers)), "answers": len(way.answers), "digest": digest}
    return {**about, "smoothing": way.label_smoothing} if way.label_smoothing else about


def in_words(about: Mapping[str, Any]) -> str:
    """The result of :func:`described` as a note; empty if there is none."""
    if not about:
        return ""
    if about["way"] == RANK:
        listed = f"{about['answers']} answers by likelihood (k {about['k']}, list {about['digest'][:8]})"
        return f"the best of {listed}"
    beams = "greedily" if about["beams"] == 1 else f"with {about['beams']} beams"
    least = f"at least {about['least']}, " if "least" in about else ""
    beams += f" and length penalty {about['penalty']}" if "penalty" in about else ""
    released = about.get("released")
    counted = f", prompt included, as {released}'s released code does" if released else ""
    return f"texts generated {beams}, {least}at most {about['tokens']} tokens{counted}"


@torch.no_grad()
def predict(tuned: Tuned, data: TaskData, way: Answering) -> dict[str, str]:
    """A text per example id, in the order of the examples. Each example is answered once over all processes;
    the result is the same on every process.

    Examples are sorted by the length of their prompts, so that batches contain little padding. If a batch
    does not fit in memory, smaller ones are tried.

    Args:
        tuned: the model.
        data: a split of a task.
        way: the answering mode.
    """
    lengths = [len(data.task.prompt(example, data.prompts)) for example in data.examples]
    state = PartialState()
    own = sorted(range(len(lengths)), key=lambda k: lengths[k])[state.process_index :: state.num_processes]
    texts: list[tuple[int, str]] = []
    size = EVAL_BATCH
    while len(texts) < len(own):
        part = own[len(texts) : len(texts) + size]
        try:
            texts += zip(part, tuned.answer([data.sample(k) for k in part], way))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if size == 1:
                raise UserError(
                    f"{data.task.title}: out of memory with a single example: choose fewer beams "
                    "or a smaller side"
                ) from None
            size = (min(size, len(own)) + 1) // 2
            clear_device_cache(garbage_collection=True)
    found = dict(gather_object(texts))
    return {example.id: found[k] for k, example in enumerate(data.examples)}
