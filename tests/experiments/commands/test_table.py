"""The paper's tables as a user makes them, from end to end: files, shared runs, what is refused."""

import json
from pathlib import Path

import pandas as pd
import pytest

from experiments.cli import main
from experiments.tables.grid import load_table
from tests.experiments.bad_inputs.world import SIZE

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


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Files of two tables that share rows, and of a size."""
    folder = tmp_path_factory.mktemp("tables")
    (folder / "first.yaml").write_text(TABLE.format(published="[gnn, main_mplug]"))
    second = TABLE.format(published="[]").replace("gcn, pgnn", "gcn, lora")
    second = second.replace("seeds: 2", "seeds: 1").replace("tasks: [vqa2, coco]", "tasks: [coco]")
    (folder / "second.yaml").write_text(second)
    (folder / "little.yaml").write_text(SIZE)
    return folder


def words(files, table, *more):
    return ["table", str(files / f"{table}.yaml"), "--size", str(files / "little.yaml"), *map(str, more)]


@pytest.fixture(scope="module")
def made(files):
    """The folder in which the first table was made."""
    out = files / "out"
    assert main(words(files, "first", "--out", out, "--quiet")) == 0
    return out


def one_line(capsys) -> str:
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("attngraph: ")
    return line


def times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.mark.timeout(400)
def test_the_table_stands_in_a_folder_of_its_own(made):
    names = {path.name for path in (made / "first").iterdir()}
    assert names == {
        *(f"first.{suffix}" for suffix in ("txt", "md", "tex", "csv", "png")),
        "details.md",
        "results.json",
        "significance.json",
    }
    assert {"cells", "data", "first"} <= {path.name for path in made.iterdir()}
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


@pytest.mark.timeout(400)
def test_tables_share_runs(made, files, capsys):
    before = times(made)
    assert main(words(files, "second", "--out", made)) == 0
    assert "3 cells, 2 of them finished already" in capsys.readouterr().err
    after = times(made)
    for path, time in before.items():
        if path.relative_to(made).parts[0] in ("cells", "data", "first"):
            assert after[path] == time, f"{path} was written again"
    new = {path.relative_to(made).parts[:2] for path in after.keys() - before.keys()}
    assert {part for part in new if part[0] not in ("second", "image-states")} == {("cells", "lora")}
    assert ("second", "second.txt") in new


@pytest.mark.timeout(400)
def test_a_second_call_runs_nothing(made, files):
    before = times(made / "cells")
    assert main(words(files, "first", "--out", made, "--quiet")) == 0
    assert times(made / "cells") == before


def test_a_table_is_not_replaced_by_a_smaller_one(made, files, capsys):
    before = times(made)
    for more in (["--rows", "gcn"], ["--seeds", "1"], ["--tasks", "coco"]):
        assert main(words(files, "first", "--out", made, *more)) == 2
        assert "holds a table with" in one_line(capsys)
    assert times(made) == before


@pytest.mark.parametrize("name", ["main", "width"])
def test_a_dry_run_lists_the_runs_and_writes_nothing(name, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for size in ("scenes", "paper"):
        assert main(["table", name, "--size", size, "--dry-run"]) == 0
        *cells, empty, total = capsys.readouterr().out.splitlines()
        table = load_table(name, size)
        frozen = "frozen" in table.counts
        count = len(table.tasks) * ((len(table.counts) - frozen) * table.seeds + frozen)
        assert len(cells) == count and empty == "" and total.startswith(f"{count} cells, ")
        assert total.endswith(" examples to train on")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["data", "image-states"])
def test_a_table_by_the_name_of_a_shared_folder_is_refused(name, files, tmp_path, capsys):
    (tmp_path / f"{name}.yaml").write_text((files / "first.yaml").read_text())
    for more in ([], ["--dry-run"]):
        words = ["table", str(tmp_path / f"{name}.yaml"), "--out", str(tmp_path / "out"), *more]
        assert main(words) == 2
        said = one_line(capsys)
        assert f"{name}.yaml: runs keep something else in" in said and "another name" in said
    assert not (tmp_path / "out").exists()


def test_the_large_size_needs_data_and_a_model(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["table", "gnn", "--size", "paper"]) == 2
    assert "--data is missing: give the folder" in one_line(capsys)
    (tmp_path / "official").mkdir()
    assert main(["table", "gnn", "--size", "paper", "--data", "official"]) == 2
    assert "official/vqa2: no such folder" in one_line(capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["official"]
