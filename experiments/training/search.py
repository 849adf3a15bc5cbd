"""The search for learning rates, a join and the schemes' arguments on validation data: the same budget for
each GNN.

Stages, each scored on the validation splits, with seed 0 where nothing else is said:

1. references: two learning rates for full fine-tuning on the tasks that compare joins; its better rate on all
   tasks, text alone too. With the frozen model they tell whether a column separates good models from bad
   ones;
2. joins: every GNN × join × two learning rates on the tasks that compare joins. The join with the best mean
   over GNNs is taken for all. A task counts by its gain, (score − frozen model) / (full fine-tuning − frozen
   model), so that CIDEr's larger numbers do not decide alone;
3. rates: with that join the whole grid of learning rates, the same for each GNN, on every task; then the two
   best rates of each GNN and task with a second seed, and the better mean wins;
4. arguments: the alternatives of each GNN on the first task. A GNN without any gets a third seed of its two
   best rates.

Test data are never touched.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from adapters.joins import JOINS
from experiments.configs.presets import Preset
from experiments.configs.settings import Settings
from experiments.files import whole
from experiments.methods import METHODS, GraphAdapter, method_named
from experiments.tasks import TASKS
from experiments.training.cells import Cell
from experiments.training.execution import Execution
from experiments.training.recipe import Recipe
from experiments.training.runner import run_cells

JOIN_RATES = (1e-3, 3e-3)
FULL_RATES = (3e-4, 1e-3)
VALIDATION_EXAMPLES = 1000
KIND = "kind "  # begins the columns of trials.csv that hold scores per question type
FULL, TEXT, FROZEN, MAJORITY = "full", "text", "frozen", "majority"


@dataclass(frozen=True)
class Trial:
    """One setting of a method on one task with one seed.

    Args:
        method, task: their names.
        rate: peak learning rate; None for methods without training.
        join, arguments: of a graph adapter.
        seed: of the run.
    """

    method: str
    task: str
    rate: float | None = None
    join: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0

    @property
    def label(self) -> str:
        """Names the trial's folder."""
        rate = f"{self.rate:g}" if self.rate else ""
        parts = [self.method, self.join, rate, *(f"{name}{value}" for name, value in self.arguments.items())]
        return "-".join(part for part in parts if part)

    @property
    def key(self) -> tuple[str, str, int]:
        """Tells trials apart."""
        return self.label, self.task, self.seed

    def cell(self, preset: Preset, reduction: int, data: Path, model: str | None) -> Cell:
        """The run that scores the trial on validation data."""
        budget = preset.budget_of(TASKS[self.task])
        method = method_named(self.method)
        settings = Settings(
            join=self.join or "blend", reduction=reduction, arguments={self.method: dict(self.arguments)}
        )
        return Cell(
            self.label,
            self.method,
            method.settings(settings),
            self.task,
            self.seed,
            Recipe(self.rate, budget.steps) if self.rate else None,
            data,
            model,
            split="validation",
            train_examples=budget.train_examples,
            eval_examples=VALIDATION_EXAMPLES,
        )


def gain(score: float, frozen: float, full: float) -> float:
    """The share of the way from the frozen model to full fine-tuning."""
    return (score - frozen) / max(full - frozen, 1e-9)


@dataclass(frozen=True)
class SearchSetup:
    """What a search runs on.

    Args:
        preset: budgets and sizes.
        reduction: width of the model / width of the bottleneck.
        data: folder of the data sets.
        model: checkpoint folder or hub name.
        execution: where and how trials run.
    """

    preset: Preset
    reduction: int
    data: Path
    model: str | None
    execution: Execution

    def cell(self, trial: Trial) -> Cell:
        """A trial's run."""
        return trial.cell(self.preset, self.reduction, self.data, self.model)


class Search:
    """The stages; a second call continues where an interrupted one stopped.

    Attributes:
        scores: trial's key -> score in its task's selecting column; -inf where the run diverged.
        trials: one line per finished trial, as in ``trials.csv``.
    """

    def __init__(self, setup: SearchSetup):
        self.setup = setup
        self.scores: dict[tuple[str, str, int], float] = {}
        self.trials = pd.DataFrame()
        self.rates: dict[str, dict[str, float]] = {FULL: {}, TEXT: {}}

    @property
    def gnns(self) -> dict[str, GraphAdapter]:
        """The methods that are searched: those with arguments to start from."""
        methods = METHODS.items()
        return {name: m for name, m in methods if isinstance(m, GraphAdapter) and m.start is not None}

    @property
    def join_tasks(self) -> list[str]:
        """The tasks that compare joins."""
        return [name for name, task in TASKS.items() if task.search.joins]

    def run(self) -> Settings:
        """All stages; returns the settings that they choose."""
        self._references()
        join = self._choose_join()
        finalists = self._choose_rates(join)
        arguments = self._choose_arguments(join, finalists)
        return Settings(
            join=join, reduction=self.setup.reduction, arguments=arguments, learning_rates=self.rates
        )

    # ---- stages ------------------------------------------------------------------------------------------

    def _references(self) -> None:
        plain = [Trial(name, task) for name in (FROZEN, MAJORITY) for task in TASKS]
        self.score(plain + [Trial(FULL, task, rate) for task in self.join_tasks for rate in FULL_RATES])
        for task in TASKS:
            like = task if task in self.join_tasks else self.join_tasks[0]
            rate = self._best([Trial(FULL, like, rate) for rate in FULL_RATES]).rate
            self.rates[FULL][task] = self.rates[TEXT][task] = rate
        others = [task for task in TASKS if task not in self.join_tasks]
        self.score(
            [Trial(FULL, task, self.rates[FULL][task]) for task in others]
            + [Trial(TEXT, task, self.rates[TEXT][task]) for task in TASKS]
        )

    def _choose_join(self) -> str:
        trials = {
            (join, gnn, task): [Trial(gnn, task, rate, join, method.start) for rate in JOIN_RATES]
            for task in self.join_tasks
            for gnn, method in self.gnns.items()
            for join in JOINS
        }
        self.score([trial for options in trials.values() for trial in options])
        gains = dict.fromkeys(JOINS, 0.0)
        for (join, _, _), options in trials.items():
            gains[join] += self._gain(self._best(options))
        return max(gains, key=gains.__getitem__)

    def _choose_rates(self, join: str) -> dict[tuple[str, str], list[Trial]]:
        """Chooses rates; returns the two best trials of each GNN and task."""
        tried = {
            (gnn, name): [Trial(gnn, name, rate, join, method.start) for rate in task.search.rates]
            for name, task in TASKS.items()
            for gnn, method in self.gnns.items()
        }
        self.score([trial for trials in tried.values() for trial in trials if trial.key not in self.scores])
        finalists = {
            key: sorted(trials, key=lambda trial: self.scores[trial.key], reverse=True)[:2]
            for key, trials in tried.items()
        }
        self.score([replace(trial, seed=1) for trials in finalists.values() for trial in trials])
        for (gnn, task), trials in finalists.items():
            self.rates.setdefault(gnn, {})[task] = self._best_mean(trials, seeds=2)
        return finalists

    def _choose_arguments(
        self, join: str, finalists: dict[tuple[str, str], list[Trial]]
    ) -> dict[str, dict[str, Any]]:
        first = next(iter(TASKS))
        options = {
            gnn: [
                Trial(gnn, first, self.rates[gnn][first], join, arguments)
                for arguments in (method.start, *method.alternatives)
            ]
            for gnn, method in self.gnns.items()
        }
        without = [gnn for gnn, method in self.gnns.items() if not method.alternatives]
        third = [replace(trial, seed=2) for gnn in without for trial in finalists[gnn, first]]
        self.score([trial for trials in options.values() for trial in trials[1:]] + third)
        for gnn in without:
            self.rates[gnn][first] = self._best_mean(finalists[gnn, first], seeds=3)
        return {
            gnn: dict(self._best(trials).arguments) for gnn, trials in options.items() if gnn not in without
        } | {gnn: dict(self.gnns[gnn].start) for gnn in without}

    # ---- scoring -----------------------------------------------------------------------------------------

    def score(self, trials: Sequence[Trial]) -> None:
        """Run trials and note their scores."""
        cells = {self.setup.cell(trial): trial for trial in trials}
        self.scores.update((trial.key, float("-inf")) for trial in trials)  # what a diverged trial is worth
        for cell, result in run_cells(list(cells), self.setup.execution, may_diverge=True).items():
            trial = cells[cell]
            value = result["scores"][TASKS[trial.task].selects]
            self.scores[trial.key] = value
            line = _line(trial, value, result)
            self.trials = pd.concat([self.trials, pd.DataFrame([line])], ignore_index=True)
        with whole(self.setup.execution.out / "trials.csv") as part:
            self.trials.to_csv(part, index=False)

    def _best(self, options: Sequence[Trial]) -> Trial:
        return max(options, key=lambda trial: self.scores[trial.key])

    def _best_mean(self, trials: Sequence[Trial], seeds: int) -> float:
        """The rate whose mean over the first seeds is best."""
        means = {
            trial.rate: sum(self.scores[replace(trial, seed=k).key] for k in range(seeds)) for trial in trials
        }
        return max(means, key=means.__getitem__)

    def _gain(self, trial: Trial) -> float:
        full = Trial(FULL, trial.task, self.rates[FULL][trial.task])
        return gain(*(self.scores[t.key] for t in (trial, Trial(FROZEN, trial.task), full)))


def _line(trial: Trial, value: float, result: Mapping[str, Any]) -> dict[str, Any]:
    """A trial's line in ``trials.csv``."""
    return {
        "method": trial.method,
        "task": trial.task,
        "join": trial.join,
        "rate": trial.rate,
        "seed": trial.seed,
        "arguments": json.dumps(dict(trial.arguments)),
        "selection": value,
        **result["scores"],
        "seconds": result["train_seconds"],
        "parameters": result["parameters"],
        **{KIND + kind: score for kind, (score, _) in result["kinds"].items()},
    }
