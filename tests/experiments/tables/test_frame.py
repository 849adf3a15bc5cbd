"""Columns of a table, lines and means of its rows, and the way from the frozen model to the ceiling."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from attngraph.errors import UserError
from experiments.methods import METHODS
from experiments.tables.frame import (
    MARGIN,
    rows_from_frame,
    score_frame,
    scored,
    table_columns,
    way_between,
)
from experiments.tasks import TASKS
from experiments.tasks.task import Column
from tests.experiments.tables.made import COLUMNS, SmallTask, captioning, runs_on
from tests.experiments.tables.made import frame as scores_frame


def headings(*tasks):
    return [column.heading for column in table_columns({task.name: task for task in tasks})]


def test_the_columns_of_our_tasks():
    names = ("vqa", "ve", "caption", "easy_vqa")
    assert headings(*(TASKS[name] for name in names)) == [
        "VQA acc",
        "VE acc",
        "BLEU@4",
        "CIDEr",
        "Avg",
        "Scene F1",
        "easy-VQA acc",
    ]


def test_equal_headings_are_told_apart():
    assert headings(captioning("coco"), captioning("nocaps"), TASKS["vqa"]) == [
        "coco BLEU@4",
        "coco CIDEr",
        "nocaps BLEU@4",
        "nocaps CIDEr",
        "VQA acc",
        "Avg",
    ]
    one_task = SmallTask("a", Column("a.x", "Score"), Column("a.y", "Score"), Column("a.z", "Z"))
    assert headings(one_task) == ["a.x", "a.y", "Z"]


def test_optional_columns_are_those_that_every_run_has(tmp_path):
    tasks = {name: TASKS[name] for name in ("vqa", "caption")}
    runs = runs_on(tmp_path, tasks)
    keys = [column.key for column in TASKS["caption"].columns]
    assert [column.key for column in scored(tasks, runs)["caption"].columns] == keys
    last = runs[-1]
    assert last.task == "caption"
    without = {key: value for key, value in last.result["scores"].items() if key != "caption.scene"}
    lacking = [*runs[:-1], replace(last, result=last.result | {"scores": without})]
    for some in (lacking, []):
        shown = scored(tasks, some)
        assert [column.key for column in shown["caption"].columns] == keys[:2]
        assert shown["vqa"].columns == TASKS["vqa"].columns
    assert [column.key for column in TASKS["caption"].columns] == keys, "the task itself stays"


def test_equal_keys_are_refused():
    with pytest.raises(UserError, match=r"several columns have the key 'a\.x'"):
        table_columns({"a": SmallTask("a", Column("a.x", "X"), Column("a.x", "Y"))})


# ---- rows -----------------------------------------------------------------------------------------------


def test_average_is_taken_per_seed_on_the_printed_scale():
    rows = rows_from_frame(scores_frame(), COLUMNS)
    assert 100 * rows[0].scores["avg"].mean == pytest.approx((51 + 60 + 30 + 120) / 4)
    assert rows[0].scores["avg"].std == pytest.approx(0.01 / 4)
    majority = rows[-1]
    assert set(majority.scores) == {"vqa.accuracy", "ve.accuracy"}
    assert (majority.parameters, majority.seconds) == (0, 1.0)


def test_a_line_holds_the_runs_of_a_row_and_seed(tmp_path):
    tasks = {"coco": captioning("coco"), "nocaps": captioning("nocaps")}
    runs = runs_on(tmp_path, tasks)
    lines = score_frame(runs)
    assert len(lines) == 4 and list(lines["name"]) == ["GCN", "GCN", "pGNN", "pGNN"]
    for run in runs:
        line = lines[(lines["name"] == {"gcn": "GCN", "pgnn": "pGNN"}[run.row]) & (lines.seed == run.seed)]
        assert {key: line[key].item() for key in run.result["scores"]} == run.result["scores"]
        assert line["seconds"].item() == 24 and line["peak_mb"].item() == 100 + run.seed


def test_a_run_that_is_given_twice_is_an_error(tmp_path):
    tasks = {"vqa": TASKS["vqa"]}
    (run,) = runs_on(tmp_path, tasks, rows=("gcn",), seeds=(0,))
    with pytest.raises(UserError, match="two runs of gcn on vqa with seed 0"):
        score_frame([run, run])


# ---- the way --------------------------------------------------------------------------------------------


KEYS = ("vqa.accuracy", "ve.accuracy", "caption.bleu4", "caption.cider")
START, END = (0.4, 0.4, 0.4, 2.5), (0.7, 0.6, 0.8, 5.0)


def way_frame(**rows):
    """One line for each seed of a method: its scores in the averaged columns."""
    lines = [
        {"row": row, "name": METHODS[row].title, "group": "g", "seed": seed, **dict(zip(KEYS, scores))}
        for row, seeds in rows.items()
        for seed, scores in enumerate(seeds)
    ]
    return pd.DataFrame(lines)


def test_by_hand():
    half, mixed = (0.55, 0.5, 0.6, 3.75), (0.7, 0.4, 0.4, 5.0)
    runs = way_frame(frozen=[START], full=[END], gcn=[half, mixed, (np.nan, *half[1:])])
    way, note = way_between(runs, COLUMNS)
    shares = way.share(runs)
    # in `mixed`: VQA all of the way, VE none, captions one column of two
    assert shares[:4].tolist() == pytest.approx([0, 1, 0.5, (1 + 0 + 0.5) / 3]) and np.isnan(shares[4])
    assert way.share(dict(zip(KEYS, mixed))) == pytest.approx(0.5)
    assert list(way.weights) == list(KEYS)
    assert way.weights["caption.cider"] == pytest.approx(1 / (3 * 2 * 2.5))
    assert "from Frozen model (0) to Full fine-tuning (100)" in note
    assert note.endswith("among VQA acc, VE acc, BLEU@4 and CIDEr")


def test_the_ends_of_the_way():
    assert way_between(way_frame(frozen=[START], gcn=[END]), COLUMNS) == (None, "")
    assert way_between(way_frame(full=[END], gcn=[END]), COLUMNS) == (None, "")
    partial = (np.nan, *START[1:])
    assert way_between(way_frame(frozen=[partial], full=[END]), COLUMNS) == (None, "")
    no_average = table_columns({"a": SmallTask("a", Column("a.x", "X"))})
    assert way_between(way_frame(frozen=[START], full=[END]), no_average) == (None, "")
    both = way_frame(frozen=[START], full=[START], decoder=[END])
    assert way_between(both, COLUMNS)[0].ceiling == METHODS["decoder"].title


@pytest.mark.parametrize("gain, is_there", [(MARGIN + 1e-6, True), (MARGIN - 1e-6, False), (-0.1, False)])
def test_a_ceiling_that_is_no_ceiling_is_said(gain, is_there):
    low = (END[0], START[1] + gain, *END[2:])
    way, note = way_between(way_frame(frozen=[START], full=[low]), COLUMNS)
    assert (way is not None) == is_there
    if not is_there:
        assert note == "Way is not shown: Full fine-tuning is not 2 points above Frozen model in VE acc"
