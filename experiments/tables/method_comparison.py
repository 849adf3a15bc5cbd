"""A table's runs in the files of PEFT's ``method_comparison``, and a summary with intervals over seeds.

``FOLDER/results/<method>--<model>-seed<N>.json`` holds a run, ``FOLDER/experiments/<method>/<model>-seed<N>``
its ``adapter_config.json`` and ``training_params.json``; the fields are those that PEFT's ``processing.py``
reads. On CPUs the memory is that of the process.

Source: https://github.com/huggingface/peft/tree/main/method_comparison.
"""

from __future__ import annotations

import math
import platform
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.stats import t

from attngraph.experiments.base.files import write_json, write_text
from attngraph.experiments.base.reading import read_json
from attngraph.experiments.base.shipped import DEFAULT
from attngraph.experiments.runs.forgetting import Forgetting
from attngraph.experiments.runs.saved import SCORES, Finished, finished
from attngraph.experiments.tables.render import MISSING, markdown_grid
from attngraph.experiments.tables.runs import Run, distinct
from attngraph.experiments.tasks import TASKS

if TYPE_CHECKING:
    import pandas as pd

FOLDER, SUMMARY = "method_comparison", "summary"
CONFIG = "adapter_config.json"
LEVEL = 0.95
MB = 10**6
#: Column of the summary -> heading, factor, digits.
COLUMNS = {
    "test_accuracy": ("Score × 100", 100, 1),
    "forgetting": ("Forgetting, nats per token", 1, 3),
    "train_time": ("Training, s", 1, 0),
    "memory_max": ("Peak memory, MB", 1 / MB, 0),
    "file_size": ("File, kB", 1e-3, 0),
    "num_trainable_params": ("Trained", 1, 0),
}


def write_comparison(runs: Sequence[Run], forgetting: Forgetting, folder: Path) -> dict[str, Path]:
    """Write all runs of a table and the summary; returns name -> path of each file.

    Args:
        runs: runs of one task; a run in two rows is written once.
        forgetting: measures forgetting. Runs that are already written are not measured again.
        folder: folder that :data:`FOLDER` is written to.
    """
    results = []
    for run in distinct(runs):
        done = finished(run.folder)
        name = f"{_model(done)}-seed{run.seed}"
        file = folder / FOLDER / "results" / f"{run.row}--{name}.json"
        created = datetime.fromtimestamp((run.folder / SCORES).stat().st_mtime, UTC).isoformat()
        content = read_json(file) if file.is_file() else None
        info = {"train_config": {}} if content is None else content["run_info"]
        made = (info.get("created_at"), info["train_config"].get("forgetting"))
        if content is None or made != (created, forgetting.task.name):
            content = result_of(run, done, created, forgetting)
            place = folder / FOLDER / "experiments" / run.row / name
            write_json(place / "training_params.json", content["run_info"]["train_config"])
            if (run.folder / CONFIG).is_file():
                shutil.copy(run.folder / CONFIG, place / CONFIG)
            write_json(file, content)
        results.append((run, content))
    frame = summary(results)
    return {
        f"{SUMMARY}.csv": write_text(folder / FOLDER / f"{SUMMARY}.csv", frame.to_csv(index=False)),
        f"{SUMMARY}.md": write_text(folder / FOLDER / f"{SUMMARY}.md", summary_markdown(frame)),
    }


def _model(run: Finished) -> str:
    return Path(run.experiment.model or DEFAULT).name


def result_of(run: Run, done: Finished, created: str, forgetting: Forgetting) -> dict[str, Any]:
    """Content of PEFT's ``results/NAME.json`` for a run; for a method that is not PEFT's, its settings are
    used instead of a configuration.
    """
    result, recipe = run.result, run.settings["recipe"] or {}
    model = _model(done)
    task, peak = TASKS[run.task], int(run.result["peak_mb"] * MB)
    memory = {key: int(value * MB) for key, value in result.get("memory_mb", {}).items()}
    config: Any = {"peft_type": run.row.upper(), **(run.settings["settings"] or {})}
    if (run.folder / CONFIG).is_file():
        config = read_json(run.folder / CONFIG)
    share, trained = result["parameter_shares"]["model"], result["parameters"]
    own = round(trained / share) if share else 0
    versions = run.config.get("versions") or {}
    train = {
        "model_id": model,
        "dtype": "float32",
        "seed": run.seed,
        "batch_size": recipe.get("batch_size"),
        "max_steps": recipe.get("steps"),
        "grad_norm_clip": recipe.get("clip"),
        "optimizer_type": "AdamW",
        "optimizer_kwargs": {"lr": recipe.get("learning_rate"), "weight_decay": recipe.get("weight_decay")},
        "lr_scheduler": recipe.get("schedule", "linear"),
        "task": run.task,
        "forgetting": forgetting.task.name,
    }
    return {
        "run_info": {
            "created_at": created,
            "total_time": result["train_seconds"] + result["eval_seconds"],
            "experiment_name": f"{run.row}/{model}-seed{run.seed}",
            "peft_branch": f"v{versions.get('peft', '')}",
            "peft_worktree_is_dirty": False,
            "train_config": train,
            "peft_config": config,
            "error_msg": "",
        },
        "train_info": {
            "accelerator_memory_reserved_avg": memory.get("mean", peak),
            "accelerator_memory_max": peak,
            "accelerator_memory_reserved_99th": memory.get("p99", peak),
            "train_time": result["train_seconds"],
            "file_size": sum(file.stat().st_size for file in run.folder.glob("*.safetensors")),
            "num_trainable_params": trained,
            "num_total_params": own + (trained if (run.folder / CONFIG).is_file() else 0),
            "status": "success",
            "metrics": [
                {
                    "step": recipe.get("steps", 0),
                    "test accuracy": result["scores"][task.selects],
                    "train loss": result["loss"],
                    "train samples": recipe.get("steps", 0) * recipe.get("batch_size", 0),
                    "train total tokens": 0,  # required by PEFT's reader; tokens are not counted
                    "forgetting": forgetting.of(done),
                }
            ],
        },
        "meta_info": {
            "model_info": {"sha": run.checkpoint, "created_at": None},
            "dataset_info": {run.task: {"sha": None, "created_at": None}},
            "package_info": {f"{name}-version": version for name, version in versions.items()}
            | {"datasets-version": None, "bitsandbytes-version": None},
            "system_info": {
                "system": platform.system(),
                "machine": platform.machine(),
                "accelerator": run.config.get("device", "cpu"),
            },
            "pytorch_info": torch.__config__.show(),
        },
    }


def summary(results: Sequence[tuple[Run, Mapping[str, Any]]]) -> pd.DataFrame:
    """A line for each row, in their order: ``method``, ``seeds``, and of each of :data:`COLUMNS` the mean
    over seeds, with ``_low`` and ``_high``, the ends of Student's 95 % interval for new seeds (NaN for one).
    """
    import pandas as pd

    rows: dict[str, list[dict[str, float]]] = {}
    for run, content in results:
        info, last = content["train_info"], content["train_info"]["metrics"][-1]
        values = {**info, "test_accuracy": last["test accuracy"], "forgetting": last["forgetting"]}
        values["memory_max"] = info["accelerator_memory_max"]
        rows.setdefault(run.method.title, []).append({name: float(values[name]) for name in COLUMNS})
    lines = []
    for title, of_row in rows.items():
        line: dict[str, Any] = {"method": title, "seeds": len(of_row)}
        for name in COLUMNS:
            low, mean, high = interval([values[name] for values in of_row])
            line |= {name: mean, f"{name}_low": low, f"{name}_high": high}
        lines.append(line)
    return pd.DataFrame(lines)


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    r"""Low, mean and high: :math:`\bar x \pm t_{n-1} s / \sqrt n` at level 0.95; NaN ends for one value."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return math.nan, mean, math.nan
    half = float(t.ppf((1 + LEVEL) / 2, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))
    return mean - half, mean, mean + half


def summary_markdown(frame: pd.DataFrame) -> str:
    """:func:`summary` as Markdown: means, and intervals where they have a width."""
    import pandas as pd

    def cell(line: Any, name: str) -> str:
        _, factor, digits = COLUMNS[name]
        low, mean, high = (factor * line[key] for key in (f"{name}_low", name, f"{name}_high"))
        said = MISSING if math.isnan(mean) else f"{mean:,.{digits}f}"
        return said if math.isnan(low) or low == high else f"{said} ({low:,.{digits}f} to {high:,.{digits}f})"

    shown = pd.DataFrame(
        {
            "Method": frame["method"],
            "Seeds": frame["seeds"],
            **{
                heading: [cell(line, name) for _, line in frame.iterrows()]
                for name, (heading, _, _) in COLUMNS.items()
            },
        }
    )
    about = "Means over seeds, in parentheses 95 % intervals for new seeds (Student's t)."
    return f"{about}\n\n{markdown_grid(shown)}"
