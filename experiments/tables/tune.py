"""Learning rates, joins and the schemes' arguments, chosen on validation data.

A method's settings on a task are chosen by a :class:`Race` of trials:

1. *screening*: every initial setting of the race runs with seed 0;
2. *extension*: while one of the best settings has the smallest or the largest rate tried with its join and
   arguments, the next rate beyond it is tried;
3. *finalists*: the best settings get further seeds, one after the other, until the budget of trials is used;
   the best mean wins;
4. *the winner's edge*: while the winner's rate is at an edge, the next rate runs with the winner's seeds.

``attngraph sweep`` (:func:`sweep`) races the learning rates of the rows of a table with one seed. Rows that
are compared begin with the same rates, since scores may have several local maxima, and a race that follows
the slope from each row's rate would end in different ones.

``attngraph search`` (:func:`search`) races each join × arguments × rate of every GNN with the same number of
trials, so a GNN with fewer settings spends more trials on seeds; for all other methods it races the learning
rates. Attribution rows with fewer seeds in the table than the others use one seed. Methods that follow
another one are searched after it, with the settings chosen for it; those with a different join use the best
arguments for that join.

If the grid has rates, ``attngraph search`` does not run races: every row is tried at each of these rates with
all of its seeds (:func:`search_grid`).

Test data are never used. Finished trials are not repeated.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from attngraph.errors import UserError
from attngraph.experiments.base.files import published, write_text
from attngraph.experiments.base.progress import note
from attngraph.experiments.base.reading import read_text
from attngraph.experiments.methods import GraphAdapter, Method, method_named
from attngraph.experiments.methods.settings import Choice, Settings, write_settings
from attngraph.experiments.runs.cells import has_scores
from attngraph.experiments.runs.device import processes
from attngraph.experiments.runs.execution import Execution
from attngraph.experiments.runs.experiment import AT_RATE, Cell
from attngraph.experiments.runs.runner import run_cells
from attngraph.experiments.tables.grid import Grid
from attngraph.experiments.tables.plan import Plan, check_checkpoints
from attngraph.experiments.tables.render import markdown_grid
from attngraph.experiments.tasks import TASKS

RATES = tuple(float(f"{digit}e{power}") for power in range(-6, 1) for digit in (1, 3))  # half powers of ten
FURTHER = 2  # rates beyond those of a sweep; seeds for each finalist of a search that are kept for them
DIVERGED = -math.inf  # the score of a run whose loss was not finite
SETTINGS = "settings.yaml"
FIRST = ("method", "task", "join", "arguments", "rate", "seed")  # columns of the file of all trials

Key = tuple[str, str]  # method and task
Scores = Mapping[tuple[str, str, int], float]  # by trial's key


@dataclass(frozen=True)
class Trial:
    """One setting of a method on one task with one seed.

    Args:
        method, task: their names.
        choice: the setting; fields that it does not set are those of the table.
        seed: seed of the run.
    """

    method: str
    task: str
    choice: Choice
    seed: int = 0

    @property
    def setting(self) -> str:
        """Short name of the setting."""
        parts = [f"{self.choice.learning_rate:g}"]
        if "join" in self.choice.model_fields_set:
            parts.insert(0, self.choice.join)
        return "-".join([*parts, *(f"{name}{value}" for name, value in self.choice.arguments.items())])

    @property
    def label(self) -> str:
        """Name of the trial's folder."""
        return f"{self.method}{AT_RATE}{self.setting}"

    @property
    def key(self) -> tuple[str, str, int]:
        """Identity of the trial."""
        return self.label, self.task, self.seed


# ---- a race ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RaceLimits:
    """Budget of a race.

    Args:
        trials: number of trials, exceeded only for a winner with several seeds whose rate is at an edge.
        finalists: number of settings that get further seeds.
        seeds: maximum number of seeds of a finalist.
    """

    trials: int
    finalists: int = 1
    seeds: int = 1


JOINT = RaceLimits(24, 3, 24)  # of a GNN: all trials are spent
OTHERS = RaceLimits(10, 2, 3)  # of a method that is searched for learning rates alone
SECOND = RaceLimits(6)  # of such a row of attribution that has fewer seeds in the table: one seed each


class Race:
    """Finds a method's best setting on a task.

    Args:
        method, task: their names.
        screened: the initial settings.
        limits: the budget.

    Attributes:
        tried: the trials so far.
    """

    def __init__(self, method: str, task: str, screened: Sequence[Choice], limits: RaceLimits):
        self.method, self.task, self.screened, self.limits = method, task, screened, limits
        self.tried: list[Trial] = []
        self._final: list[Choice] = []

    def next(self, scores: Scores) -> list[Trial]:
        """The trials of the next round; empty when the race is over.

        Args:
            scores: scores of all trials of the previous rounds.
        """
        if not self.tried:
            found = [self._trial(choice) for choice in self.screened]
        elif self.limits.seeds == 1:
            found = self._beyond(scores)[: max(0, self.limits.trials - len(self.tried))]
        else:
            found = self._with_further_seeds(scores)
        self.tried += found
        return found

    def _with_further_seeds(self, scores: Scores) -> list[Trial]:
        left, finalists = self.limits.trials - len(self.tried), self.limits.finalists
        found = [] if self._final else self._beyond(scores)[: max(0, left - FURTHER * finalists)]
        seed = 1 + max(trial.seed for trial in self.tried)
        if not found and left >= finalists and seed < self.limits.seeds:
            self._final = self._final or self.best(scores)
            found = [self._trial(choice, seed) for choice in self._final]
        return found or self._past_the_winner(scores)

    def best(self, scores: Scores, join: str | None = None) -> list[Choice]:
        """The settings in order of quality: those with the most seeds first, then by mean score, then the
        smallest rate; only those with the given join, if any.
        """
        tried = {trial.label: trial.choice for trial in self.tried}
        found = [choice for choice in tried.values() if join in (None, choice.join)]

        def place(choice: Choice) -> tuple[float, ...]:
            return -self.seeds(choice), -self.mean(choice, scores), choice.learning_rate

        return sorted(found, key=place)[: self.limits.finalists]

    def seeds(self, choice: Choice) -> int:
        """Number of seeds of a setting."""
        return len(self._alike(choice))

    def mean(self, choice: Choice, scores: Scores) -> float:
        """A setting's mean score over its seeds."""
        return sum(scores[trial.key] for trial in self._alike(choice)) / self.seeds(choice)

    def beyond(self, choice: Choice) -> Choice | None:
        """The setting with the next rate, if the setting's rate is the smallest or the largest tried with its
        join and arguments; None otherwise.
        """
        same = choice.model_dump(exclude={"learning_rate"})
        others = [trial.choice for trial in self.tried]
        rates = {x.learning_rate for x in others if x.model_dump(exclude={"learning_rate"}) == same}
        rate = rate_beyond(rates, choice.learning_rate)
        return None if rate is None else choice.model_copy(update={"learning_rate": rate})

    def _past_the_winner(self, scores: Scores) -> list[Trial]:
        """Trials of the rate beyond the winner's, with the winner's seeds; empty if it is not at an edge."""
        winner = self.best(scores)[0]
        outward = self.beyond(winner)
        if outward is None or self.mean(winner, scores) == DIVERGED:
            return []
        return [self._trial(outward, trial.seed) for trial in self._alike(winner)]

    def _trial(self, choice: Choice, seed: int = 0) -> Trial:
        return Trial(self.method, self.task, choice, seed)

    def _alike(self, choice: Choice) -> list[Trial]:
        return [trial for trial in self.tried if trial.choice == choice]

    def _beyond(self, scores: Scores) -> list[Trial]:
        """The rates beyond the best settings."""
        outward = [self.beyond(choice) for choice in self.best(scores)]
        trials = [self._trial(choice) for choice in outward if choice is not None]
        return list({trial.label: trial for trial in trials}.values())


def rate_beyond(rates: Collection[float], best: float) -> float | None:
    """The next rate beyond the best one: on the grid of half powers of ten if all rates are on it, else with
    the ratio of the last two rates, rounded to two digits, so that it is readable and the same on every
    machine. None if the best rate is not at an edge, or if there is only one rate off the grid.
    """
    ordered = sorted(rates)
    if best not in (ordered[0], ordered[-1]):
        return None
    is_up = best == ordered[-1]
    if set(ordered) <= set(RATES):
        place = RATES.index(best) + (1 if is_up else -1)
        return RATES[place] if 0 <= place < len(RATES) else None
    if len(ordered) < 2:
        return None
    return float(f"{best * best / ordered[-2 if is_up else 1]:.1e}")


# ---- races on a table's runs ----------------------------------------------------------------------------


class Tuner:
    """Runs the trials of races.

    Args:
        grid, plan: a table of one seed, whose runs are modified by the trials.
        execution: where and how trials are executed.
        examples: number of validation examples to score, unless the plan sets it; None for all.

    Attributes:
        cells: method and task -> the planned run.
        races: method and task -> race.
        scores: trial's key -> score in the task's selection column; :data:`DIVERGED` if the loss was not
            finite.
        lines: lines of the file of all trials.
    """

    def __init__(
        self,
        grid: Grid,
        plan: Plan,
        execution: Execution,
        examples: int | None = None,
    ):
        self.grid, self.execution, self.examples = grid, execution, examples
        self.cells: dict[Key, Cell] = {(c.method, c.task): c for c in plan.cells if c.recipe is not None}
        self.reduction = grid.own_settings.reduction
        self.races: dict[Key, Race] = {}
        self.scores: dict[tuple[str, str, int], float] = {}
        self.lines: list[dict[str, Any]] = []

    def cell(self, trial: Trial) -> Cell:
        """The run that scores a trial on validation data."""
        planned, choice = self.cells[trial.method, trial.task], trial.choice
        settings = planned.settings
        if "join" in choice.model_fields_set:
            chosen = Settings(reduction=self.reduction, methods={trial.method: {trial.task: choice}})
            settings = method_named(trial.method).settings(chosen, trial.task)
        named = None if planned.checkpoint else planned.model  # by the user, for all seeds
        assigned = None if named is not None else self.grid.model_of(trial.seed)
        changes = {
            "label": trial.label,
            "settings": settings,
            "seed": trial.seed,
            "recipe": planned.recipe.model_copy(update={"learning_rate": choice.learning_rate}),
            "model": named or assigned,
            "checkpoint": assigned is not None,
            "split": "validation",
            "eval_examples": planned.eval_examples or self.examples,
        }
        return planned.model_copy(update=changes)

    def finish(self, races: Sequence[Race]) -> None:
        """Run races in parallel until all are over."""
        seeds = min(max(race.limits.seeds for race in races), len(self.grid.pretrained))
        first = Trial(races[0].method, races[0].task, races[0].screened[0])
        assigned = [self.cell(replace(first, seed=seed)) for seed in range(seeds)]
        check_checkpoints([cell for cell in assigned if not has_scores(cell, self.execution.out)])
        self.races |= {(race.method, race.task): race for race in races}
        while todo := [trial for race in races for trial in race.next(self.scores)]:
            self.score(todo)

    def score(self, trials: Sequence[Trial]) -> None:
        """Run trials and record their scores; diverged runs get the lowest score."""
        cells = {self.cell(trial): trial for trial in trials}
        results = run_cells(list(cells), self.execution, may_diverge=True)
        for cell, trial in cells.items():
            result = results.get(cell)
            score = DIVERGED if result is None else result["scores"][TASKS[trial.task].selects]
            self.scores[trial.key] = score
            values = (trial.method, trial.task, trial.choice.join, json.dumps(trial.choice.arguments))
            about = dict(zip(FIRST, (*values, trial.choice.learning_rate, trial.seed))) | {"score": score}
            self.lines.append({**about, **({} if result is None else result["scores"])})

    def chosen(self) -> Settings:
        """The winners. A task that was not tried itself has those of a task that it is like (or both are like
        the same task). Fields that trials did not set are those of the runs.
        """
        methods: dict[str, dict[str, Choice]] = {}
        for (method, task), race in self.races.items():
            winner, settings = race.best(self.scores)[0], self.cells[method, task].settings
            if "join" not in winner.model_fields_set and "gnn_args" in settings:
                given = {"join": settings["join"], "arguments": settings["gnn_args"]}
                winner = Choice(learning_rate=winner.learning_rate, **given)
            methods.setdefault(method, {})[task] = winner
        for of_task in methods.values():
            of_task |= {name: of_task[of_name] for name, of_name in alike(of_task).items()}
        return Settings(reduction=self.reduction, methods=methods)

    def report(self) -> str:
        """A Markdown table: for each method and task all settings and their mean scores."""
        lines = []
        for race in self.races.values():
            winner, tried = race.best(self.scores)[0], {trial.label: trial for trial in race.tried}
            texts = []
            for trial in sorted(tried.values(), key=lambda trial: trial.choice.learning_rate):
                mean, seeds = race.mean(trial.choice, self.scores), race.seeds(trial.choice)
                score = "diverged" if mean == DIVERGED else f"{100 * mean:.1f}"
                text = f"{trial.setting}: {score}" + (f" ({seeds} seeds)" if seeds > 1 else "")
                texts.append(f"{text} (chosen)" if trial.choice == winner else text)
            edge = " (the chosen rate is at an edge)" if race.beyond(winner) is not None else ""
            lines.append((method_named(race.method).title, race.task, ", ".join(texts) + edge))
        head = ["Method", "Task", "Setting: score × 100 on validation data"]
        shared = alike({task: None for _, task in self.races})
        about = "; ".join(f"{name} uses the settings of {leader}" for name, leader in shared.items())
        return markdown_grid(pd.DataFrame(lines, columns=head)) + (f"\n{about}.\n" if about else "")

    def save(self, stem: str) -> None:
        """Write all trials and the chosen settings, and print the files: ``<stem>.csv``, ``<stem>.md`` and
        :data:`SETTINGS`.
        """
        if not processes(self.execution.device).is_main_process:
            return
        out, report = self.execution.out, self.report()
        tried = pd.DataFrame(self.lines).sort_values(list(FIRST), kind="stable")
        with published(out) as part:
            write_settings(part / SETTINGS, self.chosen())
            write_text(part / f"{stem}.csv", tried.to_csv(index=False))
            write_text(part / f"{stem}.md", report)
        print(report)
        note(f"saved: {out}/{SETTINGS}, {stem}.csv, {stem}.md; to use them: attngraph table ... --settings")


def alike(tried: Mapping[str, Any]) -> dict[str, str]:
    """Tasks that were not tried -> the task whose settings they use."""
    leaders = {TASKS[name].like: name for name in reversed(list(tried)) if TASKS[name].like is not None}
    return {
        name: leaders[task.like] for name, task in TASKS.items() if name not in tried and task.like in leaders
    }


def check_tuned(out: Path, stem: str, tried: Collection[Key]) -> None:
    """Raise UserError if a folder contains foreign files with the names of :meth:`Tuner.save`, or settings of
    methods or tasks that are not tried now, which would be lost.
    """
    files = [out / f"{stem}.csv", out / SETTINGS, out / f"{stem}.md"]
    found = [file for file in files if file.exists()]
    if not found:
        return
    remedy = "move it away, or use another --out"
    text = read_text(files[0], remedy) if found == files else ""
    if not text.startswith(",".join(FIRST)):
        raise UserError(f"{found[0]} already exists and was not written by {stem}: {remedy}")
    earlier = dict.fromkeys((line["method"], line["task"]) for line in csv.DictReader(text.splitlines()))
    if lost := [f"{method} on {task}" for method, task in earlier if (method, task) not in tried]:
        others = f" and {len(lost) - 1} others" * (len(lost) > 1)
        raise UserError(
            f"{out / SETTINGS} has settings of {lost[0]}{others}, which this {stem} would drop: use another "
            "--out, or add their rows and tasks if they belong to this table (finished runs are kept)"
        )


def sweep(tuner: Tuner) -> None:
    """Try the grid's rates for each row, and at most :data:`FURTHER` beyond them."""
    races = []
    for method, task in tuner.cells:
        begun = [Choice(learning_rate=rate) for rate in tuner.grid.rates_of(method_named(method))]
        races.append(Race(method, task, begun, RaceLimits(len(begun) + FURTHER)))
    tuner.finish(races)


def search_grid(tuner: Tuner) -> None:
    """Try each of the grid's rates for a row with all of the row's seeds; the best mean wins.

    If the best rate of any row is at an edge, the next rate beyond that edge is tried with every row on that
    task, once for each edge, so that rows with the same initial rates have the same final rates.
    """
    rates = {key: tuner.grid.rates_of(method_named(key[0])) for key in tuner.cells}
    tuner.races = {key: Race(*key, [], RaceLimits(0)) for key in rates}
    counts = tuner.grid.counts

    def run(tried: Mapping[Key, Sequence[float]]) -> None:
        trials = []
        for key, race in tuner.races.items():
            choices = [Choice(learning_rate=rate) for rate in tried[key]]
            new = [Trial(*key, choice, seed) for choice in choices for seed in range(counts[key[0]])]
            race.tried += new
            trials += new
        check_checkpoints(
            [cell for cell in map(tuner.cell, trials) if not has_scores(cell, tuner.execution.out)]
        )
        tuner.score(trials)

    run(rates)
    best = {key: race.best(tuner.scores)[0].learning_rate for key, race in tuner.races.items()}
    edges = {
        (key[1], place) for key, tried in rates.items() for place in (0, -1) if best[key] == tried[place]
    }
    beyond = {
        key: [
            rate
            for place in (0, -1)
            if (key[1], place) in edges and (rate := rate_beyond(tried, tried[place])) is not None
        ]
        for key, tried in rates.items()
    }
    if any(beyond.values()):
        run(beyond)


def search(tuner: Tuner) -> None:
    """Search rates, joins and arguments of every row with initial rates; rows that follow another one are
    searched after it.
    """
    searched = {key: method for key in tuner.cells if (method := method_named(key[0])).rates}
    for follows in (False, True):
        races = [
            _race_of(tuner, method, task)
            for (_, task), method in searched.items()
            if (method.follows is not None) == follows
        ]
        if races:
            tuner.finish(races)


def _race_of(tuner: Tuner, method: Method, task: str) -> Race:
    """The race of a method on a task in a search."""
    if isinstance(method, GraphAdapter) and method.tried:
        screened = [
            Choice(learning_rate=rate, join=join, arguments=dict(arguments))
            for join in method.joins
            for arguments in method.tried
            for rate in method.rates
        ]
        return Race(method.name, task, screened, JOINT)
    leader = tuner.races.get((method.leader, task))
    like: dict[str, Any] = {}
    if leader is not None:
        join = method.join if isinstance(method, GraphAdapter) else None
        best = [*leader.best(tuner.scores, join), *leader.best(tuner.scores)]
        like = best[0].model_dump(exclude={"learning_rate"})
    seeds = tuner.grid.counts
    is_second = method.follows is not None and seeds.get(method.name, 0) < max(seeds.values())
    screened = [Choice(learning_rate=rate, **like) for rate in method.rates]
    return Race(method.name, task, screened, SECOND if is_second else OTHERS)
