"""What stands behind a table: training, what adapters do, which learned numbers seeds agree on."""

import json
from pathlib import Path

import pytest

from experiments.tables.details import EFFECTS, agree, effects, every_seed, kinds_grid, learned, trained
from experiments.tables.frame import Summary
from experiments.tables.runs import Run
from experiments.tasks import TASKS
from tests.experiments.drawn import DRAWN
from tests.experiments.tables.made import COLUMNS, runs_on

LAYER = "text_decoder.bert.encoder.layer.{}.{}.self"


def effect(value):
    return dict.fromkeys(EFFECTS.values(), value)


def run(row, seed, task="vqa", **result):
    return Run(row, task, seed, {"learned": {}, **result}, Path(f"{row}/{task}/{seed}"))


def test_means_over_layers_and_seeds_by_kind():
    runs = [
        run(
            "pgnn",
            seed,
            effects={
                LAYER.format(0, "attention"): effect(0.2 + 0.1 * seed),
                LAYER.format(0, "crossattention"): effect(0.5),
                LAYER.format(1, "attention"): effect(0.4 + 0.1 * seed),
                LAYER.format(1, "crossattention"): effect(0.7),
            },
        )
        for seed in (0, 1)
    ]
    one = {LAYER.format(0, "attention"): {"kappa": 1.0}, LAYER.format(0, "crossattention"): {"kappa": 1.0}}
    runs += [run("gcn", 0, effects=one), run("full", 0, effects={}), run("pgnn", 0, "ve", effects=one)]
    grid = effects(runs, TASKS["vqa"])
    assert grid.title.startswith("VQA (Scenes, VQA v2 format): what the adapters do")
    assert grid.head[:4] == ("Method", "Layers", "κ", "mass moved")
    assert [line[:4] for line in grid.lines] == [
        ["pGNN", "layer.*.attention", "0.35 ± 0.07", "0.35 ± 0.07"],
        ["pGNN", "layer.*.crossattention", "0.60 ± 0.00", "0.60 ± 0.00"],
        ["GCN", "layer.*.attention", "1.00", "–"],
        ["GCN", "layer.*.crossattention", "1.00", "–"],
    ]


def test_no_table_where_nothing_was_measured():
    """Results of earlier versions have no effects."""
    assert effects([run("gcn", 0), run("full", 0, effects={})], TASKS["vqa"]).lines == []
    assert learned([run("full", 0)], TASKS)[0] == ""


@pytest.mark.parametrize(
    "ends, together",
    [
        ((1.1, 1.0, 1.2), True),
        ((1.9, 1.95, 2.0), True),
        ((1.1, 1.9, 1.4), False),  # they scatter around the start
        ((1.2, 1.5, 1.1), False),  # 0.23 from the start, and 0.21 from each other
        ((1.1, 1.0), False),  # too few
        ((1.1, 1.0, float("nan")), False),
    ],
)
def test_seeds_agree_where_their_spread_is_small_against_the_way(ends, together):
    assert agree([1.5] * len(ends), ends) == together


def test_learned_numbers_are_listed_where_seeds_agree():
    runs = [
        run(
            "pgnn",
            seed,
            started={"a.p": 1.5, "b.p": 1.5},
            learned={"a.p": 1.1 + 0.01 * seed, "b.p": 1 + seed},
        )
        for seed in range(3)
    ]
    text, grid = learned(runs, TASKS)
    assert text.startswith("1 of 2. The others are not listed: there are fewer than 3 seeds, or")
    assert grid.lines == [["VQA (Scenes, VQA v2 format)", "pGNN", "a.p", "1.500", "1.110 ± 0.010"]]
    unknown = [run("pgnn", seed, learned={"a.p": 1.1}) for seed in range(3)]  # where they started
    text, grid = learned(unknown, TASKS)
    assert text.startswith("0 of 1.") and grid.lines == []


VQA = {"vqa": DRAWN["vqa"]}


def with_recipe(run, rate, **settings):
    recipe = {"learning_rate": rate, "steps": 1500, "batch_size": 32}
    config = {"settings": {"weights": "w", "recipe": recipe, "settings": settings}}
    (run.folder / "config.json").write_text(json.dumps(config))


def test_each_setting_has_one_line(tmp_path):
    runs = runs_on(tmp_path, VQA, rows=("frozen", "gcn", "pgnn", "full"), seeds=(0, 1, 2))
    for run in runs:
        if run.row == "pgnn":
            with_recipe(run, 3e-3 if run.seed < 2 else 1e-2, join="gated", gnn_args={"p": 1.5}, reduction=4)
        elif run.row == "gcn":
            with_recipe(run, 1e-2, join="replace", gnn_args={}, reduction=4)
        elif run.row == "full":
            with_recipe(run, 1e-4)
    title = VQA["vqa"].title
    rest = ["1,500", "32", "1,234"]
    assert [list(line) for line in trained(runs, VQA).lines] == [
        ["GCN", title, "replace", "–", "0.01", *rest],
        ["pGNN", title, "gated", '{"p": 1.5}', "0.003", *rest],
        ["pGNN", title, "gated", '{"p": 1.5}', "0.01", *rest],
        ["Full fine-tuning", title, "–", "–", "0.0001", *rest],
    ]


def test_nothing_is_shown_where_nothing_was_trained(tmp_path):
    assert trained(runs_on(tmp_path, VQA, rows=("frozen",)), VQA).lines == []


def test_every_seed_and_kind(tmp_path):
    runs = runs_on(tmp_path, DRAWN, rows=("gcn",), seeds=(0, 1))
    runs = [run for run in runs if run.task != "ve" or run.seed == 0]
    (of_ve,) = [run for run in runs if run.task == "ve"]
    grid = every_seed(runs, DRAWN, COLUMNS)
    assert grid.head[:3] == ["Method", "Seed", "VQA acc"] and "Avg" not in grid.head
    assert [line[:2] for line in grid.lines] == [["GCN", "0"], ["GCN", "1"]]
    place = grid.head.index("VE acc")
    assert grid.lines[1][place] == "–"
    assert grid.lines[0][place] == f"{100 * of_ve.result['scores']['ve.accuracy']:.2f}"
    scores = {"GCN": {"count": Summary(0.5, 0.02, 5), "existence": 0.6}, "pGNN": {"count": 0.55}}
    assert kinds_grid(scores, "VQA", "Kind").lines == [
        ["count", "50.0 ± 2.0", "55.0"],
        ["existence", "60.0", "–"],
    ]
