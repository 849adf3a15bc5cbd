"""Sweeps of learning rates: what is tried, what is chosen, and that nothing but validation data is scored."""

from pathlib import Path

import pytest

from attngraph.errors import UserError
from experiments.methods import METHODS, GraphAdapter
from experiments.runs.cells import Cell
from experiments.runs.experiment import Recipe
from experiments.tables.grid import Grid, load_table, names_of
from experiments.tables.sweep import alike, best, beyond, chosen_rates, sweep

GRID = {"gcn": [5e-3, 1e-2, 2e-2], "pgnn": [5e-3, 1e-2, 2e-2]}


def cell(method="gcn", task="vqa2", rate=1e-2, **settings):
    return Cell(method, method, settings, task, 0, Recipe(rate, 10), Path("data"))


def peak_at(place):
    """Runs cells whose score falls with the distance of their rate from a place; remembers them."""
    seen = []

    def run(cells):
        seen.append(cells)
        scores = {c: {"scores": {"vqa2.accuracy": -abs(c.recipe.learning_rate - place)}} for c in cells}
        return scores

    return run, seen


def test_a_best_rate_inside_ends_the_sweep():
    run, seen = peak_at(1e-2)
    tried = sweep([cell()], GRID, run)
    assert [one.rate for one in tried] == [5e-3, 1e-2, 2e-2] and len(seen) == 1
    assert chosen_rates([cell()], tried, 4).choice("gcn", "vqa2").learning_rate == 1e-2
    assert {c.split for c in seen[0]} == {"validation"} and len({c.label for c in seen[0]}) == 3


@pytest.mark.parametrize(
    ("place", "rates"), [(3e-2, [5e-3, 1e-2, 2e-2, 4e-2]), (1.0, [5e-3, 1e-2, 2e-2, 4e-2, 8e-2])]
)
def test_a_best_rate_at_the_edge_is_followed(place, rates):
    run, seen = peak_at(place)
    tried = sweep([cell()], GRID, run)
    assert [one.rate for one in tried] == rates
    assert all(len(cells) == 1 for cells in seen[1:])


def test_the_lower_edge_is_followed_too():
    run, _ = peak_at(0.0)
    tried = sweep([cell()], {"gcn": [5e-3, 1e-2]}, run)
    assert [one.rate for one in tried] == [1.3e-3, 2.5e-3, 5e-3, 1e-2]


def test_a_diverged_rate_is_never_chosen():
    run, _ = peak_at(4e-2)
    tried = sweep([cell()], {"gcn": [1e-2, 2e-2, 4e-2]}, lambda cells: dict(list(run(cells).items())[:2]))
    assert tried[2].rate == 4e-2 and tried[2].score == float("-inf")
    assert chosen_rates([cell()], tried, 4).choice("gcn", "vqa2").learning_rate == 2e-2


def test_of_equals_the_smallest():
    assert best({3.0: 1.0, 1.0: 1.0, 2.0: 0.5}) == 1.0
    assert beyond({1.0: 0.1, 2.0: 0.3, 4.0: 0.2}) is None and beyond({1.0: 0.5}) is None


def test_everything_else_stays():
    adapter = cell("pgnn", join="gated", gnn_args={"p": 1.5, "mu": 0.1}, reduction=8)
    run, _ = peak_at(1e-2)
    settings = chosen_rates([adapter], sweep([adapter], GRID, run), 8)
    choice = settings.choice("pgnn", "vqa2")
    assert (choice.join, choice.arguments, settings.reduction) == ("gated", {"p": 1.5, "mu": 0.1}, 8)
    assert settings.choice("pgnn", "vizwiz_vqa") == choice and settings.choice("pgnn", "coco") is None


def test_tasks_that_were_not_swept_take_their_likes():
    assert alike({"vqa2": 1, "coco": 1}) == {
        "vizwiz_vqa": "vqa2",
        "textcaps": "coco",
        "vizwiz_caps": "coco",
    }
    assert "vizwiz_vqa" not in alike({"vqa2": 1, "vizwiz_vqa": 1})


def test_all_adapters_begin_with_the_same_rates():
    """Else two rows could end on different hills of a curve that has several."""
    for name in names_of("size"):
        size = load_table("main", name)
        adapters = [method for method in METHODS.values() if isinstance(method, GraphAdapter)]
        assert len({tuple(size.rates_of(method)) for method in adapters}) == 1
        for method in ("full", "decoder", "lora", "prefix"):
            assert len(size.rates_of(METHODS[method])) >= 3
        assert size.rates_of(METHODS["full"]) == size.rates_of(METHODS["decoder"])


def test_a_method_without_rates_is_named():
    with pytest.raises(UserError, match="names no rates for prefix: add rates"):
        Grid(about="", seeds={"gcn": 1}, rates={"adapters": [1e-3, 1e-2]}).rates_of(METHODS["prefix"])
