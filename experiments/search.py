"""Choose learning rates, the join and the schemes' arguments on validation data, with the same budget for each GNN.

    attngraph search                # not timed yet, perhaps 45 minutes on 2 cores; writes runs/search/{trials.csv,settings.json}

Stages, each scored on the validation splits with seed 0:

1. references: two learning rates for full fine-tuning; with the frozen model and text alone they tell whether a column
   can speak at all;
2. joins: 4 GNNs × 3 joins × 2 learning rates on VQA and captions. The join with the best mean over GNNs is taken for all;
3. rates: 2 learning rates per GNN on the other two tasks, with that join;
4. arguments: 2 alternatives per GNN on VQA and captions (GCN has none, so it gets two more learning rates).

Test data are never touched.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from adapters.config import AdapterConfig
from adapters.joins import JOINS
from experiments.ablation import PRESETS, check_device, prepare
from experiments.cells import Cell, write_json
from experiments.methods import Adapter, Frozen, FullFineTuning, Majority, Method
from experiments.rows import GNNS, REDUCTION
from experiments.runner import run_cells
from experiments.tasks import TASKS
from experiments.training import Recipe

RATES = (1e-3, 3e-3)
FULL_RATES = (3e-4, 1e-3)
START = {"gcn": {}, "appnp": {"alpha": 0.1}, "gcnii": {"alpha": 0.1, "theta": 0.5}, "pgnn": {"p": 1.5, "mu": 0.1}}
ALTERNATIVES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "appnp": ({"alpha": 0.3}, {"alpha": 0.1, "degree": "mean"}),
    "gcnii": ({"alpha": 0.3, "theta": 0.5}, {"alpha": 0.1, "theta": 0.5, "degree": "mean"}),
    "pgnn": ({"p": 1.5, "mu": 1.0}, {"p": 1.5, "mu": 0.1, "degree": "mean"}),
}
MORE_RATES = (2e-3, 6e-3)  # for GCN, which has no arguments
BOTH = ("vqa", "caption")
OTHERS = ("ve", "easy_vqa")


@dataclass(frozen=True)
class Trial:
    """One setting on one task."""

    who: str
    task: str
    rate: float | None = None
    join: str = ""
    args: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Names the trial's folder."""
        parts = [self.who, self.join, f"{self.rate:g}" if self.rate else "", *(f"{k}{v}" for k, v in self.args.items())]
        return "-".join(part for part in parts if part)

    def cell(self, data: Path, model: str | None) -> Cell:
        """The run that scores the trial on validation data."""
        preset = PRESETS["full"]
        recipe = Recipe(self.rate, preset.steps[self.task]) if self.rate else None
        return Cell(self.label, self.task, 0, self.method(), recipe, data, model, split="validation",
                    train_examples=preset.train_examples[self.task], eval_examples=1000)

    def method(self) -> Method:
        """What is trained."""
        fixed = {"frozen": Frozen(), "majority": Majority(), "full": FullFineTuning(), "text": FullFineTuning(True)}
        return fixed.get(self.who) or Adapter(AdapterConfig(self.who, self.args, self.join, REDUCTION))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``attngraph search``."""
    parser.add_argument("--out", type=Path, default=Path("runs/search"), help="folder (default: %(default)s)")
    parser.add_argument("--model", help="checkpoint folder or hub name (default: the mini-BLIP of this package)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda (all GPUs), cuda:1, mps (default: cpu)")
    parser.add_argument("--jobs", type=int, help="trials at the same time (default: one per core or GPU)")


def run(args: argparse.Namespace) -> int:
    """Run the stages; a second call continues."""
    check_device(args.device)
    data = args.out / "data"
    first = [Trial("gcn", task, RATES[0], "replace").cell(data, args.model) for task in TASKS]
    prepare(first, args.out, args.device, PRESETS["full"].sizes)
    found: dict[Trial, float] = {}
    frame = pd.DataFrame()

    def score(trials: Sequence[Trial]) -> None:
        nonlocal frame
        cells = {trial.cell(data, args.model): trial for trial in trials}
        for cell, result in run_cells(list(cells), args.out, args.device, args.jobs).items():
            trial = cells[cell]
            found[_key(trial)] = value = result["scores"][TASKS[trial.task].selection]
            line = {"who": trial.who, "task": trial.task, "join": trial.join, "rate": trial.rate,
                    "args": json.dumps(trial.args), "selection": value, **result["scores"],
                    "seconds": result["train_seconds"], "parameters": result["parameters"]}
            frame = pd.concat([frame, pd.DataFrame([line])], ignore_index=True)
        frame.to_csv(args.out / "trials.csv", index=False)

    def best(options: Sequence[Trial]) -> Trial:
        return max(options, key=lambda trial: found[_key(trial)])

    score([Trial(who, task) for who in ("frozen", "majority") for task in TASKS]
          + [Trial("full", task, rate) for task in BOTH for rate in FULL_RATES])
    rates: dict[str, dict[str, float]] = {"full": {}, "text": {}}
    for task in TASKS:
        like = task if task in BOTH else "vqa"
        rates["full"][task] = rates["text"][task] = best([Trial("full", like, rate) for rate in FULL_RATES]).rate
    score([Trial("full", task, rates["full"][task]) for task in OTHERS]
          + [Trial("text", task, rates["text"][task]) for task in TASKS])

    score([Trial(gnn, task, rate, join, START[gnn]) for task in BOTH for gnn in GNNS for join in JOINS for rate in RATES])
    join = max(JOINS, key=lambda name: sum(found[_key(best([Trial(gnn, task, rate, name, START[gnn]) for rate in RATES]))]
                                           for gnn in GNNS for task in BOTH))
    score([Trial(gnn, task, rate, join, START[gnn]) for task in OTHERS for gnn in GNNS for rate in RATES])
    for gnn in GNNS:
        rates[gnn] = {task: best([Trial(gnn, task, rate, join, START[gnn]) for rate in RATES]).rate for task in TASKS}

    score([Trial(gnn, task, rates[gnn][task], join, args_) for gnn in GNNS if gnn in ALTERNATIVES
           for args_ in ALTERNATIVES[gnn] for task in BOTH]
          + [Trial("gcn", task, rate, join) for task in BOTH for rate in MORE_RATES])
    for task in BOTH:
        rates["gcn"][task] = best([Trial("gcn", task, rate, join) for rate in (*RATES, *MORE_RATES)]).rate
    chosen = dict(START)
    for gnn, others in ALTERNATIVES.items():
        chosen[gnn] = max((START[gnn], *others),
                          key=lambda a: sum(found[_key(Trial(gnn, task, rates[gnn][task], join, a))] for task in BOTH))
    settings = {"join": join, "gnn_args": chosen, "learning_rates": rates}
    write_json(args.out / "settings.json", settings)
    print(json.dumps(settings, indent=1))
    print(f"\nsaved: {args.out / 'trials.csv'}, {args.out / 'settings.json'}", file=sys.stderr)
    return 0


def _key(trial: Trial) -> tuple[str, str]:
    return trial.label, trial.task
