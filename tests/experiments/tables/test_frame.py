"""Columns of a table, lines and means of its rows, and the way from the frozen model to the ceiling."""

import numpy as np
import pandas as pd
import pytest

from attngraph.errors import UserError
from attngraph.experiments.methods import METHODS
from attngraph.experiments.tables.frame import MARGIN, rows_from_frame, scores_of, table_columns, way_between
from attngraph.experiments.tasks import TASKS
from attngraph.experiments.tasks.task import Column
from tests.experiments.tables.made import COLUMNS, SmallTask, captioning, runs_on


def headings(*tasks):
    return [column.heading for column in table_columns({task.name: task for task in tasks})]


def test_the_average_follows_its_columns_and_equal_headings_are_told_apart():
    own = ["VQA acc", "VE acc", "BLEU@4", "CIDEr", "Avg", "Scene F1", "easy-VQA acc"]
    assert [column.heading for column in COLUMNS] == own
    names = ["coco.bleu4", "coco.cider", "nocaps.bleu4", "nocaps.cider", "VQA acc", "Avg"]
    assert headings(captioning("coco"), captioning("nocaps"), TASKS["vqa"]) == names
    assert headings(SmallTask("a", Column("a.x", "X", averaged=True), Column("a.y", "Y"))) == ["X", "Y"]


def test_optional_columns_are_those_that_a_run_has(tmp_path):
    runs = runs_on(tmp_path, ["vqa", "caption"])
    keys = ["vqa.accuracy", "caption.bleu4", "caption.cider", "avg", "caption.scene"]
    for lacking in ([], [0], range(len(runs))):
        for run in (runs[number] for number in lacking):
            run.result["scores"].pop("caption.scene", None)
        shown = [column.key for column in scores_of(runs).columns]
        assert shown == (keys[:-1] if len(lacking) == len(runs) else keys)


def test_a_line_holds_the_runs_of_a_row_and_seed_and_means_are_of_lines(tmp_path):
    """The average too is taken for each seed, where it has all columns."""
    runs = runs_on(tmp_path, ["vqa", "ve"], seeds=(0, 1, 2))[:-1]
    scores = scores_of(runs)
    frame = scores.frame.set_index(["row", "seed"])
    assert list(frame.index) == [(row, seed) for row in ("gcn", "pgnn") for seed in (0, 1, 2)]
    for run in runs:
        assert frame.loc[run.row, run.seed][list(run.result["scores"])].to_dict() == run.result["scores"]
    assert list(frame["seconds"]) == [24, 24, 24, 24, 24, 12] and list(frame["peak_mb"])[:2] == [100, 101]
    both = frame["vqa.accuracy"] + frame["ve.accuracy"]
    assert list(frame["avg"])[:-1] == list(both / 2)[:-1] and np.isnan(frame["avg"].iloc[-1])
    gcn, pgnn = rows_from_frame(scores.frame, scores.columns)
    assert (gcn.name, gcn.seconds, gcn.peak_mb, gcn.parameters) == ("GCN", 24, 102, 1234)
    assert gcn.scores["avg"] == pytest.approx((both.iloc[:3].mean() / 2, both.iloc[:3].std() / 2, 3))
    assert pgnn.scores["avg"].seeds == 2 and pgnn.scores["vqa.accuracy"].seeds == 3
    with pytest.raises(UserError, match="two runs of gcn on vqa with seed 0"):
        scores_of([runs[0], runs[0]])


# ---- the way --------------------------------------------------------------------------------------------


KEYS = ("vqa.accuracy", "ve.accuracy", "caption.bleu4", "caption.cider")
START, END = (0.4, 0.4, 0.4, 2.5), (0.7, 0.6, 0.8, 5.0)


def way_frame(**rows):
    """One line for each seed of a method: its scores in the averaged columns."""
    lines = [{"row": row, **dict(zip(KEYS, scores))} for row, seeds in rows.items() for scores in seeds]
    return pd.DataFrame(lines)


def test_the_way_by_hand():
    half, mixed = (0.55, 0.5, 0.6, 3.75), (0.7, 0.4, 0.4, 5.0)
    frame = way_frame(frozen=[START], full=[END], gcn=[half, mixed, (np.nan, *half[1:])])
    weights, offset, note = way_between(frame, COLUMNS)
    shares = sum(weight * frame[key] for key, weight in weights.items()) - offset
    # in `mixed`: VQA all of the way, VE none, captions one column of two
    assert shares[:4].tolist() == pytest.approx([0, 1, 0.5, (1 + 0 + 0.5) / 3]) and np.isnan(shares[4])
    assert weights["caption.cider"] == pytest.approx(1 / (3 * 2 * 2.5)) and list(weights) == [*KEYS]
    assert "from Frozen model (0) to Full fine-tuning (100)" in note
    both = way_frame(frozen=[START], full=[START], decoder=[END])
    assert METHODS["decoder"].title in way_between(both, COLUMNS)[-1]


def test_no_way_without_its_ends():
    whole = way_frame(frozen=[START], full=[END])
    no_average = table_columns({"a": SmallTask("a", Column("a.x", "X"))})
    partial = way_frame(frozen=[(np.nan, *START[1:])], full=[END])
    for frame, columns in (
        (way_frame(frozen=[START], gcn=[END]), COLUMNS),
        (way_frame(full=[END], gcn=[END]), COLUMNS),
        (partial, COLUMNS),
        (whole, no_average),
    ):
        assert way_between(frame, columns) == ({}, 0, "")


@pytest.mark.parametrize("gain, is_there", [(MARGIN + 1e-6, True), (MARGIN - 1e-6, False)])
def test_a_ceiling_is_above_the_frozen_model(gain, is_there):
    low = (END[0], START[1] + gain, *END[2:])
    assert bool(way_between(way_frame(frozen=[START], full=[low]), COLUMNS)[0]) == is_there


def test_way_is_a_column_after_the_average_and_a_sum_of_columns(tmp_path):
    runs = runs_on(tmp_path, rows=("frozen", "gcn", "full"), images=400)  # scores of rows grow by 0.1
    scores = scores_of(runs)
    assert [column.key for column in scores.columns] == ["vqa.accuracy", "ve.accuracy", "avg", "way"]
    means = scores.frame.groupby("row").mean(numeric_only=True)
    assert means["way"][["frozen", "full"]].tolist() == pytest.approx([0, 1], abs=1e-12)
    assert scores.weights["avg"] == {"vqa.accuracy": 0.5, "ve.accuracy": 0.5}
    for key in ("avg", "way"):
        total = sum(weight * means[one] for one, weight in scores.weights[key].items())
        assert (total - means[key]).std() == pytest.approx(0, abs=1e-12), "up to a constant"
    one = SmallTask("a", Column("a.x", "X", averaged=True), Column("a.y", "Y"))
    alone = scores_of(runs_on(tmp_path / "a", {"a": one}, rows=("frozen", "full"), images=400), {"a": one})
    assert [column.key for column in alone.columns] == ["a.x", "way", "a.y"]
