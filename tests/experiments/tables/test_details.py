"""What stands behind a table: training, what adapters do, scores of every seed and kind."""

import json
from pathlib import Path

from experiments.tables.details import EFFECTS, by_kind, effects, every_seed, trained
from experiments.tables.runs import Run
from experiments.tasks import TASKS
from tests.experiments.drawn import DRAWN
from tests.experiments.tables.made import COLUMNS, runs_on

LAYER = "text_decoder.bert.encoder.layer.{}.{}.self"
VQA = {"vqa": DRAWN["vqa"]}


def effect(value):
    return dict.fromkeys(EFFECTS.values(), value)


def run(row, seed, task="vqa", **result):
    return Run(row, task, seed, result, Path(f"{row}/{task}/{seed}"))


def lines(frame) -> list[list]:
    return frame.to_numpy().tolist()


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
    frame = effects(runs, TASKS["vqa"])
    assert list(frame)[:4] == ["Method", "Layers", "κ", "mass moved"]
    assert [line[:4] for line in lines(frame)] == [
        ["pGNN", "layer.*.attention", "0.35 ± 0.07", "0.35 ± 0.07"],
        ["pGNN", "layer.*.crossattention", "0.60 ± 0.00", "0.60 ± 0.00"],
        ["GCN", "layer.*.attention", "1.00", "–"],
        ["GCN", "layer.*.crossattention", "1.00", "–"],
    ]
    earlier = [run("gcn", 0), run("full", 0, effects={})]  # results of earlier versions have no effects
    assert effects(earlier, TASKS["vqa"]).empty


def with_recipe(run, rate, **settings):
    recipe = {"learning_rate": rate, "steps": 1500, "batch_size": 32}
    config = {"settings": {"weights": "w", "recipe": recipe, "settings": settings}}
    (run.folder / "config.json").write_text(json.dumps(config))


def test_each_setting_has_one_line(tmp_path):
    runs = runs_on(tmp_path, VQA, rows=("frozen", "gcn", "pgnn", "full"), seeds=(0, 1, 2))
    assert trained(runs, VQA).empty
    for run in runs:
        if run.row == "pgnn":
            with_recipe(run, 3e-3 if run.seed < 2 else 1e-2, join="gated", gnn_args={"p": 1.5}, reduction=4)
        elif run.row == "gcn":
            with_recipe(run, 1e-2, join="replace", gnn_args={}, reduction=4)
        elif run.row == "full":
            with_recipe(run, 1e-4)
    for run in runs:
        run.__dict__.pop("config", None)  # which is read once
    title, rest = VQA["vqa"].title, ["1,500", "32", "1,234"]
    assert lines(trained(runs, VQA)) == [
        ["GCN", title, "replace", "–", "0.01", *rest],
        ["pGNN", title, "gated", '{"p": 1.5}', "0.003", *rest],
        ["pGNN", title, "gated", '{"p": 1.5}', "0.01", *rest],
        ["Full fine-tuning", title, "–", "–", "0.0001", *rest],
    ]


def test_every_seed_and_kind(tmp_path):
    runs = runs_on(tmp_path, DRAWN, rows=("gcn",), seeds=(0, 1))
    runs = [run for run in runs if run.task != "ve" or run.seed == 0]
    (of_ve,) = [run for run in runs if run.task == "ve"]
    frame = every_seed(runs, COLUMNS)
    assert list(frame)[:3] == ["Method", "Seed", "VQA acc"] and "Avg" not in frame
    assert frame[["Method", "Seed"]].to_numpy().tolist() == [["GCN", 0], ["GCN", 1]]
    assert list(frame["VE acc"]) == [f"{100 * of_ve.result['scores']['ve.accuracy']:.2f}", "–"]
    of_kinds = [
        run("gcn", 0, kinds={"count": (0.48, 9), "existence": (0.6, 9)}),
        run("gcn", 1, kinds={"count": (0.52, 9)}),
        run("appnp", 0, kinds={"count": (0.55, 9)}),
    ]
    frame = by_kind(of_kinds, TASKS["vqa"])
    assert list(frame) == ["Kind", "GCN", "APPNP"]
    assert lines(frame) == [["count", "50.0 ± 2.8", "55.0"], ["existence", "60.0", "–"]]
