"""The command `attngraph report`."""

from experiments.cli import main
from tests.experiments.report.overview.small import save_table

FILES = {"report.html", "report.md", "report-1-scores.png", "report-1-ve.png", "report-1-vqa.png", "run.json"}


def names(folder):
    return {file.name for file in folder.iterdir()}


def test_a_report_is_written_and_written_again(tmp_path, capsys):
    table, out = save_table(tmp_path / "table"), tmp_path / "out"
    words = ["report", str(table), "--out", str(out)]
    assert main(words) == 0
    assert names(out) == FILES and "8 finished runs in 1 table" in capsys.readouterr().out
    first = {file.name: file.read_bytes() for file in out.iterdir()}
    assert main(words) == 0
    assert {file.name: file.read_bytes() for file in out.iterdir()} == first

    (out / "notes.txt").write_text("mine")
    for file in table.glob("cells/*/*/*/*.csv"):
        file.unlink()
    assert main(words) == 0
    assert names(out) == {"report.html", "report.md", "report-1-scores.png", "run.json", "notes.txt"}
    assert (out / "notes.txt").read_text() == "mine"


def test_foreign_files_and_other_reports_are_left_alone(tmp_path, capsys):
    table, out = save_table(tmp_path / "table"), tmp_path / "out"
    out.mkdir()
    (out / "report.md").write_text("mine")
    assert main(["report", str(table), "--out", str(out)]) == 2
    assert names(out) == {"report.md"} and "report.md" in capsys.readouterr().err
    (out / "report.md").unlink()
    assert main(["report", str(table), "--out", str(out)]) == 0
    assert main(["report", str(table), "--title", "Other", "--out", str(out)]) == 2
    assert "other title" in capsys.readouterr().err
    assert main(["report", str(table), "--out", str(table)]) == 2


def test_a_damaged_curve_leaves_nothing(tmp_path, capsys):
    table, out = save_table(tmp_path / "table"), tmp_path / "out"
    (table / "cells" / "gcn" / "ve" / "seed0" / "metrics.csv").write_text("step,loss\n1,\x00\n")
    assert main(["report", str(table), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "metrics.csv is damaged" in error and not out.exists()
