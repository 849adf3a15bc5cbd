"""attngraph significance: p values from cells and archives."""

import pandas as pd
import pytest

from experiments.cli import main
from experiments.tables.compare import compare_with_baseline
from experiments.tables.runs import saved_runs
from experiments.tasks import TASKS
from tests.experiments.tables.made import save_cells, write_archives


@pytest.fixture
def run(tmp_path):
    """A run folder with three rows, six seeds and three checkpoints."""
    tasks = {name: TASKS[name] for name in ("vqa", "ve")}
    rows = ("gcn", "appnp", "pgnn", "rate")
    return save_cells(tmp_path / "run", tasks, rows=rows, seeds=range(6), checkpoints=3)


def test_every_comparison_of_the_table(run, tmp_path, capsys):
    assert main(["significance", str(run), "--out", str(tmp_path / "out")]) == 0
    text = capsys.readouterr().out
    assert "new seeds and images with these 3 checkpoints" in text
    with saved_runs(run) as runs:
        lines = compare_with_baseline(runs, {name: TASKS[name] for name in ("vqa", "ve")})
    frame = pd.read_csv(tmp_path / "out" / "significance.csv")
    assert list(frame["p_holm"]) == pytest.approx([line["p_holm"] for line in lines])
    assert set(frame["row"]) == {"APPNP", "pGNN"} and set(frame["column"]) >= {"vqa.accuracy", "avg"}
    for line in lines:
        assert f"{line['p']:.4f}" in text and f"{line['new_p_holm']:.3f}" in text
    markdown = (tmp_path / "out" / "significance.md").read_text()
    assert "**Significance.**" in markdown and "| pGNN − GCN | VE acc |" in markdown
    assert main(["significance", str(run), "--out", str(tmp_path / "out")]) == 0, "a second time"


def test_pairs_of_rows(run, capsys):
    words = ["--baseline", "pgnn,gcn", "--rows", "rate,pgnn", "--columns", "ve.accuracy,avg"]
    assert main(["significance", str(run), *words]) == 0
    lines = capsys.readouterr().out.splitlines()[3:]
    pairs = ["Learning rate alone − pGNN", "Learning rate alone − GCN", "pGNN − GCN"]
    assert [line.split("  ")[0] for line in lines] == [pair for pair in pairs for _ in range(2)]
    assert {"VE acc", "Avg"} == {line.split("  ")[1].strip() or line.split()[4] for line in lines[:2]}


def test_archives_give_the_same(run, tmp_path, capsys):
    write_archives(run, tmp_path / "archives")
    outputs = []
    for folder in (run, tmp_path / "archives"):
        assert main(["significance", str(folder)]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]


def test_one_seed_says_what_it_speaks_for(tmp_path, capsys):
    run = save_cells(tmp_path / "run", {"vqa": TASKS["vqa"]}, seeds=(0,))
    assert main(["significance", str(run)]) == 0
    assert "speak for new images with these very training runs" in capsys.readouterr().out
