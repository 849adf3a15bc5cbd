"""Detect wrong answers of models from their attention graphs; ``docs/detect.md`` is the protocol.

Every model, task and seed is a separate run, saved in ``OUT/cells/MODEL/TASK/seedN.json``. Finished runs are
not repeated: a command that was stopped continues, and one with more models adds them.
"""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import sklearn
import torch

from attngraph.analysis.plots.style import files
from attngraph.errors import UserError
from attngraph.experiments.base.files import check_out, write_json, write_text
from attngraph.experiments.base.messages import check_known
from attngraph.experiments.base.options import from_hub
from attngraph.experiments.base.outputs import Outputs
from attngraph.experiments.base.progress import Progress
from attngraph.experiments.base.reading import read_json
from attngraph.experiments.commands.options import DetectOptions
from attngraph.experiments.data.drawn import Sizes, write_scenes
from attngraph.experiments.models import load_family
from attngraph.experiments.models.weights import weights_digest
from attngraph.experiments.studies.detect import detect, look
from attngraph.experiments.studies.detect_report import draw, markdown, summarise
from attngraph.experiments.tasks import TASKS
from attngraph.names import spelled

RESULTS, TEXT, FIGURE = "results.json", "detect.md", "detect"
NAMES = (RESULTS, TEXT, *files(FIGURE))
CELLS = "cells"
JUDGED = {"vqa": "questions", "ve": "hypotheses"}  # tasks with right and wrong answers -> field of `Sizes`


@dataclass(frozen=True)
class Model:
    """A checkpoint: how it was named, and the digest of its weights."""

    name: str
    weights: str

    def cell(self, out: Path, task: str, seed: int) -> Path:
        """The file of one run."""
        return out / CELLS / f"{Path(self.name).name}-{self.weights[:8]}" / task / f"seed{seed}.json"


Key = tuple[Model, str, int]  # model, task and seed of a run


def run(options: DetectOptions) -> int:
    """``attngraph detect``."""
    options = replace(options, tasks=tuple(spelled(task, JUDGED) for task in options.tasks))
    check_known(options.tasks, list(JUDGED), "task")
    models = _models(options.models)
    settings = {"examples": options.examples, "data_seed": options.seed}
    check_out(options.out)
    cells = {
        (model, task, seed): model.cell(options.out, task, seed)
        for model in models
        for task in options.tasks
        for seed in options.seeds
    }
    if options.dry_run:
        records = _finished(cells, settings)
        left = len(cells) - len(records)
        done = f"{len(records)} finished, {left} to run"
        print(f"{len(cells)} runs: {done}, {options.examples:,} examples each\n")
        for model, task, seed in cells:
            there = ", finished" if (model, task, seed) in records else ""
            print(f"{model.name}  {task}  seed {seed}{there}")
        return 0
    outputs = Outputs(options.out, "detect", settings, NAMES)
    with outputs.alone():
        records = _finished(cells, settings)
        with tempfile.TemporaryDirectory() as folder:
            _run(options, models, cells, settings, records, Path(folder) / "data")
        found = [records[key] for key in cells]
        summary = summarise(found)
        versions = {"torch": torch.__version__, "sklearn": sklearn.__version__}
        machine = f"{platform.system()} {platform.machine()}, cpu, PyTorch {torch.__version__}"
        about = f"Data seed {options.seed}, {options.examples:,} examples of each task; {machine}."
        report = markdown(found, summary, about)
        with outputs.writing() as out:
            content = {**settings, "made_with": versions, **summary, "cells": found}
            write_json(out / RESULTS, content, indent=None)
            write_text(out / TEXT, report)
            draw(summary, out / FIGURE)
    print(report)
    print(f"written: {options.out}/{RESULTS}, {TEXT}, {FIGURE}.png")
    return 0


def _models(names: tuple[str, ...]) -> list[Model]:
    """The checkpoints, without duplicates. They are loaded, so that errors come before the runs start."""
    models: dict[str, Model] = {}
    for given in names:
        name, download = from_hub(given)
        assert name is not None
        load_family(name, download)
        model = Model(name, weights_digest(name))
        if model.weights in models:
            raise UserError(
                f"--models {models[model.weights].name} and {name} have the same weights: use one of them"
            )
        models[model.weights] = model
    return list(models.values())


def _finished(cells: Mapping[Key, Path], settings: Mapping[str, Any]) -> dict[Key, dict[str, Any]]:
    """The records of finished runs.

    Raises:
        UserError: a file cannot be read, or belongs to other settings.
    """
    records = {}
    for (model, task, seed), file in cells.items():
        if file.exists():
            record = read_json(file)
            expected = {"weights": model.weights, "task": task, "seed": seed, **settings}
            found = record if isinstance(record, dict) else {}
            if wrong := [name for name, value in expected.items() if found.get(name) != value]:
                raise UserError(
                    f"{file} has other settings ({', '.join(wrong)}): use another --out, or move it away"
                )
            records[model, task, seed] = found
    return records


def _run(
    options: DetectOptions,
    models: list[Model],
    cells: Mapping[Key, Path],
    settings: Mapping[str, Any],
    records: dict[Key, dict[str, Any]],
    data: Path,
) -> None:
    """Execute the missing runs; the graphs of a model and task are read once for all seeds."""
    missing = {
        (model, task): seeds
        for model in models
        for task in options.tasks
        if (seeds := [seed for seed in options.seeds if (model, task, seed) not in records])
    }
    if not missing:
        return
    quarter = options.examples // 4
    counts = (options.examples - 2 * quarter, quarter, quarter)
    few = dict.fromkeys(asdict(Sizes()), (1, 1, 1))
    write_scenes(data, options.seed, Sizes(**few | {JUDGED[task]: counts for task in options.tasks}))
    bar = Progress(total=sum(map(len, missing.values())), desc="models × tasks × seeds")
    with bar:
        for (model, task), seeds in missing.items():
            family = load_family(model.name)
            parts = look(family, TASKS[task], data, seeds, f"{model.name}, {task}")
            for seed in seeds:
                about = {"model": model.name, "weights": model.weights, "task": task, "seed": seed}
                record = records[model, task, seed] = {**about, **settings, **detect(parts, seed)}
                write_json(cells[model, task, seed], record, indent=None)
                bar.update()
