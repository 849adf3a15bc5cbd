"""How one method's settings are chosen on one task: see :mod:`experiments.tables.search`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from experiments.methods import METHODS, GraphAdapter
from experiments.methods.settings import Choice

RATES = tuple(float(f"{digit}e{power}") for power in range(-6, 1) for digit in (1, 3))  # half powers of ten
FURTHER = 2  # seeds for each finalist that extension leaves room for


@dataclass(frozen=True)
class Trial:
    """One setting of a method on one task with one seed.

    Args:
        method, task: their names.
        choice: the setting; None for methods without training.
        seed: of the run.
        times: the run's steps, in multiples of the preset's.
    """

    method: str
    task: str
    choice: Choice | None = None
    seed: int = 0
    times: int = 1

    @property
    def label(self) -> str:
        """Names the trial's folder."""
        if self.choice is None:
            return self.method
        arguments = [f"{name}{value}" for name, value in self.choice.arguments.items()]
        join = [self.choice.join] if isinstance(METHODS[self.method], GraphAdapter) else []
        steps = [f"steps{self.times}x"] if self.times > 1 else []
        return "-".join([self.method, *join, f"{self.choice.learning_rate:g}", *arguments, *steps])

    @property
    def key(self) -> tuple[str, str, int]:
        """Tells trials apart."""
        return self.label, self.task, self.seed


Scores = Mapping[tuple[str, str, int], float]


class Race:
    """Finds a method's best setting on a task.

    Args:
        method, task: their names.
        screened: the settings to begin with.
        trials: how many there are to spend. Beyond them only a winner whose rate lies at an edge goes on.
        finalists: how many settings get further seeds.
        most_seeds: how many seeds a finalist has at most.

    Attributes:
        tried: the trials so far.
    """

    def __init__(
        self, method: str, task: str, screened: Sequence[Choice], trials: int, finalists: int, most_seeds: int
    ):
        self.method, self.task, self.screened = method, task, screened
        self.trials, self.finalists, self.most_seeds = trials, finalists, most_seeds
        self.tried: list[Trial] = []
        self._final: list[Choice] = []

    def next(self, scores: Scores) -> list[Trial]:
        """The trials of the next round; none when the race is over.

        Args:
            scores: of all trials of the rounds before.
        """
        if not self.tried:
            found = [self._trial(choice) for choice in self.screened]
        else:
            left = self.trials - len(self.tried)
            found = [] if self._final else self._beyond(scores)[: max(0, left - FURTHER * self.finalists)]
            seed = 1 + max(trial.seed for trial in self.tried)
            if not found and left >= self.finalists and seed < self.most_seeds:
                self._final = self._final or self.best(scores)
                found = [self._trial(choice, seed) for choice in self._final]
            found = found or self._past_the_winner(scores)
        self.tried += found
        return found

    def best(self, scores: Scores, join: str | None = None) -> list[Choice]:
        """The best settings, those with most seeds first, then by their mean score; only those with a join,
        where one is named.
        """
        tried = {trial.label: trial.choice for trial in self.tried if trial.choice is not None}
        found = [choice for choice in tried.values() if join in (None, choice.join)]
        ranked = sorted(found, key=lambda choice: (-self.seeds(choice), -self.mean(choice, scores)))
        return ranked[: self.finalists]

    def seeds(self, choice: Choice) -> int:
        """How many seeds a setting ran with."""
        return len(self._alike(choice))

    def mean(self, choice: Choice, scores: Scores) -> float:
        """A setting's mean score over the seeds that it ran with."""
        return sum(scores[trial.key] for trial in self._alike(choice)) / self.seeds(choice)

    def beyond(self, choice: Choice) -> Choice | None:
        """The setting with the next rate, where the setting's own is the smallest or the largest that its
        join and arguments were tried with; None where it lies inside.
        """
        same = choice.model_dump(exclude={"learning_rate"})
        rates = [
            trial.choice.learning_rate
            for trial in self.tried
            if trial.choice and trial.choice.model_dump(exclude={"learning_rate"}) == same
        ]
        place = RATES.index(choice.learning_rate)
        for edge, next_place in ((max(rates), place + 1), (min(rates), place - 1)):
            if choice.learning_rate == edge and 0 <= next_place < len(RATES):
                return choice.model_copy(update={"learning_rate": RATES[next_place]})
        return None

    def _past_the_winner(self, scores: Scores) -> list[Trial]:
        """The rate beyond the winner's, with the winner's seeds; none where it lies inside."""
        winner = self.best(scores)[0]
        outward = self.beyond(winner)
        if outward is None or self.mean(winner, scores) == -math.inf:
            return []
        return [self._trial(outward, trial.seed) for trial in self._alike(winner)]

    def _trial(self, choice: Choice, seed: int = 0) -> Trial:
        return Trial(self.method, self.task, choice, seed)

    def _alike(self, choice: Choice) -> list[Trial]:
        return [trial for trial in self.tried if trial.choice == choice]

    def _beyond(self, scores: Scores) -> list[Trial]:
        """The rates beyond the best settings."""
        found = {}
        for choice in self.best(scores):
            outward = self.beyond(choice)
            if outward is not None:
                trial = self._trial(outward)
                found[trial.label] = trial
        return list(found.values())
