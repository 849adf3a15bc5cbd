"""The command on tiny sizes: what it writes, and that it goes on where it was."""

import shutil
from fractions import Fraction

import pandas as pd
import pytest

from experiments.cli import main
from experiments.commands import planted
from experiments.planted.rows import ROWS
from experiments.planted.study import COLUMNS, Study
from experiments.planted.training import Budget

TINY = Study(
    ratios=(Fraction(1),),
    masses=(0.25, 0.5),
    contrasts=(-0.9, 0.9),
    rates=(0.01, 0.03),
    budget=Budget(steps=3, batch=2, scored=2),
)


@pytest.fixture(scope="module", autouse=True)
def tiny():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planted, "QUICK", TINY)
        yield


def words(out, *more: str) -> list[str]:
    return ["planted", "--quick", "--seeds", "2", "--out", str(out), *more]


def test_it_runs_and_goes_on(tmp_path, capsys, monkeypatch):
    assert main(words(tmp_path)) == 0
    assert {file.name for file in tmp_path.iterdir()} == {*planted.NAMES, "run.json"}
    runs = pd.read_csv(tmp_path / "planted.csv")
    assert tuple(runs.columns) == COLUMNS
    assert len(runs) == len(ROWS) * 2 * 2 * 2 * 2  # rates, masses, contrasts, seeds
    assert runs.groupby("row").p.count().loc["gcn"] == 0 < runs.groupby("row").p.count().loc["pgnn"]
    assert (runs.measured * runs.contrast > 0).all()
    assert len(pd.read_csv(tmp_path / "conditions.csv")) == 4
    assert (tmp_path / "planted.png").stat().st_size > 20_000
    shown = capsys.readouterr().out
    assert (tmp_path / "planted.txt").read_text() in shown and "4 conditions" in shown

    whole = (tmp_path / "planted.csv").read_bytes()
    runs[runs.mass == 0.25].to_csv(tmp_path / "planted.csv", index=False)
    trained = []
    real = planted.run_part
    monkeypatch.setattr(planted, "run_part", lambda *args: (trained.append(args[1:3]), real(*args))[1])
    assert main(words(tmp_path)) == 0
    assert trained == [(Fraction(1), 0.5)]
    assert (tmp_path / "planted.csv").read_bytes() == whole


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of a finished study."""
    out = tmp_path_factory.mktemp("planted")
    assert main(words(out)) == 0
    return out


@pytest.fixture
def finished(made, tmp_path):
    """A copy of it."""
    return shutil.copytree(made, tmp_path, dirs_exist_ok=True)


def test_other_settings_need_another_folder(finished, capsys):
    assert main(words(finished, "--join", "blend")) == 2
    assert "other join" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content", ["", "ratio,mass\n1,2\n", "\0", ",".join(COLUMNS) + "\n" + "x," * 9 + "x\n"]
)
def test_damaged_runs_are_one_line(finished, capsys, content):
    (finished / "planted.csv").write_text(content)
    capsys.readouterr()
    assert main(words(finished)) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"{finished}/planted.csv cannot be read as runs" in error and "give another --out" in error
