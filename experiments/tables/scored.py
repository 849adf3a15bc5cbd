"""Scores of a file of predictions: columns and kinds with intervals, as text, as JSON and as a table."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import norm, t

from attngraph.experiments.data.example import Example
from attngraph.experiments.metrics.statistics import Score, per_image
from attngraph.experiments.tables.render import MISSING, aligned
from attngraph.experiments.tasks.task import Column, Task, TaskScores, kinds_of

if TYPE_CHECKING:
    import pandas as pd

RESAMPLES, LEVEL = 1000, 0.95


@dataclass(frozen=True)
class ScoreLine:
    """A score.

    Args:
        column: key of the task's column, such as ``vqa.accuracy``; None for scores without a column.
        heading: heading of the column in tables.
        kind: kind of example, or kind of fact in captions; None for all examples.
        score: 0 to 1 (CIDEr raw).
        low, high: ends of the interval; None if it is unknown.
        number: number of examples, or of facts stated by captions.
    """

    column: str | None
    heading: str
    kind: str | None
    score: float
    low: float | None
    high: float | None
    number: int


@dataclass(frozen=True)
class Scored:
    """The scores of one file of predictions.

    Args:
        task: name of the task.
        title: title of the task.
        evaluator: description of the evaluation rules.
        examples, images: numbers of scored examples and images.
        lines: scores of columns, then those of kinds.
    """

    task: str
    title: str
    evaluator: str
    examples: int
    images: int
    lines: tuple[ScoreLine, ...]

    def text(self) -> str:
        """Aligned text, scores times 100."""
        head = ("Column", "Score", f"{100 * LEVEL:.0f} % interval", "Examples", "")
        columns = [_cells(line) for line in self.lines if line.kind is None]
        kinds = [_cells(line) for line in self.lines if line.kind is not None]
        lines = [head, *columns, ("",) * len(head), ("Kind", *head[1:3], "Number", ""), *kinds]
        return (
            f"{self.title}: {self.examples} examples, {self.images} images\n\n{aligned(lines)}\n\n"
            f"Evaluator: {self.evaluator}. Scores × 100; intervals over new images.\n"
        )

    def frame(self) -> pd.DataFrame:
        """One line for each score; ``kind`` is empty for all examples."""
        import pandas as pd

        return pd.DataFrame(list(self.lines))

    def json(self) -> dict[str, Any]:
        """All scores, as JSON values."""
        return {**asdict(self), "interval": {"level": LEVEL, "resamples": RESAMPLES, "over": "images"}}


def score_predictions(
    task: Task,
    examples: Sequence[Example],
    predictions: Mapping[str, Any],
    scores: TaskScores | None = None,
) -> Scored:
    """Score predictions with a task's metric.

    Args:
        task: the task.
        examples: all examples of a split.
        predictions: one for each example id.
        scores: result of the metric, if it has been computed already.
    """
    scores = scores or task.score(predictions, examples)
    images = [example.image for example in examples]
    kinds = [kinds_of(example) for example in examples]

    def line(column: Column, kind: str | None, score: float, chosen: Sequence[int]) -> ScoreLine:
        low = high = None
        if column.key in scores.statistics:
            statistics, of = scores.statistics[column.key][chosen], [images[k] for k in chosen]
            low, high = bootstrap_interval(statistics, of, column.score, bounds=(0.0, column.most))
        return ScoreLine(column.key, column.heading, kind, score, low, high, len(chosen))

    columns = {column.key: column for column in task.columns if column.key in scores.columns}
    lines = [line(column, None, scores.columns[key], range(len(examples))) for key, column in columns.items()]
    for kind, (value, number) in scores.kinds.items():
        chosen = [k for k, of_example in enumerate(kinds) if kind in of_example]
        if len(chosen) == number > 0:
            lines.append(line(columns[task.selects], kind, value, chosen))
        else:  # what captions say of scenes, say
            lines.append(ScoreLine(None, "", kind, value, None, None, number))
    return Scored(task.name, task.title, scores.evaluator, len(examples), len(set(images)), tuple(lines))


def _cells(line: ScoreLine) -> tuple[str, ...]:
    interval = MISSING if line.low is None else f"{100 * line.low:.2f} to {100 * line.high:.2f}"
    name, heading = (line.column, line.heading) if line.kind is None else (line.kind, "")
    return str(name), f"{100 * line.score:.2f}", interval, str(line.number), heading


def bootstrap_interval(
    statistics: np.ndarray,
    images: Sequence[Hashable],
    score: Score,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> tuple[float, float] | tuple[None, None]:
    r"""The ends of a score's interval over new images.

    Images are resampled, not examples (:func:`attngraph.experiments.metrics.statistics.per_image`).
    Percentiles of resampled scores use the sample's spread instead of the true one, so with n images they are
    moved away from the score by the factor :math:`\sqrt{n/(n-1)}\; t_{n-1} / z`, Student's quantile of the
    level over the normal one (Hesterberg 2015).

    Args:
        statistics: ``(N, K)``, from whose sums the score is computed.
        images: the image of each example.
        score: maps sums ``(..., K)`` to scores ``(...)``.
        seed: seed of the resampling.
        resamples: number of resamples.
        level: coverage.
        bounds: minimum and maximum of the score, to which the moved ends are clipped, since they may be
            outside for few images.

    Returns:
        Low and high; both None with fewer than two images.
    """
    sums = per_image(statistics, images)
    n = len(sums)
    if n < 2:
        return None, None
    rng, totals, block = np.random.default_rng(seed), [], max(1, 4_000_000 // n)  # bounds memory
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        picks = rng.integers(n, size=(rows, n)) + n * np.arange(rows)[:, None]
        weights = np.bincount(picks.ravel(), minlength=rows * n).reshape(rows, n)
        totals.append(weights.astype(np.float64) @ sums)
    upper = (1 + level) / 2
    ends = np.quantile(score(np.concatenate(totals)), [1 - upper, upper])
    centre = float(score(statistics.sum(axis=0)))
    widening = math.sqrt(n / (n - 1)) * t.ppf(upper, n - 1) / norm.ppf(upper)
    low, high = (float(np.clip(centre + widening * (end - centre), *bounds)) for end in ends)
    return low, high
