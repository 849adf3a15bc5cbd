"""Paired comparisons over seeds and examples: known errors, calibration, power; those of a table's rows."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from attngraph.errors import UserError
from attngraph.experiments.metrics.captions import bleu4_from_counts
from attngraph.experiments.metrics.statistics import mean_score, mean_statistics
from attngraph.experiments.tables.compare import (
    compare_pairs,
    contenders,
    holm,
    image_covariance,
    p_text,
    paired_comparison,
    recompute,
)
from attngraph.experiments.tables.frame import scores_of
from attngraph.experiments.tasks.task import Column
from tests.experiments.tables.made import SmallTask, change, runs_on, save_run


def error(result, freedom) -> float:
    """The standard error behind an interval."""
    return (result.high - result.low) / 2 / stats.t.isf(0.025, freedom)


def test_the_jackknife_of_means_is_their_covariance_over_images():
    a, b = np.random.default_rng(0).normal(size=(2, 3, 50))
    covariance = image_covariance([mean_statistics(np.stack([a, b]))], mean_score)
    assert covariance == pytest.approx(np.cov(a - b) / 50)


def test_one_seed_is_the_standard_error_of_a_paired_mean():
    rng = np.random.default_rng(0)
    difference = rng.normal(0.1, 1.0, size=400)
    a = rng.normal(size=400)
    b = a - difference
    result = paired_comparison(mean_statistics(a[None]), mean_statistics(b[None]))
    assert result.difference == pytest.approx(difference.mean())
    expected = stats.ttest_1samp(difference, 0)
    assert error(result, 399) == pytest.approx(difference.std(ddof=1) / 20, rel=1e-6)
    assert result.p == pytest.approx(expected.pvalue, rel=1e-9)


def test_same_examples_every_seed_apart_is_the_t_test_over_seeds():
    shifts = np.array([0.1, 0.3, 0.25, -0.05, 0.2])
    b = np.random.default_rng(0).random((5, 50))
    result = paired_comparison(mean_statistics(b + shifts[:, None]), mean_statistics(b))
    expected = stats.ttest_1samp(shifts, 0)
    assert result.p == pytest.approx(expected.pvalue, rel=1e-3)
    assert (result.low, result.high) == pytest.approx(tuple(expected.confidence_interval()), abs=1e-4)


@pytest.mark.parametrize("margin", [0.05, 0.16, 0.3, 0.6])
@pytest.mark.parametrize("sign", [1, -1])
def test_equivalence_is_the_larger_of_two_one_sided_t_tests(margin, sign):
    shifts = sign * np.array([0.1, 0.3, 0.25, -0.05, 0.2])
    b = np.random.default_rng(0).random((5, 50))
    sides = mean_statistics(b + shifts[:, None]), mean_statistics(b)
    result = paired_comparison(*sides, checkpoints=range(5), margin=margin)
    above = stats.ttest_1samp(shifts, -margin, alternative="greater").pvalue
    below = stats.ttest_1samp(shifts, margin, alternative="less").pvalue
    assert result.equivalent_p == pytest.approx(max(above, below), rel=2e-3, abs=1e-6)
    assert result.new_equivalent_p == result.equivalent_p, "each seed has its own checkpoint"
    assert paired_comparison(*sides).equivalent_p is None


def test_what_a_comparison_speaks_for():
    rng = np.random.default_rng(0)
    a, b = (mean_statistics(rng.random((6, 40))) for _ in range(2))
    one = paired_comparison(a[:1], b[:1])
    assert (one.speaks_for, one.by_checkpoint, one.new_p) == ("images", [one.difference], None)
    same = paired_comparison(a, b)
    assert (same.speaks_for, same.new_p) == ("seeds and images", None)
    dealt = paired_comparison(a, b, checkpoints=[0, 1, 2, 0, 1, 2])
    per_seed = a[..., 0].mean(1) - b[..., 0].mean(1)
    assert dealt.by_checkpoint == pytest.approx((per_seed[:3] + per_seed[3:]) / 2)
    assert dealt.new_low < dealt.low < dealt.difference < dealt.high < dealt.new_high
    assert dealt.new_p > dealt.p


def bleu_counts(rng, seeds, examples, quality):
    """Counts ``(S, N, 10)`` of captions of 8 to 12 words, of which a share is right."""
    ngrams = rng.integers(8, 13, (seeds, examples, 1)) - np.arange(4)
    matches = rng.binomial(ngrams, quality)
    return np.concatenate([matches, ngrams, ngrams[..., :1], 0 * matches[..., :1] + 10], axis=-1).astype(
        float
    )


def test_corpus_bleu_and_an_average_of_columns():
    rng = np.random.default_rng(0)
    counts = [bleu_counts(rng, 3, 60, quality) for quality in (0.8, 0.5)]
    bleu = paired_comparison(*counts, bleu4_from_counts)
    good, bad = (bleu4_from_counts(side.sum(axis=1)) for side in counts)
    assert bleu.difference == pytest.approx(np.mean(good - bad))
    assert bleu.low > 0 and bleu.p < 0.05
    picks = rng.integers(60, size=(4000, 60))
    drawn = [bleu4_from_counts(side[0][picks].sum(axis=1)) for side in counts]
    one = paired_comparison(*(side[:1] for side in counts), bleu4_from_counts)
    assert error(one, 59) == pytest.approx(np.std(drawn[0] - drawn[1]), rel=0.1)

    accuracy = [mean_statistics(np.full((3, 25), value)) for value in (0.75, 0.25)]
    both = paired_comparison(
        [counts[0], accuracy[0]],
        [counts[1], accuracy[1]],
        lambda captions, vqa: (bleu4_from_counts(captions) + mean_score(vqa)) / 2,
    )
    assert both.difference == pytest.approx((bleu.difference + 0.5) / 2)
    assert both.high - both.low == pytest.approx((bleu.high - bleu.low) / 2, rel=0.1)
    assert both.images == 25


@pytest.mark.parametrize(
    "p_values, adjusted",
    [
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),
        ([0.01, 0.02, 0.03, 0.04], [0.04, 0.06, 0.06, 0.06]),
        ([], []),
    ],
)
def test_holm_by_hand(p_values, adjusted):
    assert holm(p_values) == pytest.approx(adjusted)


def test_no_p_value_is_printed_as_0():
    assert [p_text(p) for p in (0.0, 4e-5, 6e-5, 1.0)] == ["< 0.0001", "< 0.0001", "0.0001", "1.0000"]
    assert p_text(4e-4, 3) == "< 0.001"


def test_a_p_value_below_the_level_is_not_printed_as_the_level():
    assert [p_text(p, 3) for p in (0.04996, 0.05, 0.0501)] == ["0.04996", "0.050", "0.050"]


# ---- rows of a table --------------------------------------------------------------------------------------


def compared(runs, *pairs, columns=None, tasks=None):
    return compare_pairs(scores_of(runs, tasks), pairs or [("pgnn", "gcn")], columns)


def places(lines):
    return [(line["row"], line["column"]) for line in lines]


def test_columns_of_one_task_share_the_images(tmp_path):
    """The second column mirrors the first: the error of their mean is 0 only if both see the same images."""
    task = SmallTask("a", Column("a.x", "X", averaged=True), Column("a.y", "Y", averaged=True))
    two = {name: SmallTask(name, Column(f"{name}.x", "X", averaged=True)) for name in ("b", "c")}
    runs = []
    for row, shift in (("gcn", 0.0), ("pgnn", 0.1)):
        scores = np.random.default_rng(len(row)).random(50)
        x, y = mean_statistics(scores), mean_statistics(1 - scores + 2 * shift)
        runs.append(save_run(tmp_path, row, "a", 0, {"a.x": x, "a.y": y}, {"a.x": 0, "a.y": 0}))
        runs.append(save_run(tmp_path, row, "b", 0, {"b.x": x}, {"b.x": 0}))
        runs.append(save_run(tmp_path, row, "c", 0, {"c.x": y}, {"c.x": 0}))
    together = compared([run for run in runs if run.task == "a"], tasks={"a": task})[-1]
    apart = compared([run for run in runs if run.task != "a"], tasks=two)[-1]
    assert together["column"] == apart["column"] == "avg"
    assert together["difference"] == apart["difference"] == pytest.approx(0.1)
    assert together["high"] - together["low"] < 1e-9 < 0.05 < apart["high"] - apart["low"]


def test_every_column_its_seeds_and_checkpoints(tmp_path):
    runs = runs_on(tmp_path, ["vqa"], seeds=range(6), checkpoints=3)
    (line,) = compared(runs)
    stacked = [
        np.stack([run.statistics["vqa.accuracy"] for run in runs if run.row == row])
        for row in ("pgnn", "gcn")
    ]
    expected = paired_comparison(*stacked, checkpoints=[0, 1, 2, 0, 1, 2])
    assert (line["row"], line["baseline"], line["checkpoints"]) == ("pGNN", "GCN", 3)
    assert line["p"] == line["p_holm"] == expected.p and line["by_checkpoint"] == expected.by_checkpoint
    assert line["new_p"] == line["new_p_holm"] == expected.new_p
    (one,) = compared(runs_on(tmp_path / "one", ["vqa"], seeds=[0]))
    assert (one["checkpoints"], one["speaks_for"], one["new_p"], one["new_p_holm"]) == (
        1,
        "images",
        None,
        None,
    )


def test_only_shared_scores_are_compared_and_holm_counts_them_all(tmp_path):
    runs = runs_on(tmp_path, rows=("gcn", "pgnn", "appnp"))
    kept = [run for run in runs if (run.row, run.task, run.seed) not in {("gcn", "ve", 0), ("pgnn", "ve", 1)}]
    assert places(compared(kept)) == [("pGNN", "vqa.accuracy")]
    scenes = runs_on(tmp_path / "scenes", ["caption"])
    del scenes[0].result["scores"]["caption.scene"]
    assert [line["seeds"] for line in compared(scenes, columns=["caption.cider", "caption.scene"])] == [2, 1]
    lines = compared(runs, ("pgnn", "gcn"), ("appnp", "gcn"))
    assert places(lines) == [
        (n, k) for n in ("pGNN", "APPNP") for k in ("vqa.accuracy", "ve.accuracy", "avg")
    ]
    assert [line["p_holm"] for line in lines] == pytest.approx(holm([line["p"] for line in lines]))
    (swapped,) = compared(runs, ("gcn", "pgnn"), columns=["avg"])
    assert swapped["difference"] == pytest.approx(-lines[2]["difference"])


def test_controls_are_of_one_family_with_the_gnns(tmp_path):
    runs = runs_on(
        tmp_path, ["vqa"], rows=("gcn", "pgnn", "tempering", "placebo", "rate", "full"), seeds=(0,)
    )
    assert contenders(runs) == ["gcn", "pgnn", "tempering", "placebo"]


def test_rows_that_differ_in_nothing_but_their_names_are_not_compared(tmp_path):
    """Whatever their scores are: that is a difference of machines. Other weights or joins are one of rows."""
    runs = runs_on(tmp_path, rows=("gcn", "gcn_gated", "pgnn", "decoder", "full"))
    for run in runs:
        kind = {"gnn": run.row[:4].rstrip("_")} if run.row[:3] in ("gcn", "pgn") else {}
        join = {"join": "gated" if (run.row, run.task, run.seed) == ("gcn_gated", "ve", 1) else "blend"}
        change(run.folder / "config.json", "settings", settings=kind and kind | join)
    lines = compared(runs, ("gcn_gated", "gcn"), ("pgnn", "gcn"), ("pgnn", "pgnn"), ("full", "decoder"))
    shown = {name: [key for row, key in places(lines) if row == name] for name, _ in places(lines)}
    every = ["vqa.accuracy", "ve.accuracy", "avg"]
    assert shown == {"GCN, gated": every[1:], "pGNN": every, "Full fine-tuning": every}
    with pytest.raises(UserError, match="compared with gcn: .* differ only in their names"):
        recompute(runs, ["gcn"], ["gcn_gated"], ["vqa.accuracy"])
    single = runs_on(tmp_path / "single", ["vqa"], images=1)
    assert compared(single) == []
    with pytest.raises(UserError, match="they share no seed, have a single test image"):
        recompute(single, ["gcn"])
    lines, _ = recompute(runs, ["gcn", "pgnn"], ["gcn", "pgnn", "pgnn"], ["avg"])
    (line,) = lines  # or Holm counts a test twice
    assert (line["row"], line["baseline"]) == ("pGNN", "GCN")
    twice = [*runs, *(replace(run, row="learned_p") for run in runs if run.row == "pgnn")]
    assert compared(twice, ("learned_p", "pgnn")) == []


def test_only_runs_on_the_same_examples_and_weights_are_compared(tmp_path):
    """Pairs of a seed, and seeds of a row: rows of the arrays are the same images."""
    for number, (setting, said) in enumerate(
        [("data", "different examples"), ("eval_examples", "different examples"), ("weights", "weights")]
    ):
        runs = runs_on(tmp_path / setting, ["vqa"])
        change(runs[number].folder / "config.json", "settings", **{setting: 7})
        with pytest.raises(UserError, match=said):
            compared(runs)
    runs = runs_on(tmp_path / "longer", ["vqa"])
    change(runs[1].folder / "config.json", "settings", recipe={**runs[1].settings["recipe"], "steps": 7})
    with pytest.raises(UserError, match="different numbers of steps"):
        compared([replace(run) for run in runs])
    runs = runs_on(tmp_path / "lacking", ["vqa"])
    runs[3] = replace(runs[3], result={**runs[3].result, "examples": 59})
    with pytest.raises(UserError, match="different examples.*if images were missing"):
        compared(runs)
