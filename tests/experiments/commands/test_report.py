"""The command `attngraph report`."""

from experiments.cli import main
from tests.experiments.tables.made import save_table

FILES = {"report.html", "run.json"}


def names(folder):
    return {file.name for file in folder.iterdir()}


def test_a_report_is_written_and_written_again(tmp_path, capsys):
    table, out = save_table(tmp_path / "table"), tmp_path / "out"
    words = ["report", str(table), "--out", str(out)]
    assert main(words) == 0
    assert names(out) == FILES and "8 finished runs in 1 table" in capsys.readouterr().out
    (out / "notes.txt").write_text("mine")
    assert main(words) == 0
    assert names(out) == {*FILES, "notes.txt"}
    assert (out / "notes.txt").read_text() == "mine"


def test_foreign_files_and_other_reports_are_left_alone(tmp_path, capsys):
    table, out = save_table(tmp_path / "table", seeds=(0,), tasks=("ve",)), tmp_path / "out"
    out.mkdir()
    (out / "report.html").write_text("mine")
    assert main(["report", str(table), "--out", str(out)]) == 2
    assert names(out) == {"report.html"} and "report.html" in capsys.readouterr().err
    (out / "report.html").unlink()
    assert main(["report", str(table), "--out", str(out)]) == 0
    assert main(["report", str(table), "--baseline", "pgnn", "--out", str(out)]) == 2
    assert "other baseline" in capsys.readouterr().err
    assert main(["report", str(table), "--out", str(table)]) == 0, "beside what the table has"


def test_what_fails_leaves_nothing_and_says_one_line(tmp_path, capsys, monkeypatch):
    """A damaged run, and too little memory."""
    table, out = save_table(tmp_path / "table", seeds=(0,), tasks=("ve",)), tmp_path / "out"
    file = table / "cells" / "gcn" / "ve" / "seed0" / "config.json"
    content = file.read_text()
    file.write_text("{")
    assert main(["report", str(table), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "config.json is damaged" in error and not out.exists()

    def too_much(figure):
        raise MemoryError

    file.write_text(content)
    monkeypatch.setattr("experiments.tables.figure.png", too_much)
    assert main(["report", str(table), "--out", str(out)]) == 2
    assert "attngraph: there is not enough memory" in capsys.readouterr().err and not out.exists()
