"""From runs to a table and to all files of a results folder, for tasks of all sorts."""

import json
from dataclasses import replace

import pandas as pd
import pytest

from attngraph.experiments.tables.frame import Row, Summary
from attngraph.experiments.tables.make import save_results
from attngraph.experiments.tables.table import ABLATION, Table, below_frozen, make_table
from attngraph.experiments.tasks import TASKS
from tests.experiments.tables.made import COLUMNS, NAMES, captioning, runs_on, save_run, table


def test_every_file_holds_every_score(tmp_path):
    """Of two captioning tasks, whose columns have the same headings; the details hold a run once."""
    tasks = {"coco": captioning("coco"), "nocaps": captioning("nocaps")}
    runs = runs_on(tmp_path / "table", tasks, seeds=(0,))
    twice = [*runs, *(replace(run, row="learned_p") for run in runs if run.row == "pgnn")]
    made = make_table(twice, tasks, "GNN ablation")
    assert [row.name for row in made.rows] == ["GCN", "pGNN", "Learned p"]
    paths = save_results(twice, tasks, made, tmp_path / "out", {"machine": "small"})
    texts = {what: path.read_text() for what, path in paths.items() if what not in ("png", "pdf")}
    assert json.loads(texts["results"]) == {"cells": [run.result for run in runs], "machine": "small"}
    assert "Learned p" not in texts["details"] and "| pGNN − GCN | coco.bleu4 |" in texts["details"]
    keys = [column.key for task in tasks.values() for column in task.columns]
    csv = pd.read_csv(paths["csv"]).set_index("name")
    assert f"Avg = mean of {', '.join(keys)}." in texts["txt"]
    for row in made.rows[:2]:
        scores = {}
        for run in (run for run in runs if NAMES[run.row] == row.name):
            scores |= run.result["scores"]
        assert {key: csv.loc[row.name, f"{key}_mean"] for key in keys} == pytest.approx(scores)
        shown = " | ".join(f"{100 * scores[key]:.2f}" for key in keys)
        assert f"| {row.name} | 0 | {shown} |" in texts["details"]
    compared = {line["column"]: line for line in json.loads(texts["significance"])}
    assert list(compared) == [*keys, "avg"]
    assert all(csv.loc["pGNN", f"{key}_p_adjusted"] == pytest.approx(compared[key]["p_holm"]) for key in keys)


def test_best_is_among_adapters_only_and_ties_share():
    made = table()
    assert made.best("vqa.accuracy") == {"pGNN"}
    assert made.best("ve.accuracy") == {"GCN", "APPNP", "GCNII", "pGNN"}
    assert Table("t", made.rows[:1], COLUMNS).best("vqa.accuracy") == set()
    strong = Row("Full fine-tuning", "Reference", {"vqa.accuracy": Summary(0.9, None, 1)})
    assert Table("t", [*made.rows, strong], COLUMNS).best("vqa.accuracy") == {"pGNN"}
    named = Table("t", [*made.rows, strong], COLUMNS, contenders={"pGNN", "Full fine-tuning"})
    assert named.best("vqa.accuracy") == {"Full fine-tuning"}


def test_a_grid_names_baseline_contenders_blocks_and_notes(tmp_path):
    tasks = {name: TASKS[name] for name in ("vqa", "ve")}
    runs = runs_on(tmp_path, tasks, rows=("frozen", "gcn", "pgnn", "full"), seeds=(0,), images=400)
    runs[0].result["trained_on"] = 91  # on VQA
    grid = {"rows": {"All": ["gcn", "full"]}, "baseline": "pgnn", "contenders": ["full", "pgnn"]}
    made = make_table(runs, tasks, "t", ABLATION.model_copy(update=grid | {"notes": ["a note"]}))
    assert {line["row"] for line in made.comparisons} == {"Full fine-tuning"}
    assert [line["column"] for line in made.comparisons] == ["vqa.accuracy", "ve.accuracy", "avg", "way"]
    assert {group: [row.name for row in rows] for group, rows in made.groups.items()} == {
        "Reference": ["Frozen model"],
        "All": ["GCN", "Full fine-tuning"],
        "GNN adapters": ["pGNN"],
    }
    way, vqa, ve, *_ = made.notes
    assert way.startswith("Way = fraction of the way") and made.notes[3] == "a note"
    assert vqa == f"{tasks['vqa'].title}: 91 training and 400 test examples"
    assert ve == f"{tasks['ve'].title}: 90 training and 400 test examples"
    assert make_table(runs, tasks, "t", compare=False).comparisons == ()
    unnamed = make_table(runs, tasks, "t", ABLATION.model_copy(update=grid | {"contenders": None}))
    assert len(unnamed.best("vqa.accuracy")) == 1, "in blocks of any name, adapters are still contenders"


def test_each_run_is_compared_with_its_own_checkpoint(tmp_path):
    """Checkpoint 0 scores 0.5, checkpoint 1 scores 0.7; seeds 2 and 4 start from checkpoint 0 as well."""
    frozen = [("frozen", 0, 0.5), ("frozen", 1, 0.7)]
    gcn = [("gcn", 0, 0.6), ("gcn", 1, 0.6), ("gcn", 2, 0.49), ("gcn", 4, 0.5)]
    pgnn = [("pgnn", 0, 0.51), ("pgnn", 1, 0.71)]
    blind = [("pgnn_gated", 3, 0.1), ("majority", 0, 0.1), ("text", 0, 0.1)]  # but the first are not counted
    runs = [
        save_run(tmp_path, row, "vqa", seed, {"vqa.accuracy": [[accuracy]]}, {"vqa.accuracy": accuracy}, 2)
        for row, seed, accuracy in (*frozen, *gcn, *pgnn, *blind)
    ]
    assert below_frozen(runs).startswith("3 of 7 trained runs end below the frozen model")
