"""attngraph significance: p values from cells and archives, packing, restoring, simulating."""

import json

import pandas as pd
import pytest

from experiments.cli import main
from experiments.report import simulation
from experiments.report.comparison import compare_with_baseline
from experiments.report.recomputed import saved_runs
from experiments.report.simulation import Study, simulate
from experiments.tasks import TASKS
from tests.experiments.report.made import save_cells


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


def test_archives_give_the_same_and_a_table_goes_on_from_them(run, tmp_path, capsys):
    archives, again = tmp_path / "archives", tmp_path / "again"
    outputs = []
    for words in (
        [run],
        [run, "--pack", "--out", archives],
        [archives],
        [archives, "--restore", "--out", again],
        [again],
    ):
        assert main(["significance", *map(str, words)]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[2] == outputs[4]
    assert "6 archives" in outputs[1] and "48 cells of 6 archives are new" in outputs[3]
    config = json.loads((again / "cells/pgnn/ve/seed5/config.json").read_text())
    assert config == json.loads((run / "cells/pgnn/ve/seed5/config.json").read_text())


def test_a_score_that_one_run_lacks_is_no_column(tmp_path, capsys):
    run = save_cells(tmp_path / "run", {"caption": TASKS["caption"]}, seeds=(0,))
    file = run / "cells" / "pgnn" / "caption" / "seed0" / "scores.json"
    result = json.loads(file.read_text())
    del result["scores"]["caption.scene"]
    file.write_text(json.dumps(result))
    assert main(["significance", str(run)]) == 0
    text = capsys.readouterr().out
    assert "CIDEr" in text and "Scene F1" not in text


def test_a_folder_of_another_command_is_refused_before_anything_is_computed(run, tmp_path, capsys):
    assert main(["significance", str(run), "--out", str(tmp_path / "out")]) == 0
    capsys.readouterr()
    assert main(["significance", str(run), "--rows", "rate", "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr()
    assert said.out == "" and "holds another experiment (other rows)" in said.err


def test_one_seed_says_what_it_speaks_for(tmp_path, capsys):
    run = save_cells(tmp_path / "run", {"vqa": TASKS["vqa"]}, seeds=(0,))
    assert main(["significance", str(run)]) == 0
    assert "speak for new images with these very training runs" in capsys.readouterr().out


def few():
    """A study of each kind."""
    yield Study("seeds", 5, 1, s=1.0, e=0.2, n=0.3)
    yield Study("images", 1, 1, e=0.5, n=0.5, images=60, kind="right or wrong")
    yield Study("all", 6, 3, c=0.2, s=0.2, e=0.5, f=0.3, n=0.5, images=60, kind="mean of columns")
    yield Study("power", 21, 3, s=0.3, e=0.15, n=0.45, images=3200, gain=0.9)


def test_a_simulation_is_written_and_is_the_same_again(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(simulation, "studies", few)
    texts = []
    for _ in range(2):
        words = ["significance", "--simulate", "--seed", "3", "--runs", "400", "--out", str(tmp_path / "out")]
        assert main(words) == 0
        texts.append((tmp_path / "out" / "simulation.md").read_text())
    assert texts[0] == texts[1] and texts[0] in capsys.readouterr().out
    assert "--simulate --seed 3 --runs 400" in texts[0] and "**Power**" in texts[0]
    frame = pd.read_csv(tmp_path / "out" / "simulation.csv")
    assert list(frame["runs"]) == [400, 20, 20, 400]
    seeds, images, new, power = (line for _, line in frame.iterrows())
    assert seeds["these p < 0.05"] == pytest.approx(1 - seeds["these coverage"])
    assert pd.isna(seeds["new p < 0.05"])
    assert images["these p < 0.05"] <= 0.3 and pd.isna(new["these p < 0.05"])
    assert power["these p < 0.05"] > 0.9 > 0.5 > power["new p < 0.00125"]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_all_studies_hold_their_level():
    """Type-I error at 0.05 and at Holm's smallest level, within what chance allows."""
    frame = simulate(4000, seed=1)
    null = frame[frame["gain"] == 0]
    for name in ("these", "new"):
        for level in simulation.LEVELS:
            share = null[f"{name} p < {level:.5g}"]
            runs = null["runs"][share.notna()]
            allowed = 1.06 * level + 3.5 * (level / runs) ** 0.5
            assert (share.dropna() <= allowed).all(), null[share > allowed]
    plain = null[(null["seeds"] == 5) & (null["checkpoints"] == 1)]["plain p < 0.00125"]
    assert plain.max() > 0.003, "where seeds decide, the plain rule gives false alarms"
