"""Reading the files in a run's folder, with checks that they are complete, belong to this run, and are
consistent. The model of a finished run can be loaded to answer other examples.

Tables are made from these files, so damaged files are errors and never part of a table.
"""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, FiniteFloat, NonNegativeInt, PositiveInt, ValidationError

import attngraph
from attngraph.errors import UserError
from attngraph.experiments.base.config import read_config as read_yaml
from attngraph.experiments.base.messages import check_known, first_line
from attngraph.experiments.data.example import Example
from attngraph.experiments.methods import method_named
from attngraph.experiments.methods.method import PREDICTIONS, Tuned, known_methods
from attngraph.experiments.models import load_family
from attngraph.experiments.models.family import LENGTH, Answering, Decoding
from attngraph.experiments.models.weights import weights_digest
from attngraph.experiments.runs.answering import GENERATE, described, predict, way_of
from attngraph.experiments.runs.data import TaskData
from attngraph.experiments.runs.experiment import EXPERIMENT, REMEDY, Experiment, Scenes
from attngraph.experiments.runs.plugins import load_plugins
from attngraph.experiments.tasks import TASKS, Task

CONFIG, SCORES, STATISTICS = "config.json", "scores.json", "statistics.npz"
DIVERGED = "diverged.json"  # of a run whose loss or weights were not finite, in the place of its scores
TOLERANCE = 1e-6  # of a score against the one that its statistics give
ROWS = "rows"  # PEFT configurations that are rows of a table
DATA = "data"  # of a table or experiment that draws its own
PACKAGES = ("torch", "transformers", "peft", "numpy", "pillow")


def made_with() -> dict[str, Any]:
    """Versions and machine, for ``config.json``."""
    own = {"attngraph": attngraph.__version__, "python": platform.python_version()}
    return {
        "versions": own | {name: version(name) for name in PACKAGES},
        "machine": f"{platform.system()} {platform.machine()}",
    }


# ---- files of a run ----------------------------------------------------------------------------------------


class Result(BaseModel):
    """The content of ``scores.json``."""

    model_config = ConfigDict(strict=True)

    row: str
    task: str
    seed: NonNegativeInt
    split: str
    scores: dict[str, FiniteFloat]
    kinds: dict[str, tuple[FiniteFloat, NonNegativeInt]]
    examples: PositiveInt
    trained_on: NonNegativeInt
    parameters: NonNegativeInt
    loss: FiniteFloat | None
    started: dict[str, FiniteFloat] = {}  # absent in results of earlier versions, as effects are
    learned: dict[str, FiniteFloat]
    effects: dict[str, dict[str, FiniteFloat]] = {}
    evaluator: str = ""  # this and the next two are absent in earlier results too
    source: str = ""
    answering: dict[str, str | int | FiniteFloat] = {}
    best_step: PositiveInt | None = None
    validations: PositiveInt | None = None
    train_seconds: FiniteFloat
    eval_seconds: FiniteFloat
    peak_mb: FiniteFloat
    memory_mb: dict[str, FiniteFloat] = {}  # absent in earlier results and in those without training


def read_config(folder: Path) -> dict[str, Any]:
    """A run's ``config.json``, with the current name of its scheme.

    Raises:
        UserError: the file is damaged.
    """
    with _undamaged(folder / CONFIG):
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if not isinstance(config, dict) or not isinstance(config.get("settings"), dict):
            raise ValueError("no settings")
        of_method = config["settings"].get("settings")
        if isinstance(of_method, dict) and of_method.get("gnn") == "placebo":  # its name in earlier runs
            of_method["gnn"] = "rotated"
        return config


def read_result(folder: Path, row: str, task: Task, seed: int) -> dict[str, Any]:
    """A finished run's ``scores.json``, checked against the run's name and the other files of the folder.

    Raises:
        UserError: one of the files is missing or damaged, or they are inconsistent.
    """
    with _undamaged(folder / SCORES):
        text = (folder / SCORES).read_text(encoding="utf-8")
        result = Result.model_validate_json(text)
        if (result.row, result.task, result.seed) != (row, task.name, seed):
            raise ValueError(f"of {result.row} {result.task} seed {result.seed}")
        due = [column.key for column in task.columns if not column.optional]
        if missing := [key for key in due if key not in result.scores]:
            raise ValueError(f"no {missing[0]}")
    with _undamaged(folder / STATISTICS), np.load(folder / STATISTICS) as arrays:
        for column in (column for column in task.columns if column.key in result.scores):
            _check_statistics(arrays[column.key], column.score, result.scores[column.key])
    with _undamaged(folder / PREDICTIONS):
        predictions = json.loads((folder / PREDICTIONS).read_text(encoding="utf-8"))
        if len(predictions) != result.examples or not all(isinstance(t, str) for t in predictions.values()):
            raise ValueError(f"not {result.examples} texts")
    return json.loads(text)


def _check_statistics(sums: np.ndarray, score: Any, expected: float) -> None:
    if sums.ndim != 2 or not np.issubdtype(sums.dtype, np.number) or not np.isfinite(sums).all():
        raise ValueError("not rows of finite numbers")
    given = float(score(sums.sum(axis=0, dtype=np.float64)))
    if not math.isclose(given, expected, rel_tol=TOLERANCE, abs_tol=TOLERANCE):
        raise ValueError(f"they give {given:g}, {SCORES} says {expected:g}")


@contextmanager
def _undamaged(file: Path) -> Iterator[None]:
    """Turn every error about a file into the same :class:`~attngraph.UserError`."""
    try:
        yield
    except Exception as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")
        raise UserError(
            f"{file} is damaged ({reason}): delete the folder {file.parent} and run again"
        ) from None


# ---- a finished run, put together again --------------------------------------------------------------------


@dataclass(frozen=True)
class Finished:
    """A finished run.

    Args:
        folder: folder of the run.
        experiment: the experiment file, which reproduces the run.
        settings: the settings that determined its result, from ``config.json``.
        result: its ``scores.json``.
        threads: CPU threads of the run, at most the number of cores of this machine.
    """

    folder: Path
    experiment: Experiment
    settings: dict[str, Any]
    result: dict[str, Any]
    threads: int = 1

    @property
    def task(self) -> Task:
        """The task of the run."""
        return TASKS[self.experiment.task]

    def data(self, given: Path | None) -> Path | None:
        """The folder of its data: the given one, or that of its file; None if that is not on this machine."""
        if given is not None:
            return given
        experiment = self.experiment
        if experiment.data is not None:
            return experiment.data if experiment.data.is_dir() else None
        drawn = (self.folder / "../../../.." / DATA).resolve()  # of OUT/cells/METHOD/TASK/seedN
        is_same = self.task.drawn is not None and Scenes.found(drawn) == (experiment.scenes or Scenes())
        return drawn if is_same else None

    def tuned(self, model: str | None, device: str, download: bool = False) -> Tuned:
        """The trained model.

        Args:
            model: the checkpoint that it started from, instead of the one in its file.
            device: device of the model.
            download: whether a missing model may be downloaded.

        Raises:
            UserError: the run started from other weights, its weights do not fit, or the method does not know
                its settings.
        """
        model = model or self.experiment.model
        if weights_digest(model) != self.settings["weights"]:
            raise UserError(
                f"{self.folder} started from other weights than {model or 'the mini-BLIP of this version'}: "
                "use the model that it started from (--model)"
            )
        family = load_family(model, download, self.experiment.side)
        family.model.to(device)
        try:
            tuned = method_named(self.experiment.method).apply(family, self.settings["settings"])
        except (KeyError, TypeError) as error:
            raise UserError(
                f"{self.folder / CONFIG}: settings that {self.experiment.method} does not accept "
                f"({type(error).__name__}: {first_line(error)}): use the version that made the run, or "
                "run again"
            ) from error
        tuned.load(self.folder)
        family.model.eval()
        return tuned

    def way(self, data: Path) -> Answering:
        """Answering mode of the run.

        Args:
            data: folder of the datasets, which may have the list of answers to rank.

        Raises:
            UserError: the run ranked another list of answers than that of these data.
        """
        with _undamaged(self.folder / SCORES):
            recorded = self.result["answering"]
            if recorded["way"] == GENERATE:
                penalty = recorded.get("penalty", LENGTH)
                least, released = recorded.get("least", 0), recorded.get("released")
                return Decoding(recorded["tokens"], recorded["beams"], least, penalty, released)
            digest = recorded["digest"]
        changes = self.experiment.ranking.model_dump(exclude_none=True)
        way = way_of(self.task, data, self.experiment.answering, None, changes)
        if described(way).get("digest") != digest:
            raise UserError(
                f"the answering mode of {self.folder} is not possible with {data} ({SCORES} has "
                f"{recorded}): use the data that it was trained on"
            )
        return way

    def answers(
        self, tuned: Tuned, examples: Sequence[Example], way: Answering, task: Task | None = None
    ) -> dict[str, str]:
        """A text per example id, of another task than the run's where one is given."""
        hide = method_named(self.experiment.method).hides_image
        released = self.result["answering"].get("released")  # it was trained with this prompt
        return predict(
            tuned, TaskData(tuned.family, task or self.task, examples, None, hide, released=released), way
        )


def finished(folder: Path) -> Finished:
    """The finished run in a folder. If its row is a PEFT configuration that ``attngraph.compare`` saved, the
    row is registered.

    Raises:
        UserError: there is no finished run, it is damaged, or its method or task is unknown.
    """
    if not all((folder / name).is_file() for name in (CONFIG, SCORES, EXPERIMENT)):
        raise UserError(
            f"{folder} does not contain a finished run ({CONFIG}, {SCORES}, {EXPERIMENT}): use the folder of "
            "a run of `attngraph train` or of a table, such as `runs/six/cells/gcn/vqa2/seed0`"
        )
    experiment, config = read_yaml(folder / EXPERIMENT, Experiment, REMEDY), read_config(folder)
    with _undamaged(folder / CONFIG):
        settings = config["settings"]
        label, _, _ = (settings[name] for name in ("label", "settings", "weights"))
        threads = max(1, min(int(config.get("threads", 1)), os.cpu_count() or 1))
    for out in folder.absolute().parents[3:4]:  # above cells/ROW/TASK/seedN
        row = out / ROWS / experiment.method / "adapter_config.json"
        load_plugins([row] if row.is_file() else [])
    try:
        check_known([experiment.method], known_methods(), "method")
        check_known([experiment.task], list(TASKS), "task")
    except UserError as error:
        raise UserError(f"{folder}: {error}, or load its file with --plugin FILE") from None
    result = read_result(folder, label, TASKS[experiment.task], experiment.seed)
    return Finished(folder, experiment, settings, result, threads)
