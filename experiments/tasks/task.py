"""What a task is: examples, a prompt as the decoder's prefix, a target to train on, and scores of generated texts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.datasets.example import Example

TASKS: dict[str, Task] = {}


@dataclass(frozen=True)
class TaskScores:
    """Scores of one run.

    Args:
        columns: column of the table -> score, 0 to 1 (CIDEr raw).
        statistics: column -> per-example statistics ``(N, K)`` whose sums give the score (see
            ``experiments.report.significance``).
        kinds: question type -> (score, number of examples).
    """

    columns: dict[str, float]
    statistics: dict[str, np.ndarray]
    kinds: dict[str, tuple[float, int]]


class Task(ABC):
    """One task.

    Attributes:
        name: short name, as in ``--tasks``.
        title: as printed.
        max_new_tokens, num_beams: how answers are generated.
    """

    name: str
    title: str
    max_new_tokens: int = 4
    num_beams: int = 1

    @abstractmethod
    def examples(self, data: Path, split: str) -> list[Example]:
        """All examples of a split: ``train``, ``validation`` or ``test``.

        Args:
            data: folder written by ``experiments.scenes.write.write_scenes``.
        """

    def prompt(self, example: Example) -> str:
        """The text before the answer."""
        return example.prompt

    def target(self, example: Example, draw: float) -> str:
        """The answer to train on; ``draw`` in [0, 1) picks one where there are several."""
        return majority(example.references)

    @abstractmethod
    def score(self, predictions: Mapping[str, str], examples: Sequence[Example]) -> TaskScores:
        """Scores of one generated text per example id."""

    @property
    def selection(self) -> str:
        """The column by which settings are chosen on validation data."""
        return self.name


def majority(answers: Sequence[str]) -> str:
    """The most frequent answer; the first of them on a tie."""
    return Counter(answers).most_common(1)[0][0]


def references(examples: Sequence[Example]) -> dict[str, tuple[str, ...]]:
    """Example id -> its references."""
    return {example.id: example.references for example in examples}


def accuracy_scores(column: str, scores: np.ndarray, examples: Sequence[Example]) -> TaskScores:
    """The scores of a task whose score is a mean over examples."""
    from experiments.metrics.alignment import scores_by_kind
    from experiments.report.significance import mean_statistics

    return TaskScores(
        {column: float(np.mean(scores))},
        {column: mean_statistics(scores)},
        scores_by_kind(scores, [example.kind for example in examples]),
    )


def add(task: Task) -> None:
    """Make a task known by its name."""
    TASKS[task.name] = task
