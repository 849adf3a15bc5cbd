"""From runs to all files of a results folder, for tasks of all sorts."""

import json
from dataclasses import replace

import pandas as pd
import pytest

from attngraph.errors import UserError
from experiments.report.ablation import make_table, save_results
from experiments.report.details import seeds_markdown
from experiments.tasks import TASKS
from experiments.tasks.task import Column, register, tasks_named
from tests.experiments.report.made import COLUMNS, NAMES, SmallTask, captioning, frame, runs_on

FILES = {f"ablation.{suffix}" for suffix in ("csv", "md", "png", "tex", "txt")}
FILES |= {"details.md", "results.json", "significance.json"}


def saved(folder, tasks, **options):
    """The runs, the table and the texts of its files."""
    runs = runs_on(folder / "cells", tasks, **options)
    table = make_table(runs, tasks, "GNN ablation")
    paths = save_results(runs, tasks, table, folder / "out", {"machine": "small"})
    return runs, table, {what: path.read_text() for what, path in paths.items() if what != "png"}


def cells(line: str, separator: str) -> list[str]:
    return [cell.strip(" *†\\") for cell in line.split(separator)]


def test_two_tasks_with_metrics_of_one_name(tmp_path):
    """Every score of both captioning tasks stands in every output, under a heading of its own."""
    tasks = {"coco": captioning("coco"), "nocaps": captioning("nocaps")}
    runs, table, texts = saved(tmp_path, tasks, seeds=(0,))
    keys = [column.key for task in tasks.values() for column in task.columns]
    headings = ["coco BLEU@4", "coco CIDEr", "nocaps BLEU@4", "nocaps CIDEr"]
    csv = pd.read_csv(tmp_path / "out" / "ablation.csv").set_index("name")
    heading_line = next(line for line in texts["txt"].splitlines() if line.startswith("Method"))
    assert all(heading in heading_line for heading in headings)
    assert "Avg = mean of coco BLEU@4, coco CIDEr, nocaps BLEU@4 and nocaps CIDEr." in texts["txt"]
    assert "Published" not in texts["txt"]

    for row in table.rows:
        own = [run for run in runs if NAMES[run.row] == row.name]
        scores = {key: value for run in own for key, value in run.result["scores"].items()}
        assert list(scores) == keys and len(set(scores.values())) == 4
        assert {key: row.scores[key].mean for key in keys} == pytest.approx(scores)
        assert {key: csv.loc[row.name, f"{key}_mean"] for key in keys} == pytest.approx(scores)
        printed = [f"{100 * scores[key]:.1f}" for key in keys]
        for what, separator in (("md", "|"), ("tex", "&"), ("txt", "  ")):
            body = texts[what].split("Seeds", 1)[1]
            line = next(line for line in body.splitlines() if row.name in line).replace(r"\textbf{", "")
            line = line.replace(r"\textsuperscript{\textdagger}", "").replace("}", "")
            shown = [cell for cell in cells(line, separator) if cell and cell != row.name]
            assert shown[:4] == printed, what
        line = next(text for text in texts["details"].splitlines() if text.startswith(f"| {row.name} | 0 |"))
        assert cells(line, "|")[3:7] == [f"{100 * scores[key]:.2f}" for key in keys]

    compared = {line["column"]: line for line in json.loads(texts["significance"])}
    assert list(compared) == [*keys, "avg"]
    assert all(csv.loc["pGNN", f"{key}_p_adjusted"] == pytest.approx(compared[key]["p_holm"]) for key in keys)
    for key, heading in zip(keys, headings, strict=True):
        gcn, pgnn = (row.scores[key].mean for row in table.rows)
        assert compared[key]["difference"] == pytest.approx(pgnn - gcn)
        assert f"| pGNN − GCN | {heading} | {100 * (pgnn - gcn):+.2f} |" in texts["details"]
    for task in tasks:
        assert f"**Task {task}: scores by kind**" in texts["details"]


def test_the_legend_says_where_a_row_trains_more_on_one_task_than_on_another(tmp_path):
    tasks = {name: SmallTask(name, Column(f"{name}.accuracy", f"{name} acc")) for name in ("a", "b")}
    runs = runs_on(tmp_path, tasks)
    assert not any(note.startswith("Trainable") for note in make_table(runs, tasks, "").notes)
    larger = [replace(run, result={**run.result, "parameters": 9e9}) for run in runs if run.task == "b"]
    table = make_table([*(run for run in runs if run.task == "a"), *larger], tasks, "")
    assert "Trainable: the largest number of the row's tasks, which differ" in table.notes
    assert {row.parameters for row in table.rows} == {9e9}


def test_a_table_without_averaged_columns(tmp_path):
    tasks = {name: SmallTask(name, Column(f"{name}.accuracy", f"{name} acc")) for name in ("a", "b")}
    _, table, texts = saved(tmp_path, tasks)
    assert [column.key for column in table.columns] == ["a.accuracy", "b.accuracy"]
    for what in ("txt", "md", "tex", "csv"):
        assert "avg" not in texts[what].lower() and "Published" not in texts[what]
    assert {line["column"] for line in table.comparisons} == {"a.accuracy", "b.accuracy"}


@pytest.mark.parametrize(
    "name, numbers, average", [("vqa", 1, False), ("caption", 2, True), ("easy_vqa", 0, False)]
)
def test_a_table_with_one_task(tmp_path, name, numbers, average):
    """Published numbers stand under the columns that they belong to, and never under another average."""
    _, table, texts = saved(tmp_path, tasks_named([name]))
    assert [column.key for column in table.columns if column.key != "avg"] == [
        c.key for c in TASKS[name].columns
    ]
    assert ("Avg" in texts["txt"]) == average
    assert ("another scale" in texts["txt"]) == (numbers > 0)
    rows = [row for block in table.published for row in block.rows.values()]
    assert all(len(row) == numbers and "avg" not in row for row in rows)
    assert len(table.comparisons) == len(table.columns)


def test_a_task_registered_at_run_time(tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.tasks.task.TASKS", dict(TASKS))
    register(SmallTask("chess", Column("chess.mates", "Mates", averaged=True)))
    _, table, texts = saved(tmp_path, tasks_named(["chess", "vqa"]))
    assert [column.heading for column in table.columns] == ["Mates", "VQA acc", "Avg"]
    assert "Task chess: 90 training and 60 test examples" in texts["txt"]
    assert "Avg = mean of Mates and VQA acc." in texts["txt"]
    assert {"chess.mates", "avg"} <= {line["column"] for line in table.comparisons}
    assert all({"chess.mates", "vqa.accuracy", "avg"} == set(row.scores) for row in table.rows)


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
    assert "**Learned numbers on which seeds agree**: 0 of 1." in details, "two seeds do not suffice"
    assert "| Kind | GCN | pGNN |" in details and "| pGNN − GCN | VQA acc |" in details
    assert json.loads(paths["significance"].read_text()) == list(table.comparisons)


def test_every_seed():
    text = seeds_markdown(frame(), COLUMNS)
    assert "| Method | Seed | VQA acc | VE acc | BLEU@4 | CIDEr | Scene F1 | easy-VQA acc |" in text
    assert "| APPNP | 1 | 53.00 | 60.00 | 31.00 | 130.00 | 60.00 | 70.00 |" in text
    assert "| Majority class | 0 | 25.00 | 33.00 | – | – | – | – |" in text


def test_files_appear_together_or_not_at_all(tmp_path, monkeypatch):
    runs, table, texts = saved(tmp_path, {"vqa": TASKS["vqa"]})
    out = tmp_path / "out"
    (out / "cells").mkdir()
    assert {path.name for path in out.iterdir()} == FILES | {"cells"}

    def fail(*arguments, **options):
        raise RuntimeError("disk full")

    other = replace(table, title="another title")
    monkeypatch.setattr("experiments.report.ablation.details_markdown", fail)
    with pytest.raises(RuntimeError):
        save_results(runs, {"vqa": TASKS["vqa"]}, other, out)
    assert {path.name for path in out.iterdir()} == FILES | {"cells"}
    assert (out / "ablation.txt").read_text() == texts["txt"]


def test_results_of_another_version_are_refused(tmp_path):
    runs = runs_on(tmp_path, {"vqa": TASKS["vqa"]})
    old = [replace(run, result=run.result | {"scores": {"vqa": 0.5}}) for run in runs]
    with pytest.raises(UserError, match="results of another version"):
        make_table(old, {"vqa": TASKS["vqa"]}, "t")
