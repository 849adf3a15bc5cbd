"""``attngraph sweep`` and then ``table`` as a user runs them, in one folder; and what is refused."""

import csv
import json
from pathlib import Path

import pandas as pd
import pytest

from attngraph.experiments.cli import main
from attngraph.experiments.methods.settings import chosen_settings
from attngraph.experiments.runs.runner import run_cells
from attngraph.experiments.tables.grid import load_table
from attngraph.experiments.tables.runs import saved_runs
from tests.experiments.bad_inputs.world import SIZE
from tests.experiments.conftest import one_line

TABLE = """
about: two adapters
title: Two adapters
rows: {{As published: [gcn, pgnn], Ends of the scale: [frozen]}}
baseline: gcn
contenders: [gcn, pgnn]
contest: adapter
tasks: [vqa2, coco]
notes: [what is to be said]
published: {published}
seeds: 2
"""
OF_PGNN = """
settings:
  methods:
    pgnn: {vqa: {learning_rate: 1.0e-3, join: gated, arguments: {p: 1.25, mu: 0.5}}}
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """Files of two tables that share rows, and of a size."""
    folder = tmp_path_factory.mktemp("tables")
    (folder / "first.yaml").write_text(TABLE.format(published="[gnn, main_mplug]"))
    second = TABLE.format(published="[]").replace("gcn, pgnn", "gcn, lora")
    second = second.replace("seeds: 2", "seeds: 1").replace("tasks: [vqa2, coco]", "tasks: [coco]")
    (folder / "second.yaml").write_text(second)
    (folder / "little.yaml").write_text(SIZE + OF_PGNN)
    return folder


def run(command: str, files: Path, table: str, *more) -> int:
    words = [command, files / f"{table}.yaml", "--size", files / "little.yaml", "--out", files / "out", *more]
    return main([str(word) for word in words])


@pytest.fixture(scope="module")
def swept(files) -> Path:
    """The folder of a sweep that was stopped after its first run and called again."""

    def stopped(cells, *_, **__):
        run_cells(cells[:1], *_, **__)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("attngraph.experiments.tables.tune.run_cells", stopped)
        assert run("sweep", files, "first", "--tasks", "vqa2", "-q") == 130
    out = files / "out"
    before = times(out / "cells")
    assert not (out / "settings.yaml").exists() and sum(path.name == "scores.json" for path in before) == 1
    assert run("sweep", files, "first", "--tasks", "vqa2", "-q") == 0
    assert before.items() <= times(out / "cells").items(), "a finished run was written again"
    return out


@pytest.fixture(scope="module")
def made(files, swept) -> Path:
    """The same folder with the first table, of the settings that were chosen."""
    before = times(swept)
    assert run("table", files, "first", "--settings", swept / "settings.yaml", "-q") == 0
    after = times(swept)
    assert all(after[path] == before[path] for path in before if path.name == "scores.json")
    return swept


def times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.mark.timeout(400)
def test_each_row_has_the_best_of_its_rates_on_validation_data(swept):
    chosen = chosen_settings(swept / "settings.yaml")
    lines = list(csv.DictReader((swept / "sweep.csv").read_text().splitlines()))
    for row in ("gcn", "pgnn"):
        of_row = [line for line in lines if line["method"] == row]
        assert {line["task"] for line in of_row} == {"vqa2"} and 2 <= len(of_row) <= 4
        best = max(of_row, key=lambda line: float(line["score"]))
        choice = chosen.choice(row, "vqa2")
        assert choice.learning_rate == float(best["rate"])
        of_size = ("gated", {"p": 1.25, "mu": 0.5}) if row == "pgnn" else ("blend", {})
        assert (choice.join, choice.arguments) == of_size
        assert chosen.choice(row, "vizwiz_vqa") == choice and chosen.choice(row, "coco") is None
        assert {6e-3, 1.2e-2} <= {float(line["rate"]) for line in of_row}
    assert chosen.choice("frozen", "vqa2") is None
    shown = (swept / "sweep.md").read_text()
    assert shown.count("(chosen)") == 2 and "vizwiz_vqa uses the settings of vqa2" in shown


@pytest.mark.timeout(400)
def test_the_table_stands_in_a_folder_of_its_own_and_takes_the_rates(made):
    text = (made / "first" / "first.txt").read_text()
    assert text.startswith("Two adapters, size little, mini-blip\n") and "what is to be said" in text
    assert text.index("As published") < text.index("GCN") < text.index("Ends of the scale")
    for number in ("38.9", "130.9", "134.8"):  # BLIP's adapters on COCO, and mPLUG's full fine-tuning
        assert number in text
    assert "79.02" not in text, "the average is of other columns"
    table = pd.read_csv(made / "first" / "first.csv").set_index("name")
    assert table.loc["GCN", "coco.cider_n"].max() == 2 and table.loc["Frozen model", "vqa2.accuracy_n"] == 1
    compared = json.loads((made / "first" / "significance.json").read_text())
    assert {(line["row"], line["baseline"]) for line in compared} == {("pGNN", "GCN")}
    chosen = chosen_settings(made / "settings.yaml")
    for row in ("gcn", "pgnn"):
        file = made / "cells" / row / "vqa2" / "seed0" / "config.json"
        recipe = json.loads(file.read_text())["settings"]["recipe"]
        assert recipe["learning_rate"] == chosen.choice(row, "vqa2").learning_rate
    with saved_runs(made) as runs:
        assert len(list(runs)) == 2 * (2 + 2 + 1), "none of the sweep's"


@pytest.mark.timeout(400)
def test_tables_share_runs(made, files, capsys):
    before = times(made)
    assert run("table", files, "second", "--out", made) == 0
    assert "3 runs, 2 of them finished already" in capsys.readouterr().err
    after = times(made)
    for path, time in before.items():
        if path.relative_to(made).parts[0] in ("cells", "data", "first"):
            assert after[path] == time, f"{path} was written again"
    new = {path.relative_to(made).parts[:2] for path in after.keys() - before.keys()}
    assert {part for part in new if part[0] not in ("second", "image-states")} == {("cells", "lora")}


@pytest.mark.timeout(400)
def test_nothing_is_replaced_by_less(made, files, capsys):
    before = times(made)
    for command, words, said in (
        ("table", ["--rows", "gcn"], "holds a table with"),
        ("table", ["--seeds", "1"], "holds a table with"),
        ("sweep", ["--rows", "gcn"], "has settings of pgnn on vqa2, which this sweep would drop"),
        ("sweep", ["--rows", "frozen"], "unknown row 'frozen': choose from gcn, pgnn"),  # which has no rate
    ):
        assert run(command, files, "first", *words) == 2
        assert said in one_line(capsys)
    assert times(made) == before


def test_a_dry_run_lists_the_runs_and_writes_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, size in (("main", "scenes"), ("width", "paper")):
        assert main(["table", name, "--size", size, "--dry-run"]) == 0
        total, empty, _, *lines = capsys.readouterr().out.splitlines()
        table = load_table(name, size)
        frozen = "frozen" in table.counts
        count = len(table.tasks) * ((len(table.counts) - frozen) * table.seeds + frozen)
        assert empty == "" and total.startswith(f"{count} runs: 0 finished, {count} to run, ")
        assert total.endswith(" examples to train on")
        assert len(lines) == len(table.tasks) * len(table.counts)
        assert sum(int(line.split()[-1]) for line in lines) == count
    assert not any(tmp_path.iterdir())
