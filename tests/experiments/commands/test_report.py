"""The command `attngraph report`."""

from unittest.mock import Mock

from attngraph.experiments.cli import main
from tests.experiments.tables.made import save_cells


def names(folder):
    return {file.name for file in folder.iterdir()}


def test_a_report_is_written_again_and_leaves_foreign_files_alone(tmp_path, capsys, monkeypatch):
    table, out = save_cells(tmp_path / "table", "ve", seeds=(0,)), tmp_path / "out"
    words = ["report", str(table), "--out", str(out)]
    out.mkdir()
    (out / "report.html").write_text("mine")
    assert main(words) == 2
    assert names(out) == {"report.html"} and "report.html" in capsys.readouterr().err
    (out / "report.html").rename(out / "notes.txt")
    for _ in range(2):
        assert main(words) == 0
        assert names(out) == {"notes.txt", "report.html", "run.json"}
        assert "Finished runs: 2, tables: 1" in capsys.readouterr().out
    assert (out / "notes.txt").read_text() == "mine"
    assert main([*words, "--baseline", "pgnn"]) == 2
    assert "other baseline" in capsys.readouterr().err
    assert main(["report", str(table), "--out", str(table)]) == 0, "beside what the table has"
    monkeypatch.chdir(table / "cells" / "gcn" / "ve")
    assert main(["report", "seed0", "--out", str(tmp_path / "one")]) == 0, "a run by a relative path"
    monkeypatch.setattr("attngraph.experiments.tables.figure.render", Mock(side_effect=MemoryError))
    assert main([*words[:-1], str(tmp_path / "other")]) == 2
    assert "attngraph: out of memory" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
