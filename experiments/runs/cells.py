"""One run: a method trained on a task with a seed, scored, and saved in its own folder."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np
import torch

from attngraph.errors import UserError
from attngraph.experiments.base.files import whole, write_json, write_text
from attngraph.experiments.data.example import Example
from attngraph.experiments.methods import method_named
from attngraph.experiments.methods.method import PREDICTIONS
from attngraph.experiments.methods.parameters import count_parameters
from attngraph.experiments.metrics.statistics import per_image
from attngraph.experiments.models import load_family
from attngraph.experiments.runs.answering import described, predict
from attngraph.experiments.runs.data import FeatureCache, TaskData, subset
from attngraph.experiments.runs.device import PeakMemory, agreed, cpu_threads, processes, training_precision
from attngraph.experiments.runs.execution import Execution
from attngraph.experiments.runs.experiment import EXPERIMENT, VALIDATED, Cell, Diverged
from attngraph.experiments.runs.saved import (
    CONFIG,
    DIVERGED,
    SCORES,
    STATISTICS,
    made_with,
    read_config,
    read_result,
)
from attngraph.experiments.runs.trackers import tracked
from attngraph.experiments.runs.train import STATES, train
from attngraph.experiments.runs.validation import Validation
from attngraph.experiments.tasks import TASKS

IMAGE_STATES = "image-states"  # the folder that the runs of a table share
WATCHED = 64  # examples on which is measured what adapters do


def has_scores(cell: Cell, out: Path) -> bool:
    """Whether the folder contains a finished run, of any settings."""
    return (cell.folder(out) / SCORES).exists()


def read_scores(cell: Cell, out: Path) -> dict[str, Any]:
    """The content of a finished run's ``scores.json``.

    Raises:
        UserError: a file of the run is damaged.
    """
    return read_result(cell.folder(out), cell.label, TASKS[cell.task], cell.seed)


def check_folder_of(cell: Cell, run: Execution) -> None:
    """Check that the run's folder contains exactly this run, finished or not, or nothing.

    Raises:
        UserError: it holds a run with other settings or conditions, or is damaged.
    """
    folder = cell.folder(run.out)
    if not folder.exists() or not any(folder.iterdir()):
        return
    config, settings = read_config(folder), cell.description()
    saved = config["settings"]
    if cell.checkpoint and not Path(str(cell.model)).exists():
        settings["weights"] = saved.get("weights")  # which nobody can compare here
    wrong = [name for name in {**settings, **saved} if saved.get(name) != settings.get(name)]
    wrong += [
        f"{name}: {config.get(name, 'unknown')}, not {value}"
        for name, value in run.conditions().items()
        if config.get(name) != value
    ]
    if wrong:
        raise UserError(
            f"{folder} holds another experiment (other {', '.join(wrong)}): use another --out, or move it "
            "away"
        )


def remove_states(cell: Cell, out: Path) -> None:
    """Remove what a finished run no longer needs: the states from which an interrupted run continues."""
    rmtree(cell.folder(out) / STATES, ignore_errors=True)


def run_cell(
    cell: Cell, run: Execution, on_step: Callable[[int], None] = lambda step: None
) -> dict[str, Any]:
    """Train and score one run; continue it if it was interrupted.

    Under ``torchrun`` all processes call this together: they train on the same batches as a single process,
    and share the scoring; the first one writes.

    Args:
        cell: the run.
        run: where and how it is executed, on one device.
        on_step: called after every step.

    Returns:
        The contents of ``scores.json``.

    Raises:
        Diverged: the loss or a weight is not finite; this is recorded in the run's folder.
    """
    is_main = processes(run.device).is_main_process
    with cpu_threads(run.threads):
        try:
            _train_and_score(cell, run, on_step)
        except Diverged as error:
            if is_main:
                write_json(cell.folder(run.out) / DIVERGED, {"error": str(error)})
            raise
    if is_main:
        remove_states(cell, run.out)
    return agreed(lambda: read_scores(cell, run.out))


def _train_and_score(cell: Cell, run: Execution, on_step: Callable[[int], None]) -> None:
    state, folder, recipe = processes(run.device), cell.folder(run.out), cell.recipe
    torch.manual_seed(cell.seed)
    random.seed(cell.seed)
    task, method = TASKS[cell.task], method_named(cell.method)
    cache, way = FeatureCache(run.out / IMAGE_STATES, run.cache_gb), cell.way()

    def examples_of(split: str, count: int | None) -> Sequence[Example]:
        return subset(task.examples(cell.data, split), count)

    def seen(examples: Sequence[Example], augment: bool = False) -> TaskData:
        released = getattr(way, "as_released", None)
        with state.main_process_first():  # it fills the cache of image states
            return TaskData(family, task, examples, cache, method.hides_image, augment, released)

    # the model, and what it sees
    family = load_family(cell.model, side=cell.side)
    family.model.to(run.device)
    tuned = method.apply(family, cell.settings)
    family.check_decoding(way)
    started = tuned.scalars()
    training = examples_of("train", cell.train_examples)
    examples = examples_of(cell.split, cell.eval_examples)
    tuned.observe(task.target(example, 0.0) for example in training)
    count = count_parameters(tuned)  # before training: AdaLoRA removes some at the end
    asked, validation, trained = seen(examples), None, None
    if recipe is not None:
        data = seen(training, recipe.augment)
        if recipe.validate_every is not None:
            held = seen(examples_of(VALIDATED, cell.eval_examples))
            validation = Validation(tuned, held, way, recipe, folder)
    if state.is_main_process:
        _begin(cell, run)

    # what it learns, and its answers
    peak, began = PeakMemory(run.device), time.perf_counter()

    def measured(step: int) -> None:
        peak.sample()
        on_step(step)

    if recipe is not None:
        with tracked(run.trackers, folder, cell) as tell:
            trained = train(tuned, data, recipe, cell.seed, folder, measured, validation, tell)
        if state.is_main_process:
            tuned.save(folder)
    trained_at = time.perf_counter()
    predictions = predict(tuned, asked, way)
    if not state.is_main_process:
        return
    scores = task.score(predictions, examples)
    write_json(folder / PREDICTIONS, predictions)
    images = [example.image for example in examples]
    with whole(folder / STATISTICS) as part:
        sums = {key: per_image(values, images) for key, values in scores.statistics.items()}
        np.savez_compressed(part, **sums)
    result = {
        "row": cell.label,
        "task": cell.task,
        "seed": cell.seed,
        "split": cell.split,
        "scores": scores.columns,
        "kinds": scores.kinds,
        "examples": len(examples),
        "trained_on": len(training),
        "parameters": count.trained,
        "parameter_shares": count.shares,
        "loss": trained and trained.loss,
        "started": started,
        "learned": tuned.scalars(),
        "effects": tuned.effects(asked.first(WATCHED)),
        "train_seconds": (trained.earlier_seconds if trained else 0.0) + trained_at - began,
        "eval_seconds": time.perf_counter() - trained_at,
        "peak_mb": peak.bytes() / 1e6,
        "memory_mb": {name: value / 1e6 for name, value in peak.sampled().items()},
        "evaluator": scores.evaluator,
        "source": task.source(cell.data, cell.split),
        "answering": described(way, family),
    }
    if validation is not None:
        result |= {"best_step": validation.best_step, "validations": len(validation.done)}
    write_json(folder / SCORES, result, default=float)  # last: it marks the cell as finished


def _begin(cell: Cell, run: Execution) -> None:
    """Write the settings that determine a run's result, and the versions it is computed with."""
    folder = cell.folder(run.out)
    config = {
        "settings": cell.description(),
        "device": run.device,
        "precision": training_precision(run.device, cell.recipe.precision if cell.recipe else "auto"),
        "cache_gb": run.cache_gb,
        **run.conditions(),
        **made_with(),
    }
    write_json(folder / CONFIG, config)
    write_text(folder / EXPERIMENT, cell.yaml())
    (folder / DIVERGED).unlink(missing_ok=True)  # this call may end otherwise
