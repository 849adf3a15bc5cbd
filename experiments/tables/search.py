"""The search for learning rates, joins and the schemes' arguments on validation data: for each row of
a preset on each task, with the same number of trials for every GNN.

A method's settings on a task are chosen by a :class:`~experiments.tables.race.Race`:

1. *screening*: every setting of its space with seed 0. For a GNN that is each join × arguments × learning
   rate, together; for all other methods the learning rates;
2. *extension*: while one of the best settings has the smallest or the largest rate that its join and
   arguments were tried with, the next rate beyond it is tried;
3. *finalists*: the best settings of all get one further seed after the other until the trials are spent; the
   best mean wins. A GNN with fewer settings to screen spends more on seeds;
4. *the winner's edge*: while the winner's rate lies at an edge, the next one runs with the winner's seeds.

Seeds are dealt over the pre-trained checkpoints, so finalists are judged on several. Rows of attribution with
fewer seeds in the table than the others are judged on one. The methods that follow
another one are searched after it, with what was chosen for it; those that join the model in a way of their
own, with the arguments that were best with that way. In the end the winner of every GNN runs with the steps
and with twice the steps on two seeds that chose nothing, which tells whether the steps are enough. Test data
are never touched.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeGuard

import pandas as pd

from attngraph.errors import UserError
from experiments.base.files import whole
from experiments.base.outputs import is_pretrained
from experiments.base.shipped import shipped_folder
from experiments.methods import METHODS, GraphAdapter, Method, method_named
from experiments.methods.settings import Choice, Settings
from experiments.models.weights import weights_digest
from experiments.runs.cells import Cell, has_scores
from experiments.runs.execution import Execution
from experiments.runs.runner import run_cells
from experiments.runs.saved import read_config
from experiments.tables.checkpoints import check_checkpoints
from experiments.tables.grid import Grid
from experiments.tables.plan import Wanted, cell_of, experiment_in, model_of, tasks_of
from experiments.tables.race import RATES, Race, Trial
from experiments.tasks import TASKS

VALIDATION_EXAMPLES = 1000
NEW_SEEDS = 2  # on which a GNN's winner runs with twice the steps
KIND = "kind "  # begins the columns of trials.csv that hold scores per question type
JOINT = (24, 3, 24)  # trials, finalists and most seeds of a GNN: all trials are spent
OTHERS = (10, 2, 3)  # of a method that is searched for learning rates alone
SECOND = (6, 1, 1)  # of such a row of attribution that has fewer seeds in the table: one seed each
SAVE_EVERY = 8  # trials
FROZEN, MAJORITY = "frozen", "majority"


class Search:
    """The races; a second call continues where an interrupted one stopped.

    Args:
        grid: budgets, data, checkpoints, and the rows that are searched.
        wanted: model, checkpoints, tasks and data that the user names.
        data: folder of the data sets.
        execution: where and how trials run.

    Attributes:
        tasks: that are searched.
        reduction: width of the model / width of the bottleneck, of all trials.
        scores: trial's key -> score in its task's selecting column; -inf where the run diverged.
        lines: trial's key -> its line in ``trials.csv``.
        races: (method, task) -> race.
    """

    def __init__(self, grid: Grid, wanted: Wanted, data: Path, execution: Execution):
        self.grid, self.wanted, self.data, self.execution = grid, wanted, data, execution
        self.tasks = tasks_of(grid, wanted.tasks, wanted.data)
        self.reduction = grid.chosen.reduction
        self.scores: dict[tuple[str, str, int], float] = {}
        self.lines: dict[tuple[str, str, int], dict[str, Any]] = {}
        self.races: dict[tuple[str, str], Race] = {}
        self._weights: dict[tuple[str, str, int], str] = {}  # of method, task and seed
        self._counted: dict[str, int] = {}
        self._file = execution.out / "trials.csv"

    def about(self) -> dict[str, Any]:
        """What decides the trials' scores, but for the precision, which stands in trials.csv."""
        grid, wanted = self.grid, self.wanted
        runs = {name: grid.part(task) for name, task in self.tasks.items()}
        for part in runs.values():
            part.get("recipe", {}).pop("precision", None)
        if wanted.data is None:
            data: Any = grid.scenes.model_dump(mode="json")
        else:
            data = {name: task.content(self.data, "validation") for name, task in self.tasks.items()}
        return {
            "runs": runs,
            "answering": wanted.answering,
            "data": data,
            "reduction": self.reduction,
            "weights": weights_digest(wanted.model),
            **self.execution.conditions(),
        }

    def cell(self, trial: Trial) -> Cell:
        """The run that scores a trial on validation data."""
        chosen = Settings(reduction=self.reduction)
        if trial.choice is not None:
            chosen = Settings(reduction=self.reduction, methods={trial.method: {trial.task: trial.choice}})
        experiment = experiment_in(
            self.grid, self.wanted, self.data, TASKS[trial.task], trial.method, trial.seed
        )
        held = experiment.model_copy(update={"split": "validation", "eval_examples": VALIDATION_EXAMPLES})
        cell = cell_of(held, self.data, chosen, counted=self._counted)
        recipe = cell.recipe
        if recipe is not None and trial.choice is not None:
            steps = trial.times * recipe.steps
            recipe = replace(recipe, learning_rate=trial.choice.learning_rate, steps=steps)
        is_dealt = self.wanted.model is None and cell.model is not None
        return replace(cell, label=trial.label, recipe=recipe, checkpoint=is_dealt)

    def run(self) -> Settings:
        """All races; returns the settings that they choose.

        Raises:
            UserError: a method's rates are none of :data:`RATES`, or ``trials.csv`` is damaged.
        """
        for method in METHODS.values():
            if off := set(method.rates) - set(RATES):
                raise UserError(
                    f"method {method.name} begins with the rate {min(off):g}: give half powers of ten from "
                    f"{RATES[0]:g} to {RATES[-1]:g}, such as 0.001 and 0.003"
                )
        self._read()
        self.score([Trial(name, task) for name in (FROZEN, MAJORITY) for task in self.tasks])
        rows = self.grid.counts
        searched = {name: method for name, method in METHODS.items() if method.rates and name in rows}
        chosen = Settings(reduction=self.reduction)
        for follows in (False, True):
            methods = [method for method in searched.values() if (method.follows is not None) == follows]
            chosen = self._race([(method, task) for method in methods for task in self.tasks], chosen)
        once = self.repeated()
        self.score([*once, *(replace(trial, times=2) for trial in once)])
        return chosen

    def repeated(self) -> list[Trial]:
        """The trials that tell whether the steps are enough: every GNN's winners with new seeds, which run
        with twice the steps too. Scores that chose a winner are too high, those of new seeds are not.
        """
        return [
            Trial(method, task, race.best(self.scores)[0], seed)
            for (method, task), race in self.races.items()
            if is_joint(method_named(method))
            for seed in self._new_seeds(race)
        ]

    def _new_seeds(self, race: Race) -> range:
        """Seeds that took no part in a race, the first of them on the shipped checkpoint."""
        checkpoints = self.grid.checkpoints
        rounds = 1 + max(trial.seed for trial in race.tried) // checkpoints
        return range(rounds * checkpoints, rounds * checkpoints + NEW_SEEDS)

    def _race(self, entries: Sequence[tuple[Method, str]], chosen: Settings) -> Settings:
        """Races side by side; returns the settings with their winners."""
        races = {(method.name, task): self._race_of(method, task, chosen) for method, task in entries}
        self.races.update(races)
        while todo := [trial for race in races.values() for trial in race.next(self.scores)]:
            self.score(todo)
        methods = dict(chosen.methods)
        for (method, task), race in races.items():
            methods[method] = {**methods.get(method, {}), task: race.best(self.scores)[0]}
        return chosen.model_copy(update={"methods": methods})

    def _race_of(self, method: Method, task: str, chosen: Settings) -> Race:
        """The race of a method on a task."""
        if is_joint(method):
            screened = [
                Choice(learning_rate=rate, join=join, arguments=dict(arguments))
                for join in method.joins
                for arguments in method.tried
                for rate in method.rates
            ]
            return Race(method.name, task, screened, *JOINT)
        start = self._start(method, task) or method.choice(chosen, task)
        like = {} if start is None else start.model_dump(exclude={"learning_rate"})
        seeds = self.grid.counts
        is_second = method.follows is not None and seeds.get(method.name, 0) < max(seeds.values())
        screened = [Choice(learning_rate=rate, **like) for rate in method.rates]
        return Race(method.name, task, screened, *(SECOND if is_second else OTHERS))

    def _start(self, method: Method, task: str) -> Choice | None:
        """For a row that joins the model in a way of its own, the best setting with that way of the GNN that
        it follows; None for other rows.
        """
        race = self.races.get((method.leader, task))
        if race is None or not isinstance(method, GraphAdapter) or method.join is None:
            return None
        return next(iter(race.best(self.scores, method.join)), None)

    def score(self, trials: Sequence[Trial]) -> None:
        """Run the trials that have not run yet and note their scores."""
        todo = [trial for trial in trials if trial.key not in self.scores]
        for start in range(0, len(todo), SAVE_EVERY):
            cells = {self.cell(trial): trial for trial in todo[start : start + SAVE_EVERY]}
            check_checkpoints([cell for cell in cells if not has_scores(cell, self.execution.out)])
            self._check_weights(list(cells.values()))
            results = run_cells(list(cells), self.execution, may_diverge=True)
            for cell, trial in cells.items():
                self._note(cell, trial, results.get(cell))
            with whole(self._file) as part:
                pd.DataFrame(list(self.lines.values())).to_csv(part, index=False)

    def _note(self, cell: Cell, trial: Trial, result: Mapping[str, Any] | None) -> None:
        """A trial's score, and what the run says of itself; a run that diverged is worth nothing."""
        config = read_config(cell.folder(self.execution.out))
        about = {"weights": config["settings"]["weights"], "precision": config.get("precision", "")}
        self._check_one_checkpoint(about["weights"], trial.method, trial.task, trial.seed)
        line = {**_line(trial, result), **about}
        self.lines[trial.key] = line
        self.scores[trial.key] = -math.inf if result is None else line["selection"]

    def _read(self) -> None:
        """Take in the trials of ``trials.csv``, which need not run again.

        Raises:
            UserError: the file is damaged.
        """
        if not self._file.exists():
            return
        try:
            frame = pd.read_csv(self._file, keep_default_na=False)
            if missing := {"trial", "method", "task", "seed", "selection", "weights"} - set(frame.columns):
                raise KeyError(*sorted(missing))
            for line in frame.to_dict("records"):
                key = (str(line["trial"]), str(line["task"]), int(line["seed"]))
                self._check_one_checkpoint(str(line["weights"]), str(line["method"]), *key[1:])
                self.scores[key] = float(line["selection"]) if line["selection"] != "" else -math.inf
                self.lines[key] = line
        except (KeyError, ValueError, OSError) as error:
            raise UserError(
                f"{self._file} cannot be read ({type(error).__name__}: {error}): restore it, or give another "
                "--out"
            ) from None

    def _check_weights(self, trials: Sequence[Trial]) -> None:
        """Compare the checkpoints that trials will start from, before they run."""
        for trial in trials:
            model = model_of(self.grid, self.wanted, trial.seed)
            if is_pretrained(shipped_folder(model) or Path(str(model))):
                self._check_one_checkpoint(weights_digest(model), trial.method, trial.task, trial.seed)

    def _check_one_checkpoint(self, weights: str, method: str, task: str, seed: int) -> None:
        """Settings are compared on one checkpoint: a race has one under each seed. Other races may have
        another one there, such as where it was lost and made again when they were over.

        Raises:
            UserError: another trial of the race started from other weights under this seed.
        """
        if self._weights.setdefault((method, task, seed), weights) != weights:
            raise UserError(
                f"{self._file}: trials of {method} on {task} with seed {seed} would start from two "
                "checkpoints and be compared: restore the one that they began with, or take their lines with "
                "this seed away (and their folders under cells), or give another --out"
            )


def is_joint(method: Method) -> TypeGuard[GraphAdapter]:
    """Whether joins and arguments of a method are searched too."""
    return isinstance(method, GraphAdapter) and bool(method.tried)


def _line(trial: Trial, result: Mapping[str, Any] | None) -> dict[str, Any]:
    """A trial's line in ``trials.csv``; without scores where the run diverged."""
    choice = trial.choice
    line = {
        "trial": trial.label,
        "method": trial.method,
        "task": trial.task,
        "seed": trial.seed,
        "join": choice.join if choice and isinstance(METHODS[trial.method], GraphAdapter) else "",
        "rate": choice.learning_rate if choice else "",
        "times": trial.times,
        "arguments": json.dumps(choice.arguments) if choice else "",
        "selection": "",
    }
    if result is None:
        return line
    return {
        **line,
        "selection": result["scores"][TASKS[trial.task].selects],
        **result["scores"],
        "loss": result["loss"],
        "seconds": result["train_seconds"],
        "parameters": result["parameters"],
        **{KIND + kind: score for kind, (score, _) in result["kinds"].items()},
    }
