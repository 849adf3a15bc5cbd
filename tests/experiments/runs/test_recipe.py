"""Recipes: the schedule of the learning rate, values out of range, batches over processes and passes."""

import math
from dataclasses import replace

import pytest

from attngraph.errors import UserError
from experiments.runs.recipe import Recipe


def test_the_learning_rate_rises_and_falls_linearly():
    recipe = Recipe(1.0, 100, warmup=0.1)
    rates = [recipe.factor(step) for step in range(100)]
    assert (
        rates[0] == pytest.approx(0.1) and max(rates) == pytest.approx(1.0) and rates[9] == pytest.approx(1.0)
    )
    assert rates[99] == pytest.approx(1 / 90)
    assert rates[9:] == sorted(rates[9:], reverse=True)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_short_runs_have_a_rate_in_every_step(steps):
    recipe = Recipe(1.0, steps)
    assert all(0 < recipe.factor(step) <= 1 for step in range(steps))


@pytest.mark.parametrize(
    "wrong",
    [
        {"learning_rate": 0.0, "steps": 1},
        {"learning_rate": 1.0, "steps": 0},
        {"learning_rate": float("nan"), "steps": 1},
        {"learning_rate": 1.0, "steps": 1, "batch_size": 0},
        {"learning_rate": 1.0, "steps": 1, "accumulation": 0},
    ],
)
def test_recipes_out_of_range(wrong):
    with pytest.raises(UserError, match="must be above 0"):
        Recipe(**wrong)


@pytest.mark.parametrize(
    "processes, accumulation, examples, size", [(1, 1, 99, 8), (2, 2, 99, 2), (2, 1, 6, 3)]
)
def test_a_batch_is_divided_evenly(processes, accumulation, examples, size):
    recipe = Recipe(1.0, 1, batch_size=8, accumulation=accumulation)
    assert recipe.per_process(processes, examples) == size


def test_a_batch_that_cannot_be_divided_is_refused():
    with pytest.raises(UserError, match="8 examples can't be divided among 3 processes and 1 passes"):
        Recipe(1.0, 1, batch_size=8).per_process(3, 99)


def test_what_is_off_is_not_said():
    """Runs from before pictures could be changed are the same runs still: these are their settings."""
    assert Recipe(1e-3, 250).description() == {
        "learning_rate": 1e-3,
        "steps": 250,
        "batch_size": 64,
        "accumulation": 1,
        "warmup": 0.06,
        "weight_decay": 0.05,
        "label_smoothing": 0.1,
        "clip": 1.0,
    }
    changed = Recipe(1e-3, 250, augment=True).description()
    assert changed.pop("augment") is True and changed == Recipe(1e-3, 250).description()


def test_cosine_schedule():
    recipe = Recipe(1e-3, steps=110, warmup=10 / 110, schedule="cosine")
    factors = [recipe.factor(step) for step in range(110)]
    assert factors[:10] == pytest.approx([(k + 1) / 10 for k in range(10)])
    expected = [(1 + math.cos(math.pi * k / 100)) / 2 for k in range(100)]
    assert factors[10:] == pytest.approx(expected)
    linear = [replace(recipe, schedule="linear").factor(step) for step in range(110)]
    assert linear[10:] == pytest.approx([1 - k / 100 for k in range(100)])


def test_defaults_leave_the_description_of_earlier_runs():
    names = "learning_rate steps batch_size accumulation warmup weight_decay label_smoothing clip"
    assert list(Recipe(1e-3, 10).description()) == names.split()
    changed = Recipe(1e-3, 10, schedule="cosine", validate_every=5, patience=2, checkpointing=True)
    added = {"schedule": "cosine", "validate_every": 5, "patience": 2, "checkpointing": True}
    assert changed.description() == {**Recipe(1e-3, 10).description(), **added}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"schedule": "cosin"}, "unknown schedule 'cosin': choose from linear, cosine"),
        ({"precision": "int8"}, "unknown precision"),
        ({"patience": 2}, "patience counts validations"),
        ({"validate_every": 0}, "validate_every must be above 0"),
    ],
)
def test_wrong_options(options, words):
    with pytest.raises(UserError, match=words):
        Recipe(1e-3, 10, **options)
