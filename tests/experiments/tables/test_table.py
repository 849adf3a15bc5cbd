"""From runs to a table and to all files of a results folder, for tasks of all sorts."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from experiments.tables.frame import WAY, Row, Summary, rows_from_frame
from experiments.tables.make import save_results
from experiments.tables.table import REFERENCE, Table, below_frozen, make_table
from experiments.tasks import TASKS
from tests.experiments.tables.made import (
    COLUMNS,
    NAMES,
    captioning,
    frame,
    runs_on,
    save_run,
    table,
)

FILES = {f"ablation.{suffix}" for suffix in ("csv", "md", "png", "tex", "txt")}
FILES |= {"details.md", "results.json", "significance.json"}


def saved(folder, tasks, **options):
    """The runs, the table and the texts of its files."""
    runs = runs_on(folder / "cells", tasks, **options)
    table = make_table(runs, tasks, "GNN ablation")
    paths = save_results(runs, tasks, table, folder / "out", {"machine": "small"})
    return runs, table, {what: path.read_text() for what, path in paths.items() if what != "png"}


def test_details_hold_everything_once(tmp_path):
    tasks = {"vqa": TASKS["vqa"]}
    runs = runs_on(tmp_path, tasks)
    shown_twice = [replace(run, row="learned_p") for run in runs if run.row == "pgnn"]
    table = make_table([*runs, *shown_twice], tasks, "t")
    assert [row.name for row in table.rows] == ["GCN", "pGNN", "Learned p"]
    paths = save_results([*runs, *shown_twice], tasks, table, tmp_path / "out", {"machine": "small"})
    results = json.loads(paths["results"].read_text())
    assert results == {"cells": [run.result for run in runs], "machine": "small"}
    details = paths["details"].read_text()
    assert "Learned p" not in details and details.count("| pGNN | 1 |") == 1
    assert "| Kind | GCN | pGNN |" in details and "| pGNN − GCN | VQA acc |" in details
    assert json.loads(paths["significance"].read_text()) == list(table.comparisons)


def test_two_tasks_with_metrics_of_one_name(tmp_path):
    """Every score of both captioning tasks stands in the table under a heading of its own."""
    tasks = {"coco": captioning("coco"), "nocaps": captioning("nocaps")}
    runs, table, texts = saved(tmp_path, tasks, seeds=(0,))
    keys = [column.key for task in tasks.values() for column in task.columns]
    csv = pd.read_csv(tmp_path / "out" / "ablation.csv").set_index("name")
    assert "Avg = mean of coco BLEU@4, coco CIDEr, nocaps BLEU@4 and nocaps CIDEr." in texts["txt"]
    for row in table.rows:
        scores = {}
        for run in (run for run in runs if NAMES[run.row] == row.name):
            scores |= run.result["scores"]
        assert list(scores) == keys and len(set(scores.values())) == 4
        assert {key: csv.loc[row.name, f"{key}_mean"] for key in keys} == pytest.approx(scores)
        shown = " | ".join(f"{100 * scores[key]:.2f}" for key in keys)
        assert f"| {row.name} | 0 | {shown} |" in texts["details"]
    compared = {line["column"]: line for line in json.loads(texts["significance"])}
    assert list(compared) == [*keys, "avg"]
    assert all(csv.loc["pGNN", f"{key}_p_adjusted"] == pytest.approx(compared[key]["p_holm"]) for key in keys)


def test_best_is_among_adapters_only_and_ties_share():
    assert table().best("vqa.accuracy") == {"pGNN"}
    assert table().best("ve.accuracy") == {"GCN", "APPNP", "GCNII", "pGNN"}
    rows = rows_from_frame(frame(), COLUMNS)
    assert Table("t", rows[:1], COLUMNS).best("vqa.accuracy") == set()
    strong = Row("Full fine-tuning", REFERENCE, {"vqa.accuracy": Summary(0.9, None, 1)})
    assert Table("t", [*rows, strong], COLUMNS).best("vqa.accuracy") == {"pGNN"}


def test_it_is_a_column_of_every_output(tmp_path):
    """Scores of the rows grow by 0.1, so the ceiling lies above the frozen model."""
    tasks = {name: TASKS[name] for name in ("vqa", "ve")}
    runs = runs_on(tmp_path, tasks, rows=("frozen", "gcn", "pgnn", "full"), images=400)
    table = make_table(runs, tasks, "t")
    rows = {row.name: row.scores for row in table.rows}
    means = {
        name: [scores[key].mean for key in ("vqa.accuracy", "ve.accuracy")] for name, scores in rows.items()
    }
    start, end = np.array(means["Frozen model"]), np.array(means["Full fine-tuning"])
    for name, scores in rows.items():
        assert scores["way"].mean == pytest.approx(((means[name] - start) / (end - start)).mean(), abs=1e-12)
        assert scores["way"].seeds == 2 and scores["way"].std is not None
    paths = save_results(runs, tasks, table, tmp_path / "out")
    for suffix in ("txt", "md", "tex"):
        text = paths[suffix].read_text()
        assert WAY.heading in text and f"{100 * rows['pGNN']['way'].mean:.1f}" in text
        assert "share of the way from Frozen model (0) to Full fine-tuning (100)" in text
    csv = pd.read_csv(paths["csv"]).set_index("name")
    assert csv.loc["Full fine-tuning", "way_mean"] == pytest.approx(1)
    (line,) = [line for line in table.comparisons if line["column"] == "way"]
    assert line["difference"] == pytest.approx(rows["pGNN"]["way"].mean - rows["GCN"]["way"].mean)
    without = [run for run in runs if run.row != "frozen"]
    assert WAY not in make_table(without, tasks, "t").columns


BELOW = "below the frozen model with the same pre-trained weights in some column"


def runs_with(folder, *scores, task="vqa", checkpoints=2):
    """Runs given as row, seed and accuracy; seed s starts from checkpoint s mod 2."""
    return [
        save_run(folder, row, task, seed, {}, {f"{task}.accuracy": accuracy}, checkpoints)
        for row, seed, accuracy in scores
    ]


def test_each_run_is_compared_with_its_own_checkpoint(tmp_path):
    """Checkpoint 0 scores 0.5, checkpoint 1 scores 0.7; seeds 2 and 4 start from checkpoint 0 as well."""
    frozen = [("frozen", 0, 0.5), ("frozen", 1, 0.7)]
    gcn = [("gcn", 0, 0.6), ("gcn", 1, 0.6), ("gcn", 2, 0.49), ("gcn", 4, 0.5)]
    pgnn = [("pgnn", 0, 0.51), ("pgnn", 1, 0.71)]
    blind = [("pgnn_gated", 3, 0.1), ("majority", 0, 0.1), ("text", 0, 0.1)]  # but the first are not counted
    runs = runs_with(tmp_path, *frozen, *gcn, *pgnn, *blind)
    assert below_frozen(runs) == f"3 of 7 trained runs end {BELOW}"
    without = [run for run in runs if run.row in ("frozen", "pgnn")]
    assert (
        below_frozen([*without, replace(without[-1], row="learned_p")]) == f"0 of 2 trained runs end {BELOW}"
    )
