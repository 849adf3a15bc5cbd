"""What a file of predictions scores."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm, t

from attngraph.experiments.data.example import Example
from attngraph.experiments.metrics.captions import bleu4_from_counts
from attngraph.experiments.metrics.statistics import mean_score, mean_statistics
from attngraph.experiments.tables.scored import bootstrap_interval, score_predictions
from attngraph.experiments.tasks import TASKS, Column, Task, TaskScores

EXAMPLES = [
    Example(str(k), Path(f"{k // 2}.png"), "?", ("yes",) * 10, "color" if k % 3 else "count")
    for k in range(12)
]
SAID = {example.id: "yes" if int(example.id) % 4 else "no" for example in EXAMPLES}
RIGHT = [float(k % 4 != 0) for k in range(12)]


def test_columns_and_kinds_have_intervals_over_images():
    """Text, JSON and table say the same."""
    scored = score_predictions(TASKS["vqa"], EXAMPLES, SAID)
    (column, *kinds) = scored.lines
    images = [example.image for example in EXAMPLES]
    assert (scored.examples, scored.images, scored.evaluator) == (12, 6, "VQA v2's evaluator (March 2021)")
    assert (column.column, column.kind, column.score, column.number) == ("vqa.accuracy", None, 0.75, 12)
    whole = bootstrap_interval(mean_statistics(RIGHT), images, mean_score, bounds=(0, 1))
    assert (column.low, column.high) == whole
    assert [(line.kind, line.number) for line in kinds] == [("color", 8), ("count", 4)]
    own = [k for k in range(12) if k % 3]
    expected = bootstrap_interval(
        mean_statistics([RIGHT[k] for k in own]), [images[k] for k in own], mean_score, bounds=(0, 1)
    )
    assert (kinds[0].low, kinds[0].high) == expected
    text, content, frame = scored.text(), json.loads(json.dumps(scored.json())), scored.frame()
    assert text.count("75.00") == 3 and "12 examples, 6 images" in text and "VQA v2's evaluator" in text
    assert [line["score"] for line in content["lines"]] == list(frame["score"]) == [0.75] * 3
    assert content["interval"] == {"level": 0.95, "resamples": 1000, "over": "images"}
    assert f"{100 * column.low:.2f} to {100 * column.high:.2f}" in text


class Ranked(Task):
    """A task with a column that is no function of sums, and kinds that are not of examples."""

    name, title = "ranked", "Ranked"
    columns = (Column("ranked.f1", "F1"), Column("ranked.precision", "AP"))

    def examples(self, data, split):
        return EXAMPLES

    def score(self, predictions, examples):
        columns = {"ranked.f1": 0.75, "ranked.precision": 0.4}
        statistics = {"ranked.f1": mean_statistics(RIGHT)}
        return TaskScores(columns, statistics, {"objects": (0.3, 40), "none": (0.0, 0)})


def test_what_has_no_statistics_has_no_interval():
    scored = score_predictions(Ranked(), EXAMPLES, SAID)
    f1, precision, *kinds = scored.lines
    assert f1.low < 0.75 < f1.high and (precision.low, precision.high) == (None, None)
    assert [(line.column, line.low) for line in kinds] == [(None, None)] * 2
    assert scored.frame()["low"].notna().sum() == 1 and "–" in scored.text()


def test_intervals_of_few_images_are_scores_that_there_can_be():
    """CIDEr ends at 10, all others at 1."""
    few = EXAMPLES[:4]  # two pictures
    accuracy = score_predictions(TASKS["vqa"], few, {"0": "no", "1": "no", "2": "yes", "3": "yes"}).lines[0]
    assert (accuracy.score, accuracy.low, accuracy.high) == (0.5, 0, 1)
    for column in (column for task in TASKS.values() for column in task.columns):
        assert column.most == (10 if column.key.endswith(".cider") else 1)


# ---- intervals over images ----------------------------------------------------------------------------


def test_a_resample_is_a_score_of_drawn_images():
    """Against a loop that draws whole images and scores them again."""
    rng = np.random.default_rng(1)
    counts = rng.integers(1, 9, size=(12, 10)).astype(float)
    counts[:, 4:8] = counts[:, :4] + rng.integers(0, 4, size=(12, 4))
    images = [k // 3 for k in range(12)]
    low, high = bootstrap_interval(counts, images, bleu4_from_counts, resamples=4000, level=0.8)
    drawn = []
    for _ in range(4000):
        rows = [3 * image + k for image in rng.integers(4, size=4) for k in range(3)]
        drawn.append(float(bleu4_from_counts(counts[rows].sum(0))))
    factor = math.sqrt(4 / 3) * t.ppf(0.9, 3) / norm.ppf(0.9)
    centre = float(bleu4_from_counts(counts.sum(0)))
    expected = [centre + factor * (end - centre) for end in np.quantile(drawn, [0.1, 0.9])]
    assert [low, high] == pytest.approx(expected, abs=0.05 * (high - low))


def test_the_seed_decides_and_one_image_says_nothing():
    statistics = mean_statistics(np.arange(20) / 20)
    first = bootstrap_interval(statistics, range(20), mean_score, 3)
    assert first == bootstrap_interval(statistics, range(20), mean_score, 3)
    assert first != bootstrap_interval(statistics, range(20), mean_score, 4)
    assert bootstrap_interval(statistics, ["a"] * 20, mean_score) == (None, None)
    assert bootstrap_interval(mean_statistics(np.ones(9)), range(9), mean_score) == (1, 1)
