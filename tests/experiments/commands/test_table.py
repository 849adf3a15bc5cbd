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
    assert "2 of 3 cells are finished already" in capsys.readouterr().err
    after = times(made)
    for path, time in before.items():
        if path.relative_to(made).parts[0] in ("cells", "data", "first"):
            assert after[path] == time, f"{path} was written again"
    new = {path.relative_to(made).parts[:2] for path in after.keys() - before.keys()}
    assert {part for part in new if part[0] not in ("second", "image-states")} == {("cells", "lora")}
    assert ("second", "second.txt") in new


def test_a_table_is_not_replaced_by_a_smaller_one(made, files, capsys):
    before = times(made)
    for more in (["--rows", "gcn"], ["--seeds", "1"], ["--tasks", "coco"]):
        assert main(words(files, "first", "--out", made, *more)) == 2
        assert "holds a table with" in one_line(capsys)
    assert times(made) == before


def test_a_dry_run_lists_the_runs_and_writes_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, size in (("main", "scenes"), ("width", "paper")):
        assert main(["table", name, "--size", size, "--dry-run"]) == 0
        *cells, empty, total = capsys.readouterr().out.splitlines()
        table = load_table(name, size)
        frozen = "frozen" in table.counts
        count = len(table.tasks) * ((len(table.counts) - frozen) * table.seeds + frozen)
        assert len(cells) == count and empty == "" and total.startswith(f"{count} cells, ")
        assert total.endswith(" examples to train on")
    assert not any(tmp_path.iterdir())


def test_what_is_refused_leaves_nothing(files, tmp_path, capsys, monkeypatch):
    """The name of a folder that tables share; the large size without data or a model."""
    monkeypatch.chdir(tmp_path)
    (files / "data.yaml").write_text((files / "first.yaml").read_text())
    (tmp_path / "official").mkdir()
    for words, said in (
        ([str(files / "data.yaml")], "data.yaml: runs keep something else in"),
        (["gnn", "--size", "paper"], "--data is missing: give the folder"),
        (["gnn", "--size", "paper", "--data", "official"], "official/vqa2: no such folder"),
    ):
        assert main(["table", *words]) == 2
        assert said in one_line(capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["official"]
