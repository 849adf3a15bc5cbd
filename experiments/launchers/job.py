"""What a process that runs one cell does, wherever it is."""

from __future__ import annotations

import os
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from attngraph.errors import UserError
from experiments.plugins import load_plugins
from experiments.training.cells import Cell, run_cell
from experiments.training.execution import Execution
from experiments.training.memory import keep_freed_memory


@dataclass(frozen=True)
class Job:
    """What a process is told.

    Args:
        cell: to run.
        run: where and how.
        device: the cell's, where ``run`` names several.
        plugins: files to load first.
    """

    cell: Cell
    run: Execution
    device: str
    plugins: tuple[Path, ...] = ()


def prepare_process() -> None:
    """Settings of every process that runs cells."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # else it warns where a process is forked
    torch.set_flush_denormal(True)
    keep_freed_memory()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message="Java not found")  # said once, by the parent
    # The Trainer's own call of a name that transformers has deprecated, and DDP's hint on speed.
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")
    warnings.filterwarnings("ignore", message=".*find_unused_parameters.*")


def outcome(job: Job, on_step: Callable[[int], None]) -> dict[str, Any] | UserError:
    """The content of a finished cell's ``scores.json``, or what went wrong.

    Args:
        on_step: told after every step.
    """
    try:
        load_plugins(job.plugins)
        return run_cell(job.cell, job.run, job.device, on_step)
    except UserError as error:
        return error
    except OSError as error:
        return UserError(f"{error}: check the room on the disk and your rights, then run again")
    except Exception:
        return UserError(traceback.format_exc())
