"""Stacked training is the training of each run alone, and learns what there is to learn."""

from fractions import Fraction

import pytest
import torch

from experiments.planted.rows import ROWS, WITHOUT, Row
from experiments.planted.training import Budget, Data, train

RATIO = Fraction(1)
TINY = Budget(steps=4, batch=2, scored=4)


@pytest.mark.parametrize("join", ["replace", "blend"])
@pytest.mark.parametrize("name", ["gcnii", "pgnn"])
def test_stacking_changes_no_run(name, join):
    together = train(ROWS[name], join, 0.05, [-0.9, 0.3], Data.of([0, 5], RATIO, 0.5, TINY), TINY)
    alone = train(ROWS[name], join, 0.05, [0.3], Data.of([5], RATIO, 0.5, TINY), TINY)
    for field in ("validation", "test", "p"):
        torch.testing.assert_close(
            getattr(together, field)[1:, 1:], getattr(alone, field), equal_nan=True, rtol=1e-4, atol=1e-5
        )
    assert (name == "pgnn") == bool(together.p.isfinite().all())


def test_the_same_seed_gives_the_same_numbers():
    first, second = (
        train(ROWS["pgnn"], "replace", 0.05, [0.9], Data.of([1], RATIO, 0.5, TINY), TINY) for _ in range(2)
    )
    assert torch.equal(first.test, second.test) and torch.equal(first.p, second.p)


def test_p_moves_as_theory_says():
    budget = Budget(steps=40, batch=6, scored=20)
    runs = train(ROWS["pgnn"], "replace", 0.03, [-0.9, 0.9], Data.of([0, 1], RATIO, 0.5, budget), budget)
    assert (runs.p[:, 0] > 2).all() and (runs.p[:, 1] < 1.3).all()
    assert (runs.test[:, 1] > runs.test[:, 0]).all() and runs.test.min() > 2 / 8


def test_rows():
    assert not any(ROWS[name].uses_distance for name in WITHOUT) and "placebo" not in WITHOUT
    assert all(row.make().name == row.scheme for row in ROWS.values())
    assert Row("", "pgnn", {"p": 2, "learn_p": False}).make().learned() == {}
