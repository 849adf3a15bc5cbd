"""attngraph significance: p values from cells and archives."""

import pandas as pd
import pytest

from attngraph.experiments.cli import main
from attngraph.experiments.tables.compare import holm, recompute
from attngraph.experiments.tables.runs import saved_runs
from tests.experiments.tables.made import save_cells, write_archives


@pytest.fixture
def run(tmp_path):
    """A run folder with four rows, six seeds and three checkpoints."""
    rows = ("gcn", "appnp", "pgnn", "rate")
    return save_cells(tmp_path / "run", rows=rows, seeds=range(6), checkpoints=3)


def test_every_comparison_of_the_table_also_from_archives(run, tmp_path, capsys):
    assert main(["significance", str(run), "--out", str(tmp_path / "out")]) == 0
    text = capsys.readouterr().out
    assert "new seeds and images with these 3 checkpoints" in text
    with saved_runs(run) as runs:
        lines, _ = recompute(runs, ["gcn"])
    frame = pd.read_csv(tmp_path / "out" / "significance.csv")
    assert list(frame["p_holm"]) == pytest.approx([line["p_holm"] for line in lines])
    assert set(frame["row"]) == {"APPNP", "pGNN"} and set(frame["column"]) >= {"vqa.accuracy", "avg"}
    for line in lines:
        assert f"{line['p']:.4f}" in text and f"{line['new_p_holm']:.3f}" in text
    markdown = (tmp_path / "out" / "significance.md").read_text()
    assert "**Significance.**" in markdown and "| pGNN − GCN | VE acc |" in markdown
    figures = {
        path.suffix for path in (tmp_path / "out").glob("significance.*") if path.stat().st_size > 5000
    }
    assert figures >= {".png", ".svg", ".pdf"}
    write_archives(run, tmp_path / "archives")
    assert main(["significance", str(tmp_path / "archives")]) == 0
    assert capsys.readouterr().out == text


def test_a_margin_adds_tests_of_equivalence(run, tmp_path, capsys):
    assert main(["significance", str(run), "--margin", "30", "--out", str(tmp_path / "out")]) == 0
    text = capsys.readouterr().out
    with saved_runs(run) as runs:
        lines, _ = recompute(runs, ["gcn"], margin=0.3)
        plain, _ = recompute(runs, ["gcn"])
    for name in ("equivalent_p", "new_equivalent_p"):
        corrected = holm([line[name] for line in lines])
        assert [line[f"{name}_holm"] for line in lines] == pytest.approx(corrected)
        assert all(f"{line[name]:.4f}" in text for line in lines)
    assert "New checkpoints: equivalent within ± 30: p" in text
    assert all(line.items() <= more.items() for line, more in zip(plain, lines)), "nothing else changes"
    assert main(["significance", str(run), "--margin", "0"]) == 2
    assert "--margin must be above 0" in capsys.readouterr().err


def test_pairs_of_rows(run, capsys):
    words = ["--baseline", "pgnn,gcn", "--rows", "rate,pgnn", "--columns", "ve.accuracy,avg"]
    assert main(["significance", str(run), *words]) == 0
    lines = capsys.readouterr().out.splitlines()[3:]
    pairs = ["Learning rate alone − pGNN", "Learning rate alone − GCN", "pGNN − GCN"]
    assert [line.split("  ")[0] for line in lines] == [pair for pair in pairs for _ in range(2)]
    for words, said in ((["--rows", "nobody"], "unknown row"), (["--columns", "vqa"], "unknown column")):
        assert main(["significance", str(run), *words]) == 2
        assert said in capsys.readouterr().err
