"""One cell of a table: a method trained on a task with a seed, scored, and saved in a folder of its own."""

from __future__ import annotations

import json
import platform
import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import transformers

import attngraph
from attngraph.errors import UserError
from experiments.datasets.example import Example
from experiments.methods import Method
from experiments.models.mini_blip import load_model, weights_digest
from experiments.tasks import TASKS
from experiments.training.device import training_precision
from experiments.training.images import ImageStates
from experiments.training.loop import Recipe, train
from experiments.training.memory import PeakMemory

EVAL_BATCH = 200


@dataclass(frozen=True, eq=False)  # its settings are no dictionary keys, the cell itself is
class Cell:
    """One run.

    Args:
        row: the method's key in ``experiments.configs.rows.ROWS``.
        task: the task's name.
        seed: of the trainable weights and of the order of the examples.
        method: what is trained.
        recipe: how; None for methods without training.
        model: checkpoint folder or hub name; None for the mini-BLIP that ships with the package.
        split: the split that is scored: ``test`` for tables, ``validation`` for choices.
        train_examples, eval_examples: how many examples to use at most (a fixed random subset); None for all.
        data: folder of the drawn data sets.
    """

    row: str
    task: str
    seed: int
    method: Method
    recipe: Recipe | None
    data: Path
    model: str | None = None
    split: str = "test"
    train_examples: int | None = None
    eval_examples: int | None = None

    def folder(self, out: Path) -> Path:
        """Where the run is saved."""
        return out / "cells" / self.row / self.task / f"seed{self.seed}"

    def settings(self) -> dict:
        """What decides the result, as plain values."""
        settings = asdict(self)
        settings["method"] = {"kind": type(self.method).__name__, **_plain(asdict(self.method))}
        settings["data"] = json.loads((self.data / "manifest.json").read_text())
        settings["weights"] = weights_digest(self.model)
        return _plain(settings)


def is_finished(cell: Cell, out: Path) -> bool:
    """Whether the cell's scores are there, for these very settings.

    Raises:
        UserError: the folder holds a run with other settings, or is damaged.
    """
    folder = cell.folder(out)
    config, scores = folder / "config.json", folder / "scores.json"
    if not config.exists():
        return False
    try:
        saved = json.loads(config.read_text())["settings"]
        if scores.exists():
            json.loads(scores.read_text())
    except (json.JSONDecodeError, KeyError) as error:
        raise UserError(
            f"{folder} is damaged ({type(error).__name__}): delete that folder and run again"
        ) from None
    if saved != cell.settings():
        wrong = [k for k, v in cell.settings().items() if saved.get(k) != v]
        raise UserError(
            f"{folder} holds another experiment (other {', '.join(wrong)}): give another --out, or delete it"
        )
    return scores.exists()


def run_cell(
    cell: Cell, out: Path, device: str = "cpu", on_step: Callable[[int], None] = lambda step: None
) -> dict:
    """Train and score one cell, unless it is finished; continue it if it was interrupted.

    Returns:
        The contents of ``scores.json``.
    """
    folder = cell.folder(out)
    if is_finished(cell, out):
        return json.loads((folder / "scores.json").read_text())
    folder.mkdir(parents=True, exist_ok=True)
    write_json(
        folder / "config.json",
        {
            "settings": cell.settings(),
            "device": device,
            "precision": training_precision(device),
            **versions(),
        },
    )
    torch.manual_seed(cell.seed)
    random.seed(cell.seed)
    peak = PeakMemory(device)
    began = time.perf_counter()
    task = TASKS[cell.task]
    model, tokenizer = load_model(cell.model)
    model.to(device)
    tuned = cell.method.put_on(model)
    training = subset(task.examples(cell.data, "train"), cell.train_examples)
    tuned.observe([task.target(example, 0.0) for example in training])
    loss, earlier = None, 0.0
    if cell.recipe is not None:
        states = ImageStates(model, training, tuned.vision, out / "image-states")
        loss, earlier = train(
            model,
            tuned,
            tokenizer,
            [task.prompt(e) for e in training],
            lambda k, draw: task.target(training[k], draw),
            states,
            cell.recipe,
            cell.seed,
            folder,
            on_step,
        )
        tuned.save(folder)
    trained = time.perf_counter()
    examples = subset(task.examples(cell.data, cell.split), cell.eval_examples)
    predictions = predict(model, tuned, tokenizer, task, examples, out / "image-states")
    scores = task.score(predictions, examples)
    write_json(folder / "predictions.json", predictions)
    np.savez_compressed(
        folder / "statistics.npz",
        **{name: per_image(values, examples) for name, values in scores.statistics.items()},
    )
    result = {
        "row": cell.row,
        "task": cell.task,
        "seed": cell.seed,
        "split": cell.split,
        "scores": scores.columns,
        "kinds": scores.kinds,
        "examples": len(examples),
        "trained_on": len(training),
        "parameters": sum(p.numel() for p in tuned.parameters()),
        "loss": loss,
        "learned": tuned.learned(),
        "train_seconds": earlier + trained - began,
        "eval_seconds": time.perf_counter() - trained,
        "peak_mb": peak.megabytes(),
    }
    write_json(folder / "scores.json", result)  # last: it marks the cell as finished
    (folder / "state.pt").unlink(missing_ok=True)
    return result


@torch.no_grad()
def predict(model, tuned, tokenizer, task, examples: list[Example], cache: Path) -> dict[str, str]:
    """A generated text per example id. Examples are sorted by length, so batches carry little padding."""
    states = ImageStates(model, examples, tuned.vision, cache)
    prompts = [task.prompt(example) for example in examples]
    order = sorted(range(len(examples)), key=lambda k: len(prompts[k]))
    texts: dict[str, str] = {}
    for start in range(0, len(order), EVAL_BATCH):
        part = order[start : start + EVAL_BATCH]
        generated = tuned.generate(
            model,
            tokenizer,
            states(torch.tensor(part)),
            [prompts[k] for k in part],
            task.max_new_tokens,
            task.num_beams,
        )
        texts.update((examples[k].id, text) for k, text in zip(part, generated))
    return texts


def per_image(statistics: np.ndarray, examples: list[Example]) -> np.ndarray:
    """Per-example statistics ``(N, K)`` summed over the questions about each image, ``(images, K)``: what a bootstrap may
    draw, since questions about one image are right or wrong together."""
    place = {image: k for k, image in enumerate(dict.fromkeys(example.image for example in examples))}
    sums = np.zeros((len(place), statistics.shape[1]))
    np.add.at(sums, [place[example.image] for example in examples], statistics)
    return sums


def subset(examples: list[Example], count: int | None) -> list[Example]:
    """A fixed random subset (the same for every method and seed), or all."""
    if count is None or count >= len(examples):
        return examples
    return random.Random(0).sample(examples, count)


def versions() -> dict:
    """What the run was made with."""
    return {
        "versions": {
            "attngraph": attngraph.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "machine": f"{platform.system()} {platform.machine()}, {torch.get_num_threads()} threads",
    }


def write_json(file: Path, content) -> None:
    """Complete or not at all."""
    part = file.with_name(file.name + ".part")
    part.write_text(json.dumps(content, indent=1, default=float))
    part.replace(file)


def _plain(value):
    """Tuples as lists and paths as text: what JSON gives back."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value
