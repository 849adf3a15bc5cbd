"""A finished cell, put together again to answer other examples."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from attngraph.errors import UserError
from experiments.base.config import read_config as read_yaml
from experiments.base.errors import first_line
from experiments.base.known import check_known
from experiments.data.example import Example
from experiments.methods import METHODS, method_named
from experiments.methods.method import Tuned
from experiments.models import load_family
from experiments.models.family import LENGTH, Answering, Decoding
from experiments.models.ranking import Ranking
from experiments.models.weights import weights_digest
from experiments.runs.answering import GENERATE, WAYS, described, way_of
from experiments.runs.data import TaskData, subset
from experiments.runs.experiment import EXPERIMENT, REMEDY, Experiment, Scenes
from experiments.runs.features import FeatureCache
from experiments.runs.prediction import predict
from experiments.runs.saved import CONFIG, SCORES, read_config, read_result
from experiments.tasks import TASKS, Task

DATA = "data"  # of a table or experiment that draws its own


@dataclass(frozen=True)
class Finished:
    """A finished cell.

    Args:
        folder: of the cell.
        settings: what decided its result, of ``config.json``.
        result: its ``scores.json``.
    """

    folder: Path
    settings: dict[str, Any]
    result: dict[str, Any]

    @property
    def task(self) -> Task:
        """Its task."""
        return TASKS[self.settings["task"]]

    @property
    def experiment(self) -> Experiment | None:
        """The file that runs it again; None for a run of an earlier version.

        Raises:
            UserError: the file is damaged.
        """
        file = self.folder / EXPERIMENT
        return read_yaml(file, Experiment, REMEDY) if file.exists() else None

    @property
    def threads(self) -> int:
        """CPU threads that it computed with, as far as this machine has so many cores."""
        return min(int(self.settings.get("threads", 1)), os.cpu_count() or 1)

    def model(self, given: str | None) -> str | None:
        """The checkpoint that it started from: as given, or as its file says."""
        if given is not None:
            return given
        experiment = self.experiment
        return None if experiment is None else experiment.model

    def data(self, given: Path | None) -> Path | None:
        """The folder of its data: as given, or as its file says; None where that is not on this machine."""
        experiment = self.experiment
        if given is not None or experiment is None:
            return given
        if experiment.data is not None:
            return Path(experiment.data) if Path(experiment.data).is_dir() else None
        drawn = (self.folder / "../../../.." / DATA).resolve()  # of OUT/cells/METHOD/TASK/seedN
        return drawn if self.task.drawn is not None and Scenes.found(drawn) == experiment.scenes else None

    def tuned(self, model: str | None, device: str, data: Path, download: bool = False) -> Tuned:
        """The trained model.

        Args:
            model: the checkpoint that it started from; None for the mini-BLIP that ships with the package.
            device: where to put it.
            data: folder of the data sets; only a method that counts training answers reads them.
            download: fetch a model that is not on this machine.

        Raises:
            UserError: the run started from other weights, its own do not fit, or its settings are none that
                the method knows.
        """
        if weights_digest(model) != self.settings["weights"]:
            raise UserError(
                f"{self.folder} started from other weights than {model or 'the mini-BLIP of this version'}: "
                "give the model that it started from (--model)"
            )
        family = load_family(model, download, self.settings.get("side"))
        family.model.to(device)
        try:
            tuned = method_named(self.settings["method"]).apply(family, self.settings["settings"])
        except (KeyError, TypeError) as error:
            raise UserError(
                f"{self.folder / CONFIG}: settings that {self.settings['method']} cannot take "
                f"({type(error).__name__}: {first_line(error)}): take the version that made the run, "
                "or run again"
            ) from error
        if type(tuned).observe is not Tuned.observe:
            content = self.task.content(data, self.result["split"])
            if content != self.settings.get("data", content):
                raise UserError(
                    f"{self.folder} counted the training answers of other data than those in {data}: give "
                    "the data that it was trained on"
                )
            training = subset(self.task.examples(data, "train"), self.settings["train_examples"])
            tuned.observe(self.task.target(example, 0.0) for example in training)
        tuned.load(self.folder)
        family.model.eval()
        return tuned

    def way(self, data: Path) -> Answering:
        """How the run answered.

        Args:
            data: folder of the data sets, where training answers are counted.

        Raises:
            UserError: it ranked another list than there is in these data.
        """
        recorded = self.result.get("answering") or {}
        if recorded.get("way") == GENERATE:
            penalty = recorded.get("penalty", LENGTH)
            least, released = recorded.get("least", 0), recorded.get("released")
            return Decoding(recorded["tokens"], recorded["beams"], least, penalty, released)
        for chosen in (None, *WAYS):
            way = way_of(self.task, data, chosen, self.model(None))
            if isinstance(way, Ranking):
                smoothing = float(recorded.get("smoothing", 0.0))
                way = replace(way, k=recorded.get("k", way.k), label_smoothing=smoothing)
            about = described(way)
            if not recorded or all(recorded.get(name) == value for name, value in about.items() if value):
                return way
        raise UserError(
            f"{self.folder} answered in another way than can be had with {data} ({SCORES} says {recorded}): "
            "give the data that it was trained on"
        )

    def answers(self, tuned: Tuned, examples: Sequence[Example], way: Answering) -> dict[str, str]:
        """A text per example id."""
        vision = method_named(self.settings["method"]).vision
        cache = FeatureCache(Path(), 0)  # each picture is encoded when it is asked about
        released = (self.result.get("answering") or {}).get("released")  # it was trained with this prompt
        asked = TaskData(tuned.family, self.task, examples, vision, cache, released=released)
        return predict(tuned, asked, way)


def finished(folder: Path) -> Finished:
    """The finished cell in a folder.

    Raises:
        UserError: there is none, it is damaged, or its method or task is not known.
    """
    if not (folder / CONFIG).is_file() or not (folder / SCORES).is_file():
        raise UserError(
            f"{folder} holds no finished run ({CONFIG}, {SCORES}): give the folder of a run of "
            "`attngraph train` or of a table's cell, such as runs/six/cells/gcn/vqa2/seed0"
        )
    settings = read_config(folder)["settings"]
    due = {"label": str, "method": str, "task": str, "seed": int, "settings": dict, "weights": str}
    due["train_examples"] = int | None
    for name, kind in due.items():
        if name not in settings or not isinstance(settings[name], kind):
            raise UserError(f"{folder / CONFIG} is damaged (no {name}): run again, or restore it")
    try:
        check_known([settings["method"]], list(METHODS), "method")
        check_known([settings["task"]], list(TASKS), "task")
    except UserError as error:
        raise UserError(f"{folder}: {error}, or load its file with --plugin FILE") from None
    task = TASKS[settings["task"]]
    result = read_result(folder, settings["label"], task, settings["seed"])
    return Finished(folder, settings, result)
