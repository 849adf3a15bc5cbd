"""Tuning noise of the study of distances: where the search for learning rates could have chosen another rate,
and the second rates at which arms are run for this reason.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from attngraph.errors import UserError
from attngraph.experiments.base.messages import first_line
from attngraph.experiments.methods import METHODS
from attngraph.experiments.methods.settings import Settings
from attngraph.experiments.tables.runs import Run
from attngraph.experiments.tables.tune import DIVERGED

CHECKPOINTS = 4  # of the search; its seeds are assigned to them in turn
RESAMPLES = 10_000
OFTEN = 0.2  # of resamples in which another rate wins, so that the arm is also run there
OTHER_RATES = "other-rates.yaml"
TRIALS = "search.csv"

Rates = Mapping[tuple[str, str], float]  # row and task -> learning rate


def trials_of(folder: Path) -> pd.DataFrame:
    """All trials of ``attngraph search``.

    Raises:
        UserError: the search is not finished, or its file is damaged.
    """
    if not (folder / TRIALS).is_file():
        raise UserError(f"{folder} has no {TRIALS}: run attngraph search to its end")
    try:
        trials = pd.read_csv(folder / TRIALS)[["method", "task", "rate", "seed", "score"]]
        return trials.astype({"rate": float, "seed": int, "score": float})
    except (KeyError, ValueError) as error:
        raise UserError(f"{folder / TRIALS} is damaged ({first_line(error)}): restore it") from None


def check_searched(trials: pd.DataFrame, chosen: Settings, arms: Collection[tuple[str, str]]) -> None:
    """Raise a UserError if the search tried an arm on a task less often than another arm, or has no settings
    for it.
    """
    tried = trials.groupby(["task", "method"]).size()
    for row, task in arms:
        whole = (task, row) in tried and tried[task, row] == tried[task].max()
        if not whole or chosen.choice(row, task) is None:
            raise UserError(f"the search for rates lacks {row} on {task}: use the folder of the whole search")


def rate_of(run: Run) -> float:
    """The learning rate of a run; 0 without training."""
    recipe = run.settings.get("recipe")
    return 0.0 if recipe is None else float(recipe["learning_rate"])


def wins(trials: pd.DataFrame) -> pd.DataFrame:
    """Fraction of :data:`RESAMPLES` resamples of the checkpoints in which each rate has the best mean:
    ``method``, ``task``, ``rate``, ``mean``, ``share``. A rate at which a run diverged never has it.
    """
    trials = trials.assign(checkpoint=trials["seed"] % CHECKPOINTS)
    count = trials["checkpoint"].nunique()
    draws = np.random.default_rng(0).integers(count, size=(RESAMPLES, count))
    lines = []
    for (method, task), part in trials.groupby(["method", "task"], sort=False):
        means = part.pivot_table(index="checkpoint", columns="rate", values="score")
        means[means.columns[means.eq(DIVERGED).any()]] = DIVERGED
        winners = means.to_numpy()[draws].mean(axis=1).argmax(axis=1)
        shares = np.bincount(winners, minlength=means.shape[1]) / RESAMPLES
        for rate, mean, share in zip(means.columns, means.mean(), shares):
            share = 0.0 if mean == DIVERGED else share  # the first of several that diverged
            lines.append({"method": method, "task": task, "rate": rate, "mean": mean, "share": share})
    return pd.DataFrame(lines)


def second_rates(trials: pd.DataFrame, chosen: Settings, rows: Collection[str]) -> Rates:
    """For rows and tasks for which another rate than the chosen one wins in more than :data:`OFTEN` of the
    resamples: the most frequent of these.
    """
    often = wins(trials).query("share > @OFTEN and method in @rows").sort_values("share", kind="stable")
    second = {}
    for line in often.itertuples():
        if line.rate != chosen.methods[line.method][line.task].learning_rate:
            second[line.method, line.task] = float(line.rate)
    return second


def with_rates(chosen: Settings, second: Rates) -> Settings:
    """The chosen settings with second rates in the place of the chosen ones."""
    changed = chosen.model_copy(deep=True)
    for (row, task), rate in second.items():
        changed.methods[row][task] = changed.methods[row][task].model_copy(update={"learning_rate": rate})
    return changed


def tuning(trials: pd.DataFrame, chosen: Settings, second: Rates) -> pd.DataFrame:
    """:func:`wins` and the second rates as texts."""
    lines = []
    for (method, task), part in wins(trials).groupby(["method", "task"], sort=False):
        every = ", ".join(
            f"{line.rate:g}: " + ("diverged" if line.mean == DIVERGED else f"{line.share:.2f}")
            for line in part.itertuples()
        )
        also = f"{second[method, task]:g}" if (method, task) in second else ""
        rate = chosen.methods[method][task].learning_rate
        lines.append((METHODS[method].title, task, f"{rate:g}", every, also))
    return pd.DataFrame(lines, columns=["Arm", "Task", "Chosen", "Rate: share", "Second rate"])
