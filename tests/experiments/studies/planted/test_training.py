"""Stacked training is the training of each run alone, and learns what there is to learn."""

from dataclasses import replace
from fractions import Fraction

import pandas as pd
import pytest
import torch

from experiments.cli import main
from experiments.commands import planted
from experiments.studies.planted.study import COLUMNS, ROWS, WITHOUT, Row, Study, drawn, train

TINY = Study(ratios=(Fraction(1),), masses=(0.5,), contrasts=(-0.9, 0.3), steps=4, batch=2, scored=4)


def trained(study: Study, name: str, rate: float, seeds) -> dict[str, torch.Tensor]:
    return train(study, ROWS[name], rate, drawn(study, Fraction(1), 0.5, seeds), seeds)


@pytest.mark.parametrize("name, join", [("gcnii", "replace"), ("pgnn", "blend")])
def test_stacking_changes_no_run(name, join):
    study = replace(TINY, join=join)
    together = trained(study, name, 0.05, [0, 5])
    alone = trained(replace(study, contrasts=(0.3,)), name, 0.05, [5])
    for field, value in alone.items():
        torch.testing.assert_close(together[field][1:, 1:], value, equal_nan=True, rtol=1e-4, atol=1e-5)
    assert (name == "pgnn") == bool(together["p"].isfinite().all())


def test_p_moves_as_theory_says():
    study = replace(TINY, contrasts=(-0.9, 0.9), steps=40, batch=6, scored=20)
    runs = trained(study, "pgnn", 0.03, [0, 1])
    assert (runs["p"][:, 0] > 2).all() and (runs["p"][:, 1] < 1.3).all()
    assert (runs["test"][:, 1] > runs["test"][:, 0]).all() and runs["test"].min() > 2 / 8


def test_rows():
    assert not any(ROWS[name].uses_distance for name in WITHOUT) and "placebo" not in WITHOUT
    assert all(row.make().name == row.scheme for row in ROWS.values())
    assert Row("", "pgnn", {"p": 2, "learn_p": False}).make().learned() == {}


def test_the_command(tmp_path, capsys, monkeypatch):
    """What it writes; other settings need another folder."""
    tiny = replace(TINY, masses=(0.25, 0.5), contrasts=(-0.9, 0.9), rates=(0.01, 0.03), steps=3, scored=2)
    monkeypatch.setattr(planted, "QUICK", tiny)
    words = ["planted", "--quick", "--seeds", "2", "--out", str(tmp_path)]
    assert main(words) == 0
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
    assert main([*words, "--join", "blend"]) == 2
    assert "other join" in capsys.readouterr().err
