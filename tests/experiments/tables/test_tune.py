"""Sweeps and searches choose on validation data, with one budget for every GNN; the runs themselves are
replaced by a formula."""

import math
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from attngraph.errors import UserError
from attngraph.experiments.methods import METHODS
from attngraph.experiments.methods.settings import Choice, chosen_settings
from attngraph.experiments.runs.execution import Execution
from attngraph.experiments.tables import tune
from attngraph.experiments.tables.grid import Grid, load_preset
from attngraph.experiments.tables.plan import plan_table
from attngraph.experiments.tables.tune import (
    DIVERGED,
    JOINT,
    OTHERS,
    RATES,
    SECOND,
    Race,
    RaceLimits,
    Tuner,
    check_tuned,
    rate_beyond,
    search,
    search_grid,
    sweep,
)
from attngraph.experiments.tasks import TASKS
from tests.experiments.drawn import DRAWN

GNNS = ("gcn", "appnp", "gcnii", "pgnn")
#: Rows of attribution with fewer seeds in the table.
SECOND_RANK = {"p2", "residual", "mean_degree", "rescaled", "pgnn_replace", "pgnn_gated", "gcn_gated"}
BEST_RATE = {"gcn": 1e-2, "pgnn": 3e-2, "full": 1e-5}  # of all others 3e-3
TABLE = Grid(
    about="",
    seeds={"gcn": 1, "pgnn": 1, "frozen": 1},
    tasks=["vqa2"],
    scenes={"layouts": 10},
    rates={"adapters": [5e-3, 1e-2, 2e-2]},
)


class World:
    """A folder for trials whose results are a formula of their cells."""

    def __init__(self, out: Path, patch: pytest.MonkeyPatch, score, diverges=lambda cell: False):
        self.out, self.seen, self.score, self.diverges = out, [], score, diverges
        patch.setattr(tune, "run_cells", self.run_cells)
        patch.setattr(tune, "check_checkpoints", lambda *a: None)

    def run_cells(self, cells, execution, may_diverge):
        assert may_diverge and execution.out == self.out
        self.seen.extend(cells)
        return {cell: self.result(cell) for cell in cells if not self.diverges(cell)}

    def result(self, cell) -> dict:
        columns = [column.key for column in TASKS[cell.task].columns]
        return {"scores": {key: 0.1 if key.endswith("bleu4") else self.score(cell) for key in columns}}

    def tuner(self, grid: Grid, examples: int | None = None, **wanted) -> Tuner:
        plan = plan_table(grid, seeds=range(1), **wanted)
        return Tuner(grid, plan, Execution(self.out), examples=examples)


def rate_of(cell) -> float:
    return cell.recipe.learning_rate


# ---- a race ---------------------------------------------------------------------------------------------


def run_race(rates, budget, score) -> Race:
    race, scores = Race("gcn", "vqa", [Choice(learning_rate=rate) for rate in rates], budget), {}
    while todo := race.next(scores):
        scores.update({trial.key: score(trial) for trial in todo})
    race.scores = scores
    return race


@pytest.mark.parametrize(
    "rates, best, beyond",
    [
        ([1e-3, 3e-3], 3e-3, 1e-2),  # half powers of ten
        ([1e-3, 3e-3], 1e-3, 3e-4),
        ([1e-3, 3e-3, 1e-2], 3e-3, None),  # inside
        ([1.0, 3.0], 3.0, None),  # the grid ends
        ([5e-3, 1e-2], 1e-2, 2e-2),  # as far as the neighbour
        ([5e-3, 1e-2], 5e-3, 2.5e-3),
        ([5e-3], 5e-3, None),
    ],
)
def test_the_next_rate(rates, best, beyond):
    assert rate_beyond(rates, best) == beyond


def test_a_race_without_room_for_seeds_goes_on_with_its_winner_until_it_lies_inside():
    race = run_race(
        (1e-3, 3e-3, 1e-2),
        RaceLimits(4, 2, 9),
        lambda trial: -abs(math.log10(trial.choice.learning_rate) + 1),
    )
    assert [trial.choice.learning_rate for trial in race.tried] == [1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1]
    winner = race.best(race.scores)[0]
    assert winner.learning_rate == 1e-1 and race.beyond(winner) is None


def test_the_rate_beyond_a_winner_runs_with_the_winners_seeds():
    """Seed 1 makes the largest rate the best of the finalists, when the trials are spent."""
    better = {(1e-2, 1): 0.9, (3e-3, 0): 0.5, (1e-2, 0): 0.4}
    race = run_race(
        (1e-3, 3e-3, 1e-2),
        RaceLimits(7, 2, 9),
        lambda trial: better.get((trial.choice.learning_rate, trial.seed), 0.1),
    )
    last = [(trial.choice.learning_rate, trial.seed) for trial in race.tried[-3:]]
    assert last == [(3e-2, 0), (3e-2, 1), (3e-2, 2)]
    assert race.best(race.scores)[0].learning_rate == 1e-2


def test_races_end_where_everything_diverges_and_of_equals_the_smallest_rate_is_best():
    assert len(run_race((1e-3, 3e-3), RaceLimits(9, 2, 9), lambda trial: DIVERGED).tried) <= 9
    equal = run_race(
        (1e-3, 3e-3, 1e-2), RaceLimits(3), lambda trial: float(trial.choice.learning_rate < 1e-2)
    )
    assert equal.best(equal.scores)[0].learning_rate == 1e-3


# ---- a sweep --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "place, rates",
    [
        (1e-2, [5e-3, 1e-2, 2e-2]),
        (3e-2, [5e-3, 1e-2, 2e-2, 4e-2]),
        (1.0, [5e-3, 1e-2, 2e-2, 4e-2, 8e-2]),  # two more at most
        (0.0, [1.3e-3, 2.5e-3, 5e-3, 1e-2, 2e-2]),
    ],
)
def test_a_sweep_follows_a_best_rate_at_the_edge(place, rates, tmp_path, monkeypatch):
    world = World(tmp_path, monkeypatch, lambda cell: -abs(rate_of(cell) - place))
    tuner = world.tuner(TABLE, rows=["gcn", "frozen"])
    sweep(tuner)
    assert sorted(map(rate_of, world.seen)) == rates
    assert {cell.split for cell in world.seen} == {"validation"}
    assert {cell.label for cell in world.seen} == {f"gcn@{rate:g}" for rate in rates}
    best = min(rates, key=lambda rate: abs(rate - place))
    assert tuner.chosen().choice("gcn", "vqa2").learning_rate == best


def test_a_sweep_changes_rates_alone_and_never_chooses_one_that_diverged(tmp_path, monkeypatch):
    world = World(tmp_path, monkeypatch, rate_of, lambda cell: rate_of(cell) > 1e-2)
    tuner = world.tuner(TABLE)
    sweep(tuner)
    (planned,) = plan_table(TABLE, seeds=range(1)).rows["pgnn"]
    assert all(cell.settings == planned.settings for cell in world.seen if cell.method == "pgnn")
    settings = tuner.chosen()
    choice = settings.choice("pgnn", "vqa2")
    assert choice.learning_rate == 1e-2 and settings.reduction == 4
    assert (choice.join, choice.arguments) == (planned.settings["join"], planned.settings["gnn_args"])
    assert settings.choice("pgnn", "vizwiz_vqa") == choice and settings.choice("pgnn", "coco") is None
    tuner.save("sweep")
    assert chosen_settings(tmp_path / "settings.yaml") == settings
    report = (tmp_path / "sweep.md").read_text()
    assert "0.01: 1.0 (chosen)" in report and "0.02: diverged" in report
    assert "vizwiz_vqa uses the settings of vqa2" in report
    assert list(pd.read_csv(tmp_path / "sweep.csv")["rate"]) == [5e-3, 1e-2, 2e-2] * 2


def test_rates_of_a_row_without_any():
    assert TABLE.rates_of(METHODS["gcn"]) == TABLE.rates_of(METHODS["pgnn"]) == [5e-3, 1e-2, 2e-2]
    with pytest.raises(UserError, match="has no rates for prefix: add rates"):
        TABLE.rates_of(METHODS["prefix"])


def test_files_of_somebody_else_are_not_lost(tmp_path, monkeypatch):
    tuner = World(tmp_path, monkeypatch, rate_of).tuner(TABLE)
    sweep(tuner)
    tuner.save("sweep")
    check_tuned(tmp_path, "sweep", tuner.cells)
    (tmp_path / "sweep.csv").write_text("mine")
    with pytest.raises(UserError, match="not written by sweep: move it away"):
        check_tuned(tmp_path, "sweep", tuner.cells)


# ---- a grid of rates --------------------------------------------------------------------------------------


def test_rates_of_a_preset_run_with_all_seeds_and_an_edge_is_moved_for_every_row(tmp_path, monkeypatch):
    """gcn is best at the largest rate of vqa: all rows get the next one there, on vqa alone, and once."""

    def score(cell) -> float:
        noise = 0.3 * (cell.seed == 1) * (rate_of(cell) == 3e-3)  # one lucky seed loses to the mean
        at_edge = (cell.method, cell.task) == ("gcn", "vqa")
        return noise - abs(math.log10(rate_of(cell)) - (0 if at_edge else math.log10(1e-2)))

    world = World(tmp_path, monkeypatch, score)
    grid = Grid(
        about="",
        rows={"A": ["gcn", "pgnn"]},
        seeds=3,
        tasks=["vqa", "caption"],
        checkpoints=[7, 0],
        rates={"adapters": [3e-3, 1e-2, 3e-2]},
    )
    tuner = world.tuner(grid)
    search_grid(tuner)
    tried = Counter((cell.method, cell.task, rate_of(cell)) for cell in world.seen)
    both = {(method, rate) for method in ("gcn", "pgnn") for rate in (3e-3, 1e-2, 3e-2)}
    assert set(tried) == {
        *((method, task, rate) for method, rate in both for task in ("vqa", "caption")),
        ("gcn", "vqa", 1e-1),
        ("pgnn", "vqa", 1e-1),
    }
    assert set(tried.values()) == {3} and {cell.split for cell in world.seen} == {"validation"}
    dealt = {cell.seed: cell.model for cell in world.seen}
    assert dealt == {0: "runs/checkpoints/seed7", 1: None, 2: "runs/checkpoints/seed7"}
    chosen = tuner.chosen().methods
    rates = {(name, task): chosen[name][task].learning_rate for name in chosen for task in ("vqa", "caption")}
    assert rates == {
        ("gcn", "vqa"): 1e-1,
        ("gcn", "caption"): 1e-2,
        ("pgnn", "vqa"): 1e-2,
        ("pgnn", "caption"): 1e-2,
    }
    tuner.save("search")
    assert chosen_settings(tmp_path / "settings.yaml") == tuner.chosen()


# ---- a search -------------------------------------------------------------------------------------------


def score(cell) -> float:
    """``gated`` is best, and μ = 1 but with ``replace``; a method has one best rate, off which it loses with
    each step of the grid. One further seed overturns a first one.
    """
    best = BEST_RATE.get(cell.method, 3e-3)
    value = 0.5 - 0.05 * abs(RATES.index(rate_of(cell)) - RATES.index(best))
    if "join" in cell.settings:
        value += {"replace": 0.0, "gated": 0.02, "blend": 0.01}[cell.settings["join"]]
        mu = 0.1 if cell.settings["join"] == "replace" else 1.0
        value += 0.005 * (cell.settings["gnn_args"].get("mu") == mu)
    if (cell.method, cell.task, cell.seed) == ("appnp", "caption", 1) and cell.settings["join"] == "blend":
        value += 0.1
    return value


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The cells of a search, and what it chose."""
    with pytest.MonkeyPatch.context() as patch:
        diverges = lambda cell: cell.method == "appnp" and rate_of(cell) == 1e-2  # noqa: E731
        world = World(tmp_path_factory.mktemp("search"), patch, score, diverges)
        tuner = world.tuner(load_preset("full"), 1000)
        search(tuner)
    return world.seen, tuner.chosen().methods


def of(cells, method, task="vqa") -> list:
    return [cell for cell in cells if (cell.method, cell.task) == (method, task)]


def test_every_gnn_has_the_same_budget(found):
    """Joins, arguments and rates are screened together; what is left are seeds on several checkpoints."""
    cells, _ = found
    assert {(cell.split, cell.eval_examples) for cell in cells} == {("validation", 1000)}
    assert len({cell.name for cell in cells}) == len(cells), "no trial runs twice"
    for task in DRAWN:
        spent = Counter(cell.method for cell in cells if cell.task == task)
        assert all(JOINT.trials - JOINT.finalists < spent[name] <= JOINT.trials for name in GNNS), spent
        assert all(3 <= spent[name] <= SECOND.trials for name in SECOND_RANK), spent
        others = spent.keys() - set(GNNS) - SECOND_RANK
        assert all(3 + 2 * OTHERS.finalists <= spent[name] <= OTHERS.trials for name in others), spent
    for name in GNNS:
        method = METHODS[name]
        first = of(cells, name)[: len(method.joins) * len(method.tried) * len(method.rates)]
        assert {cell.seed for cell in first} == {0} and len({cell.label for cell in first}) == len(first)
    seeds = {name: {cell.seed for cell in of(cells, name)} for name in (*GNNS, *SECOND_RANK)}
    assert {0, 1, 2} <= seeds["pgnn"] < seeds["gcn"], "fewer settings, more seeds"
    assert all(seeds[name] == {0} for name in SECOND_RANK)
    assert {None, "runs/checkpoints/seed1"} <= {cell.model for cell in of(cells, "pgnn")}


def test_grids_are_extended_until_the_best_lies_inside(found):
    cells, chosen = found
    for name in ("pgnn", "full"):
        place = RATES.index(BEST_RATE[name])
        for task in DRAWN:
            assert chosen[name][task].learning_rate == BEST_RATE[name]
            assert {RATES[place - 1], RATES[place + 1]} <= set(map(rate_of, of(cells, name, task)))


def test_the_best_settings_are_chosen(found):
    cells, chosen = found
    assert set(chosen) == {name for name in load_preset("full").counts if METHODS[name].rates}
    assert chosen["pgnn"]["vqa"] == Choice(learning_rate=3e-2, join="gated", arguments={"p": 1.5, "mu": 1.0})
    assert chosen["gcnii"]["ve"].join == "blend", "gated is APPNP's"
    joins = {task: chosen["appnp"][task].join for task in DRAWN}
    assert joins == {task: "blend" if task == "caption" else "gated" for task in DRAWN}, "overturned"
    assert chosen["placebo"]["vqa"] == Choice(
        learning_rate=3e-3, join="gated", arguments={"p": 1.5, "mu": 1.0}
    ), "pGNN's join and arguments, and a rate of its own"
    joined = of(cells, "pgnn_replace")
    assert {cell.settings["join"] for cell in joined} == {"replace"}
    assert {cell.settings["gnn_args"]["mu"] for cell in joined} == {0.1}, "best with it"
