"""Experiment tracking during training, in addition to the run's files: accelerate's trackers for TensorBoard,
Weights & Biases and MLflow.

By default, nothing is sent over the network: all three write into the run's folder. W&B and MLflow respect
their environment variables (``WANDB_MODE=online``, ``MLFLOW_TRACKING_URI``).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from accelerate import PartialState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS

from attngraph.experiments.runs.experiment import Cell
from attngraph.experiments.runs.train import last_step
from attngraph.extras import require

TRACKERS = ("tensorboard", "wandb", "mlflow")  # names of accelerate's, and of the packages
NONE = "none"
PROJECT = "attngraph"
UNLESS_SET = {  # in the environment
    "WANDB_MODE": "offline",
    "WANDB_SILENT": "true",
    "WANDB_ERROR_REPORTING": "false",
    "WANDB_CACHE_DIR": "{folder}/wandb",
    "WANDB_CONFIG_DIR": "{folder}/wandb",
    "WANDB_DATA_DIR": "{folder}/wandb",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_TRACKING_URI": "sqlite:///{folder}/mlflow.db",
}


@contextmanager
def tracked(
    names: Sequence[str], folder: Path, cell: Cell
) -> Iterator[Callable[[int, Mapping[str, float]], None]]:
    """Log a run to trackers while the block runs.

    Args:
        names: names of the trackers.
        folder: folder of the run.
        cell: the run. TensorBoard drops steps logged by an interrupted call if they are repeated.

    Yields:
        A function that logs the numbers of a step, on the first process.
    """
    place, begun = str(folder.absolute()), last_step(folder)
    options = {
        "tensorboard": {"run_name": "tensorboard", "logging_dir": place, "purge_step": begun + 1},
        "wandb": {"run_name": PROJECT, "name": cell.name, "dir": place},
        "mlflow": {"experiment_name": PROJECT, "run_name": cell.name},
    }
    trackers = []
    for name in names if PartialState().is_main_process else ():
        for variable, value in UNLESS_SET.items():
            if variable.startswith(name.upper()):
                os.environ.setdefault(variable, value.replace("{folder}", place))
        trackers.append(LOGGER_TYPE_TO_CLASS[name](**options[name]))
        trackers[-1].start()
        if name != "tensorboard":  # which would show another curve for it
            trackers[-1].store_init_configuration(cell.description())

    def show(step: int, numbers: Mapping[str, float]) -> None:
        for tracker in trackers:
            tracker.log(dict(numbers), step=step)

    try:
        yield show
    finally:
        for tracker in trackers:
            tracker.finish()


def trackers_of(names: tuple[str, ...]) -> tuple[str, ...]:
    """The trackers of ``--track``.

    Raises:
        UserError: a package is not installed.
    """
    names = tuple(name for name in names if name != NONE)
    require(*names)
    return names
