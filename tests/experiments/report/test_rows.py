"""From scores to rows."""

import math
from dataclasses import replace

import pytest

from attngraph.errors import UserError
from experiments.report.columns import table_columns
from experiments.report.rows import rows_from_frame, score_frame, summarise
from experiments.report.table import ADAPTERS, REFERENCE, Row, Summary, Table
from experiments.tasks import TASKS
from tests.experiments.report.made import COLUMNS, captioning, frame, runs_on, table


def test_summarise():
    assert summarise([0.5]) == Summary(0.5, None, 1)
    assert summarise([0.1, 0.3]) == pytest.approx(Summary(0.2, math.sqrt(0.02), 2))
    with pytest.raises(ValueError):
        summarise([])


def test_average_is_taken_per_seed_on_the_printed_scale():
    rows = rows_from_frame(frame(), COLUMNS)
    assert 100 * rows[0].scores["avg"].mean == pytest.approx((51 + 60 + 30 + 120) / 4)
    assert rows[0].scores["avg"].std == pytest.approx(0.01 / 4)
    majority = rows[-1]
    assert set(majority.scores) == {"vqa.accuracy", "ve.accuracy"}
    assert majority.parameters == 0 and majority.seconds is None


def test_average_of_other_tasks_is_that_of_their_columns():
    columns = table_columns({name: TASKS[name] for name in ("vqa", "ve")})
    assert rows_from_frame(frame(), columns)[0].scores["avg"].mean == pytest.approx((0.51 + 0.6) / 2)
    one = table_columns({"vqa": TASKS["vqa"]})
    assert set(rows_from_frame(frame(), one)[0].scores) == {"vqa.accuracy"}


def test_best_is_among_adapters_only_and_ties_share():
    assert table().best("vqa.accuracy") == {"pGNN"}
    assert table().best("ve.accuracy") == {"GCN", "APPNP", "GCNII", "pGNN"}
    rows = rows_from_frame(frame(), COLUMNS)
    assert Table("t", rows[:1], COLUMNS).best("vqa.accuracy") == set()
    strong = Row("Full fine-tuning", REFERENCE, {"vqa.accuracy": Summary(0.9, None, 1)})
    assert Table("t", [*rows, strong], COLUMNS).best("vqa.accuracy") == {"pGNN"}


def test_a_line_holds_the_runs_of_a_row_and_seed(tmp_path):
    tasks = {"coco": captioning("coco"), "nocaps": captioning("nocaps")}
    runs = runs_on(tmp_path, tasks)
    lines = score_frame(runs, tasks)
    assert len(lines) == 4 and list(lines["name"]) == ["GCN", "GCN", "pGNN", "pGNN"]
    for run in runs:
        line = lines[(lines["name"] == {"gcn": "GCN", "pgnn": "pGNN"}[run.row]) & (lines.seed == run.seed)]
        assert {key: line[key].item() for key in run.result["scores"]} == run.result["scores"]
        assert line["seconds"].item() == 24 and line["peak_mb"].item() == 100 + run.seed


def test_a_run_that_two_rows_show(tmp_path):
    tasks = {"vqa": TASKS["vqa"]}
    runs = runs_on(tmp_path, tasks, rows=("pgnn",))
    again = [replace(run, row="learned_p") for run in runs[:1]]
    rows = {row.name: row for row in rows_from_frame(score_frame([*runs, *again], tasks), COLUMNS)}
    assert rows["pGNN"].scores["vqa.accuracy"].seeds == 2
    assert rows["Learned p"].scores["vqa.accuracy"] == Summary(
        runs[0].result["scores"]["vqa.accuracy"], None, 1
    )
    assert (rows["pGNN"].group, rows["Learned p"].group) == (ADAPTERS, "Attribution")


def test_bad_input(tmp_path):
    with pytest.raises(UserError, match="several rows named 'GCN'"):
        Table("t", [Row("GCN", ADAPTERS, {}), Row("GCN", REFERENCE, {})], COLUMNS)
    with pytest.raises(UserError, match="group"):
        rows_from_frame(frame().drop(columns="group"), COLUMNS)
    tasks = {"vqa": TASKS["vqa"]}
    (run,) = runs_on(tmp_path, tasks, rows=("gcn",), seeds=(0,))
    with pytest.raises(UserError, match="two runs of gcn on vqa with seed 0"):
        score_frame([run, run], tasks)
    with pytest.raises(UserError, match=r"is on vqa, but the table's tasks are ve"):
        score_frame([run], {"ve": TASKS["ve"]})
    old = replace(run, result=run.result | {"scores": {"vqa": 0.5}})
    with pytest.raises(UserError, match=r"scored vqa, but the task's columns are vqa\.accuracy"):
        score_frame([old], tasks)
