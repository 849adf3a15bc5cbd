"""Where the numbers of a run go while it trains, beside its files: accelerate's trackers for TensorBoard,
Weights & Biases and MLflow.

Nothing is sent anywhere unasked: all three write into the run's folder. W&B and MLflow follow their own
environment variables (``WANDB_MODE=online``, ``MLFLOW_TRACKING_URI``) where a user sets them.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from attngraph.errors import UserError
from experiments.base.messages import first_line
from experiments.base.progress import note

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


class Tracking:
    """Tells trackers the numbers of every step and of every validation, from the first process. One that
    fails is left out from then on, with a warning: what it shows is in the run's own files too, so no run
    ends for it.

    Args:
        names: of the trackers.
        folder: the run's.
        name: of the run.
        about: its settings.
    """

    def __init__(self, names: Sequence[str], folder: Path, name: str, about: Mapping[str, Any]):
        self.names = names if PartialState().is_main_process else ()
        self.folder, self.name, self.about = folder, name, about
        self.trackers: dict[str, GeneralTracker] = {}

    def start(self, step: int) -> None:
        """Begin after a step; numbers of later steps, of a call that was interrupted, are void."""
        folder = str(self.folder.absolute())
        options: dict[str, tuple[str, dict[str, Any]]] = {
            "tensorboard": ("tensorboard", {"logging_dir": folder, "purge_step": step + 1}),
            "wandb": (PROJECT, {"name": self.name, "dir": folder}),
            "mlflow": (PROJECT, {"run_name": self.name}),
        }
        for name in self.names:
            for variable, value in UNLESS_SET.items():
                if variable.startswith(name.upper()):
                    os.environ.setdefault(variable, value.replace("{folder}", folder))
            project, more = options[name]
            self.trackers[name] = LOGGER_TYPE_TO_CLASS[name](project, **more)
        self._each(lambda tracker: tracker.start())
        self._each(lambda tracker: tracker.store_init_configuration(self.about), but="tensorboard")

    def tell(self, step: int, numbers: Mapping[str, float]) -> None:
        """Pass on the numbers of a step."""
        self._each(lambda tracker: tracker.log(dict(numbers), step=step))

    def close(self) -> None:
        """Let all write what they have not written yet."""
        self._each(lambda tracker: tracker.finish())
        self.trackers.clear()

    def _each(self, work: Callable[[GeneralTracker], Any], but: str = "") -> None:
        for name, tracker in tuple(self.trackers.items()):
            try:
                if name != but:  # which would show another curve for it
                    work(tracker)
            except Exception as error:
                del self.trackers[name]
                why = f"{type(error).__name__}: {first_line(error)}"
                note(f"{self.name}: {name} shows no more of this run, which goes on without it ({why})")


def trackers_of(names: tuple[str, ...]) -> tuple[str, ...]:
    """The trackers that ``--track`` asks for.

    Raises:
        UserError: a package is not installed, or ``none`` stands beside a tracker.
    """
    if NONE in names and len(names) > 1:
        raise UserError(f"--track {' '.join(names)}: give trackers, or {NONE}")
    names = tuple(name for name in names if name != NONE)
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise UserError(
                f"--track {name} needs a package that is not installed: pip install {name}, or --track {NONE}"
            )
    return names
