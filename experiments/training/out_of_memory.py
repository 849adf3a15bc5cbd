"""What a run does when a pass does not fit in memory: it makes its passes smaller, and says so.

A step stays what it was. Half as many examples go through the model at a time, and twice as many passes make
up a step; the loss is normalised over the whole step, so that the result is the same up to rounding (and up
to other dropout masks).
"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from accelerate.utils.memory import should_reduce_batch_size

from attngraph.errors import UserError
from experiments.errors import first_line
from experiments.files import write_json
from experiments.training.recipe import Recipe
from experiments.training.states import STATES

T = TypeVar("T")
PASSES = "passes.json"  # in the folder of states: what was found to fit


class OutOfMemory(UserError):
    """A pass does not fit in memory; the next call of the run makes smaller ones."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is one of PyTorch's for a lack of memory, of a GPU's or of this machine's."""
    words = ("not enough memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
    if not isinstance(error, RuntimeError):
        return False
    known = isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error)
    return known or any(word in str(error) for word in words)


def passes_of(folder: Path, recipe: Recipe) -> int:
    """Into how many passes a run divides a step: as its recipe says, or as was found to fit."""
    file = folder / STATES / PASSES
    try:
        return max(recipe.accumulation, int(json.loads(file.read_text())))
    except (OSError, ValueError, TypeError):  # none, or not ours: then it is found once more
        return recipe.accumulation


def halved(recipe: Recipe, passes: int, processes: int, examples: int) -> int | None:
    """The next number of passes, at least twice as many, that divides a step evenly; None where a pass is a
    single example already.
    """
    share = min(recipe.batch_size, examples) // processes
    return next((more for more in range(2 * passes, share + 1) if share % more == 0), None)


def smaller_passes(
    error: BaseException, folder: Path, recipe: Recipe, passes: int, processes: int, examples: int
) -> UserError:
    """Notes in a run's folder that its passes are to be smaller; returns the error that says so.

    Args:
        error: of PyTorch.
        folder: the run's.
        recipe: of the run.
        passes: that a step was divided into.
        processes: that share the run.
        examples: of the training data.

    Returns:
        :class:`OutOfMemory`; another error where passes cannot be smaller.
    """
    size = min(recipe.batch_size, examples) // processes // passes
    more = halved(recipe, passes, processes, examples)
    if more is None:
        return UserError(
            f"{folder}: out of memory with a single example at a time ({first_line(error)}): let "
            "checkpointing, a smaller side or half precision save memory, or take a machine with more"
        )
    write_json(folder / STATES / PASSES, more)
    return OutOfMemory(
        f"{folder.name}: out of memory with {size} examples at a time: {size * passes // more} at a time "
        f"from now on, in {more} passes a step ({passes} before); the run goes on from its last state"
    )


def most_that_fit(work: Callable[[int], T], count: int, device: str) -> T:
    """What work gives for the largest number, halved from ``count`` on, for which it fits in memory.

    Raises:
        RuntimeError: it does not fit for 1; or whatever else the work raises.
    """
    while True:
        try:
            return work(count)
        except RuntimeError as error:
            if count == 1 or not is_out_of_memory(error):
                raise
        count //= 2
        release(device)


def release(device: str) -> None:
    """Give back the memory of what is not used any more."""
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
