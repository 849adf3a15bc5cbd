"""Choose learning rates, the join and the schemes' arguments on validation data, with the same budget for each GNN.

    attngraph search                # about an hour on 2 cores; writes runs/search/{trials.csv,search.md,settings.json}

Stages, each scored on the validation splits, with seed 0 where nothing else is said:

1. references: two learning rates for full fine-tuning; with the frozen model and text alone they tell whether a column
   can speak at all;
2. joins: 4 GNNs × 3 joins × 2 learning rates on VQA and captions. The join with the best mean over GNNs is taken for all.
   A task counts by its gain, (score − frozen model) / (full fine-tuning − frozen model), so that CIDEr's larger numbers do
   not decide alone;
3. rates: with that join the whole grid of learning rates, the same for each GNN, on every task; then the two best rates of
   each GNN and task with a second seed, and the better mean wins;
4. arguments: 2 alternatives per GNN on VQA. GCN has none: its two trials are a third seed of its two best rates.

Test data are never touched.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from adapters.config import AdapterConfig
from adapters.joins import JOINS
from experiments.commands.ablation import PRESETS, prepare
from experiments.configs.rows import GNNS, REDUCTION, SETTINGS_FILE
from experiments.methods import Adapter, Frozen, FullFineTuning, Majority, Method
from experiments.report.tables import kinds_markdown
from experiments.tasks import TASKS
from experiments.training.cells import Cell, write_json
from experiments.training.device import check_device
from experiments.training.loop import Recipe
from experiments.training.runner import add_run_arguments, jobs_for, run_cells

RATES = (1e-3, 3e-3)  # for the joins
TASK_RATES = {
    "vqa": (*RATES, 6e-3, 12e-3),
    "caption": (*RATES, 6e-3, 12e-3, 24e-3),
    "ve": (3e-3, 6e-3, 12e-3),
    "easy_vqa": (3e-3, 6e-3, 12e-3),
}
FULL_RATES = (3e-4, 1e-3)
START = {
    "gcn": {},
    "appnp": {"alpha": 0.1},
    "gcnii": {"alpha": 0.1, "theta": 0.5},
    "pgnn": {"p": 1.5, "mu": 0.1},
}
ALTERNATIVES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "appnp": ({"alpha": 0.3}, {"alpha": 0.1, "degree": "mean"}),
    "gcnii": ({"alpha": 0.3, "theta": 0.5}, {"alpha": 0.1, "theta": 0.5, "degree": "mean"}),
    "pgnn": ({"p": 1.5, "mu": 1.0}, {"p": 1.5, "mu": 0.1, "degree": "mean"}),
}
KIND = "kind "  # begins the columns of trials.csv that hold scores per question type
BOTH = ("vqa", "caption")
OTHERS = ("ve", "easy_vqa")


@dataclass(frozen=True)
class Trial:
    """One setting on one task with one seed."""

    who: str
    task: str
    rate: float | None = None
    join: str = ""
    args: dict[str, Any] = field(default_factory=dict)
    seed: int = 0

    @property
    def label(self) -> str:
        """Names the trial's folder."""
        parts = [
            self.who,
            self.join,
            f"{self.rate:g}" if self.rate else "",
            *(f"{k}{v}" for k, v in self.args.items()),
        ]
        return "-".join(part for part in parts if part)

    def cell(self, data: Path, model: str | None) -> Cell:
        """The run that scores the trial on validation data."""
        preset = PRESETS["full"]
        recipe = Recipe(self.rate, preset.steps[self.task]) if self.rate else None
        return Cell(
            self.label,
            self.task,
            self.seed,
            self.method(),
            recipe,
            data,
            model,
            split="validation",
            train_examples=preset.train_examples[self.task],
            eval_examples=1000,
        )

    def method(self) -> Method:
        """What is trained."""
        fixed = {
            "frozen": Frozen(),
            "majority": Majority(),
            "full": FullFineTuning(),
            "text": FullFineTuning(True),
        }
        return fixed.get(self.who) or Adapter(AdapterConfig(self.who, self.args, self.join, REDUCTION))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``attngraph search``."""
    parser.add_argument("--out", type=Path, default=Path("runs/search"), help="folder (default: %(default)s)")
    add_run_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Run the stages; a second call continues."""
    jobs = jobs_for(args.device, args.jobs)
    check_device(args.device)
    data = args.out / "data"
    first = [Trial("gcn", task, RATES[0], "replace").cell(data, args.model) for task in TASKS]
    prepare(first, args.out, args.device, PRESETS["full"].sizes, args.download)
    found: dict[Trial, float] = {}
    frame = pd.DataFrame()

    def score(trials: Sequence[Trial]) -> None:
        nonlocal frame
        cells = {trial.cell(data, args.model): trial for trial in trials}
        found.update((_key(trial), float("-inf")) for trial in trials)  # what a diverged trial is worth
        for cell, result in run_cells(list(cells), args.out, args.device, jobs, may_diverge=True).items():
            trial = cells[cell]
            found[_key(trial)] = value = result["scores"][TASKS[trial.task].selection]
            line = {
                "who": trial.who,
                "task": trial.task,
                "join": trial.join,
                "rate": trial.rate,
                "seed": trial.seed,
                "args": json.dumps(trial.args),
                "selection": value,
                **result["scores"],
                "seconds": result["train_seconds"],
                "parameters": result["parameters"],
                **{KIND + kind: value for kind, (value, _) in result["kinds"].items()},
            }
            frame = pd.concat([frame, pd.DataFrame([line])], ignore_index=True)
        frame.to_csv(args.out / "trials.csv", index=False)

    def best(options: Sequence[Trial]) -> Trial:
        return max(options, key=lambda trial: found[_key(trial)])

    def gain(trial: Trial) -> float:
        full = Trial("full", trial.task, rates["full"][trial.task])
        return _gain(*(found[_key(t)] for t in (trial, Trial("frozen", trial.task), full)))

    score(
        [Trial(who, task) for who in ("frozen", "majority") for task in TASKS]
        + [Trial("full", task, rate) for task in BOTH for rate in FULL_RATES]
    )
    rates: dict[str, dict[str, float]] = {"full": {}, "text": {}}
    for task in TASKS:
        like = task if task in BOTH else "vqa"
        rates["full"][task] = rates["text"][task] = best(
            [Trial("full", like, rate) for rate in FULL_RATES]
        ).rate
    score(
        [Trial("full", task, rates["full"][task]) for task in OTHERS]
        + [Trial("text", task, rates["text"][task]) for task in TASKS]
    )

    score(
        [
            Trial(gnn, task, rate, join, START[gnn])
            for task in BOTH
            for gnn in GNNS
            for join in JOINS
            for rate in RATES
        ]
    )
    join = max(
        JOINS,
        key=lambda name: sum(
            gain(best([Trial(gnn, task, rate, name, START[gnn]) for rate in RATES]))
            for gnn in GNNS
            for task in BOTH
        ),
    )
    tried = {
        gnn: {task: [Trial(gnn, task, rate, join, START[gnn]) for rate in TASK_RATES[task]] for task in TASKS}
        for gnn in GNNS
    }
    score([trial for task in TASKS for gnn in GNNS for trial in tried[gnn][task] if _key(trial) not in found])
    finalists = {
        gnn: {
            task: sorted(tried[gnn][task], key=lambda t: found[_key(t)], reverse=True)[:2] for task in TASKS
        }
        for gnn in GNNS
    }

    def rate(gnn: str, task: str, seeds: int) -> float:
        return max(
            finalists[gnn][task], key=lambda t: sum(found[_key(replace(t, seed=k))] for k in range(seeds))
        ).rate

    score([replace(trial, seed=1) for task in TASKS for gnn in GNNS for trial in finalists[gnn][task]])
    rates.update({gnn: {task: rate(gnn, task, 2) for task in TASKS} for gnn in GNNS})

    score(
        [
            Trial(gnn, "vqa", rates[gnn]["vqa"], join, args_)
            for gnn in ALTERNATIVES
            for args_ in ALTERNATIVES[gnn]
        ]
        + [replace(trial, seed=2) for trial in finalists["gcn"]["vqa"]]
    )
    rates["gcn"]["vqa"] = rate("gcn", "vqa", 3)
    chosen = dict(START)
    for gnn, others in ALTERNATIVES.items():
        chosen[gnn] = max(
            (START[gnn], *others), key=lambda a: found[_key(Trial(gnn, "vqa", rates[gnn]["vqa"], join, a))]
        )
    settings = {"join": join, "gnn_args": chosen, "learning_rates": rates}
    write_json(args.out / "settings.json", settings)
    text = report(frame)
    (args.out / "search.md").write_text(text)
    print(text + "\n" + json.dumps(settings, indent=1))
    print(
        f"\nsaved: {args.out}/trials.csv, search.md, settings.json\nto use these settings in the tables: "
        f"cp {args.out}/settings.json {SETTINGS_FILE}",
        file=sys.stderr,
    )
    return 0


def report(frame: pd.DataFrame) -> str:
    """The trials as Markdown: whether each column and each question type can speak, and how the joins compare.

    Args:
        frame: one line per trial, as in ``trials.csv``.
    """
    references = {
        "Majority class": "majority",
        "Text only": "text",
        "Frozen model": "frozen",
        "Full fine-tuning": "full",
    }
    rows = {
        **{title: frame[frame.who == who] for title, who in references.items()},
        "Best adapter": frame[frame["join"] != ""],
    }
    best = {title: dict(lines.groupby("task").selection.max()) for title, lines in rows.items()}
    parts = [kinds_markdown(best, "Validation scores, best setting of each method", "Task")]
    for task in dict.fromkeys(frame.task):
        kinds = [
            column
            for column in frame
            if column.startswith(KIND) and frame[frame.task == task][column].notna().any()
        ]
        if len(kinds) > 1:
            scores = {
                title: {kind.removeprefix(KIND): lines[lines.task == task][kind].max() for kind in kinds}
                for title, lines in rows.items()
            }
            parts.append(
                kinds_markdown(scores, f"{TASKS[task].title}, validation: best score per question type")
            )
    compared = frame[
        frame.task.isin(BOTH)
        & frame.rate.isin(RATES)
        & (frame.seed == 0)
        & (frame.args == frame.who.map({gnn: json.dumps(args) for gnn, args in START.items()}))
    ]
    joins = {}
    for join in JOINS:
        found = compared[compared["join"] == join].groupby(["task", "who"]).selection.max()
        joins[join] = {f"{TASKS[task].title}, {gnn}": value for (task, gnn), value in found.items()}
        joins[join]["mean gain"] = sum(
            _gain(value, best["Frozen model"][task], best["Full fine-tuning"][task])
            for (task, _), value in found.items()
        ) / len(found)
    parts.append(
        kinds_markdown(joins, "Joins: validation score at the better of two learning rates", "Task and GNN")
    )
    return "\n".join(parts)


def _gain(score: float, frozen: float, full: float) -> float:
    """The share of the way from the frozen model to full fine-tuning."""
    return (score - frozen) / max(full - frozen, 1e-9)


def _key(trial: Trial) -> tuple[str, str, int]:
    return trial.label, trial.task, trial.seed
