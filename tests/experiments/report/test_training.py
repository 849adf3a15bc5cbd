"""The list of how methods were trained."""

import json

from experiments.report.training import training_lines, training_markdown
from tests.experiments.drawn import DRAWN
from tests.experiments.report.made import runs_on

TASKS = {"vqa": DRAWN["vqa"]}


def trained(run, rate, **settings):
    recipe = {"learning_rate": rate, "steps": 1500, "batch_size": 32}
    config = {"settings": {"weights": "w", "recipe": recipe, "settings": settings}}
    (run.folder / "config.json").write_text(json.dumps(config))


def test_each_setting_has_one_line(tmp_path):
    runs = runs_on(tmp_path, TASKS, rows=("frozen", "gcn", "pgnn", "full"), seeds=(0, 1, 2))
    for run in runs:
        if run.row == "pgnn":
            trained(run, 3e-3 if run.seed < 2 else 1e-2, join="gated", gnn_args={"p": 1.5}, reduction=4)
        elif run.row == "gcn":
            trained(run, 1e-2, join="replace", gnn_args={}, reduction=4)
        elif run.row == "full":
            trained(run, 1e-4)
    title = TASKS["vqa"].title
    rest = ["1,500", "32", "1,234"]
    assert training_lines(runs, TASKS) == [
        ["GCN", title, "replace", "–", "0.01", *rest],
        ["pGNN", title, "gated", '{"p": 1.5}', "0.003", *rest],
        ["pGNN", title, "gated", '{"p": 1.5}', "0.01", *rest],
        ["Full fine-tuning", title, "–", "–", "0.0001", *rest],
    ]
    assert "**How the methods were trained**" in training_markdown(runs, TASKS)


def test_nothing_is_shown_where_nothing_was_trained(tmp_path):
    assert training_markdown(runs_on(tmp_path, TASKS, rows=("frozen",)), TASKS) == ""
