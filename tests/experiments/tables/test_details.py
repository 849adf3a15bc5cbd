"""What stands behind a table: training, what adapters do, scores of every seed and kind."""

from pathlib import Path

from attngraph.experiments.tables.details import EFFECTS, by_kind, details, effects, every_seed, trained
from attngraph.experiments.tables.runs import Run
from attngraph.experiments.tasks import TASKS
from tests.experiments.tables.made import change, runs_on

LAYER = "text_decoder.bert.encoder.layer.{}.{}.self"
VQA = {"vqa": TASKS["vqa"]}


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


def test_each_setting_has_one_line(tmp_path):
    runs = runs_on(tmp_path, VQA, rows=("frozen", "gcn", "pgnn", "full"), seeds=(0, 1, 2))
    for run in runs:
        recipe = {"learning_rate": 1e-4, "steps": 1500, "batch_size": 32}
        own = {"join": "gated", "gnn_args": {"p": 1.5}} if run.row == "pgnn" else {"join": "replace"}
        if run.row == "pgnn" and run.seed == 2:
            recipe["learning_rate"] = 1e-2
        settings = {"recipe": None if run.row == "frozen" else recipe}
        settings["settings"] = own if run.row in ("gcn", "pgnn") else None
        change(run.folder / "config.json", "settings", **settings)
    title, rest = VQA["vqa"].title, ["1,500", "32", "1,234"]
    assert lines(trained(runs, VQA)) == [
        ["GCN", title, "replace", "–", "0.0001", *rest],
        ["pGNN", title, "gated", '{"p": 1.5}', "0.0001", *rest],
        ["pGNN", title, "gated", '{"p": 1.5}', "0.01", *rest],
        ["Full fine-tuning", title, "–", "–", "0.0001", *rest],
    ]


def test_every_seed_and_kind(tmp_path):
    *runs, last = runs_on(tmp_path, rows=("gcn",))
    tasks = {name: TASKS[name] for name in ("vqa", "ve")}
    assert last.task == "ve"
    frame = every_seed(runs, tasks)
    assert list(frame) == ["Method", "Seed", "VQA acc", "VE acc", "Avg"]
    assert frame[["Method", "Seed"]].to_numpy().tolist() == [["GCN", 0], ["GCN", 1]]
    assert list(frame["VE acc"]) == [f"{100 * runs[2].result['scores']['ve.accuracy']:.2f}", "–"]
    assert list(frame["Avg"])[1] == "–"
    of_kinds = [
        run("gcn", 0, kinds={"count": (0.48, 9), "existence": (0.6, 9)}),
        run("gcn", 1, kinds={"count": (0.52, 9)}),
        run("appnp", 0, kinds={"count": (0.55, 9)}),
    ]
    frame = by_kind(of_kinds, TASKS["vqa"])
    assert list(frame) == ["Kind", "GCN", "APPNP"]
    assert lines(frame) == [["count", "50.0 ± 2.8", "55.0"], ["existence", "60.0", "–"]]
    assert by_kind(of_kinds, TASKS["ve"]).empty
    titles = [f"{task.title}: scores by kind" for task in tasks.values()]
    assert list(details([*runs, last], tasks)) == [*titles, "Training of the methods", "Every seed"]
