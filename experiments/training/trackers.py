"""Where the numbers of a run go while it trains, beside its files: TensorBoard, Weights & Biases, MLflow.

Nothing is sent anywhere unasked: all three write into the run's folder. W&B and MLflow follow their own
environment variables (``WANDB_MODE=online``, ``MLFLOW_TRACKING_URI``) where a user sets them. What their
packages report to their makers (errors, use) is switched off, unless such a variable says otherwise.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from attngraph.errors import UserError
from experiments.errors import first_line
from experiments.progress import note

NONE = "none"
SHOWN = {"loss": "train/loss", "learning_rate": "train/learning_rate", "grad_norm": "train/gradient_norm"}


@contextmanager
def by_default(**variables: str) -> Iterator[None]:
    """A block with environment variables, as far as the user has not set them."""
    unset = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(unset)
    try:
        yield
    finally:
        for name in unset:
            os.environ.pop(name, None)


class Tracker(ABC):
    """A place for a run's numbers.

    Args:
        folder: the run's.
        name: of the run.
        about: its settings.
        step: after which the run goes on; numbers of later steps, of a call that was interrupted, are void.
    """

    package: str  # that it needs

    @abstractmethod
    def __init__(self, folder: Path, name: str, about: dict[str, Any], step: int): ...

    @abstractmethod
    def log(self, step: int, numbers: dict[str, float]) -> None:
        """Take the numbers of a step."""

    @abstractmethod
    def close(self, failed: bool) -> None:
        """Write what is not written yet, and whether the run failed."""


class TensorBoard(Tracker):
    """Event files in ``tensorboard`` of the run's folder: ``tensorboard --logdir OUT``."""

    package = "tensorboard"

    def __init__(self, folder: Path, name: str, about: dict[str, Any], step: int):
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def log(self, step: int, numbers: dict[str, float]) -> None:
        for tag, number in numbers.items():
            self.writer.add_scalar(tag, number, step)

    def close(self, failed: bool) -> None:
        self.writer.close()


class WeightsAndBiases(Tracker):
    """A run in ``wandb`` of the run's folder, offline unless ``WANDB_MODE`` says otherwise; ``wandb sync``
    uploads it.
    """

    package = "wandb"

    def __init__(self, folder: Path, name: str, about: dict[str, Any], step: int):
        mode = os.environ.get("WANDB_MODE", "offline")
        project = os.environ.get("WANDB_PROJECT", "attngraph")
        own = {f"WANDB_{kind}_DIR": str(folder / "wandb") for kind in ("CACHE", "CONFIG", "DATA")}
        with by_default(WANDB_ERROR_REPORTING="false", **own):
            import wandb

            self.run = wandb.init(
                project=project,
                name=name,
                dir=str(folder),
                mode=mode,
                config=about,
                settings=wandb.Settings(silent=True),
            )

    def log(self, step: int, numbers: dict[str, float]) -> None:
        self.run.log(numbers, step=step)

    def close(self, failed: bool) -> None:
        self.run.finish(exit_code=int(failed))


class MLflow(Tracker):
    """A run in ``mlflow.db`` of the run's folder, or where ``MLFLOW_TRACKING_URI`` says."""

    package = "mlflow"

    def __init__(self, folder: Path, name: str, about: dict[str, Any], step: int):
        with by_default(MLFLOW_DISABLE_TELEMETRY="true"):
            import mlflow

        uri = os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{folder.absolute() / 'mlflow.db'}")
        self.client = mlflow.MlflowClient(uri)
        project = self.client.get_experiment_by_name("attngraph")
        place = project.experiment_id if project else self.client.create_experiment("attngraph")
        self.run = self.client.create_run(place, run_name=name).info.run_id
        try:
            for key, value in about.items():
                self.client.log_param(self.run, key, value)
        except Exception:
            self.close(failed=True)  # nobody else knows of it yet
            raise

    def log(self, step: int, numbers: dict[str, float]) -> None:
        for tag, number in numbers.items():
            self.client.log_metric(self.run, tag, number, step=step)

    def close(self, failed: bool) -> None:
        self.client.set_terminated(self.run, "FAILED" if failed else "FINISHED")


TRACKERS: dict[str, type[Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
}


class Tracking(TrainerCallback):
    """Tells trackers the numbers of every step and of every validation. A tracker that fails is left out from
    then on, with a warning: what it shows is in the run's own files too, so no run ends for it.

    Args:
        names: of the trackers.
        folder: the run's.
        name: of the run.
        about: its settings.
    """

    def __init__(self, names: Sequence[str], folder: Path, name: str, about: dict[str, Any]):
        self.names, self.folder, self.name, self.about = names, folder, name, about
        self.trackers: dict[str, Tracker] = {}

    def on_train_begin(self, args, state, control, **more) -> None:
        if state.is_world_process_zero:
            for name in self.names:
                with self._left_out_if_it_fails(name):
                    about = self.folder, self.name, self.about
                    self.trackers[name] = TRACKERS[name](*about, state.global_step)

    def on_log(self, args, state, control, logs: dict[str, Any] | None = None, **more) -> None:
        self.tell(state.global_step, {SHOWN[key]: x for key, x in (logs or {}).items() if key in SHOWN})

    def validated(self, step: int, scores: dict[str, float]) -> None:
        """Take the scores of a validation."""
        self.tell(step, {f"validation/{column}": score for column, score in scores.items()})

    def tell(self, step: int, numbers: dict[str, float]) -> None:
        """Pass on the numbers of a step."""
        for name, tracker in list(self.trackers.items()) if numbers else ():
            with self._left_out_if_it_fails(name):
                tracker.log(step, numbers)

    def close(self, failed: bool) -> None:
        """Let all write what they have not written yet, and whether the run failed."""
        while self.trackers:
            name, tracker = self.trackers.popitem()
            with self._left_out_if_it_fails(name):
                tracker.close(failed)

    @contextmanager
    def _left_out_if_it_fails(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self.trackers.pop(name, None)
            why = f"{type(error).__name__}: {first_line(error)}"
            note(f"{self.name}: {name} shows no more of this run, which goes on without it ({why})")


def add_tracking_argument(parser: argparse.ArgumentParser) -> None:
    """The option ``--track``."""
    parser.add_argument(
        "--track",
        nargs="+",
        default=["tensorboard"],
        choices=[*TRACKERS, NONE],
        metavar="NAME",
        help=f"Show the run's curves in these: {', '.join(TRACKERS)}, or {NONE}. Default: tensorboard.",
    )


def trackers_of(args: argparse.Namespace) -> tuple[str, ...]:
    """The trackers that :func:`add_tracking_argument` asks for.

    Raises:
        UserError: a package is not installed, or ``none`` stands beside a tracker.
    """
    names = tuple(dict.fromkeys(args.track))
    if NONE in names and len(names) > 1:
        raise UserError(f"--track {' '.join(names)}: give trackers, or {NONE}")
    names = tuple(name for name in names if name != NONE)
    for name in names:
        package = TRACKERS[name].package
        if importlib.util.find_spec(package) is None:
            raise UserError(
                f"--track {name} needs a package that is not installed: pip install {package}, or --track "
                f"{NONE}"
            )
    return names
