"""The command `attngraph report`."""

from experiments.cli import main
from tests.experiments.tables.made import save_table

FILES = {"report.html", "report.md", "report-1-scores.png", "report-1-ve.png", "report-1-vqa.png", "run.json"}


def names(folder):
    return {file.name for file in folder.iterdir()}


def test_a_report_is_written_and_written_again(tmp_path, capsys):
    table, out = save_table(tmp_path / "table"), tmp_path / "out"
    words = ["report", str(table), "--out", str(out)]
    assert main(words) == 0
    assert names(out) == FILES and "8 finished runs in 1 table" in capsys.readouterr().out
    first = {file.name: file.read_bytes() for file in out.iterdir()}
    (out / "notes.txt").write_text("mine")
    for file in table.glob("cells/*/*/*/*.csv"):
        file.unlink()
    assert main(words) == 0
    assert names(out) == {"report.html", "report.md", "report-1-scores.png", "run.json", "notes.txt"}
    assert (out / "report-1-scores.png").read_bytes() == first["report-1-scores.png"]
    assert (out / "notes.txt").read_text() == "mine"


def test_foreign_files_and_other_reports_are_left_alone(tmp_path, capsys):
    table, out = save_table(tmp_path / "table", seeds=(0,), tasks=("ve",)), tmp_path / "out"
    out.mkdir()
    (out / "report.md").write_text("mine")
    assert main(["report", str(table), "--out", str(out)]) == 2
    assert names(out) == {"report.md"} and "report.md" in capsys.readouterr().err
    (out / "report.md").unlink()
    assert main(["report", str(table), "--out", str(out)]) == 0
    assert main(["report", str(table), "--baseline", "gcn", "--out", str(out)]) == 2
    assert "other baseline" in capsys.readouterr().err
    assert main(["report", str(table), "--out", str(table)]) == 2


def test_what_fails_leaves_nothing_and_says_one_line(tmp_path, capsys, monkeypatch):
    """A damaged curve, and too little memory."""
    table, out = save_table(tmp_path / "table", seeds=(0,), tasks=("ve",)), tmp_path / "out"
    curve = table / "cells" / "gcn" / "ve" / "seed0" / "metrics.csv"
    content = curve.read_text()
    curve.write_text("step,loss\n1,\x00\n")
    assert main(["report", str(table), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "metrics.csv is damaged" in error and not out.exists()

    def too_much(figure):
        raise MemoryError

    curve.write_text(content)
    monkeypatch.setattr("experiments.tables.figure.png", too_much)
    assert main(["report", str(table), "--out", str(out)]) == 2
    assert "attngraph: there is not enough memory" in capsys.readouterr().err and not out.exists()
