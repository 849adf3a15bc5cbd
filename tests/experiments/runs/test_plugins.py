"""``attngraph --plugin FILE``: a task and a method, each in one file, are a column and a row of the table."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from attngraph.adapters.scheme import SCHEMES
from attngraph.experiments.cli import main
from attngraph.experiments.methods import METHODS
from attngraph.experiments.runs import plugins
from attngraph.experiments.runs.plugins import load_plugins, plugin_files
from attngraph.experiments.tasks import TASKS
from tests.experiments.tiny import save

ROOT = Path(__file__).parents[3]
EXAMPLES = Path(__file__).parents[1] / "examples"
TASK, METHOD = EXAMPLES / "example_task.py", EXAMPLES / "example_method.py"
PRESET = """
about: as little as possible
seeds: {gcn: 1, pgnn: 1}
runs: {recipe: {steps: 2}, train_examples: 16, eval_examples: 8}
scenes: {questions: [24, 8, 12], hypotheses: [12, 4, 4], captions: [4, 4, 4]}
"""


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    """What a test loads is forgotten, here and in the processes that it starts."""
    monkeypatch.setattr(plugins, "_loaded", {})
    registries = (TASKS, METHODS, SCHEMES)
    before = [dict(registry) for registry in registries]
    yield
    for registry, content in zip(registries, before):
        registry.clear()
        registry.update(content)
    for name in [name for name in sys.modules if name.startswith("attngraph_plugin_")]:
        del sys.modules[name]


@pytest.fixture
def preset(tmp_path):
    file = tmp_path / "least.yaml"
    file.write_text(PRESET)
    return file


PLUGINS = ["--plugin", str(TASK), "--plugin", str(METHOD)]
WORDS = [*PLUGINS, "ablation", "--tasks", "easy_vqa,colours", "--rows", "ia3,gcn"]


@pytest.mark.slow
def test_a_table_with_a_task_and_a_method_of_ones_own(preset, tmp_path):
    """The real command, in worker processes; both tasks have a metric named accuracy."""
    out = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "-m", "attngraph", *WORDS, "--preset", str(preset), "--out", str(out)],
        cwd=ROOT,
        text=True,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    for word in ("(IA)³", "GCN", "Rescaling", "Colour acc", "easy-VQA acc", "Colours of shapes"):
        assert word in done.stdout
    results = json.loads((out / "results.json").read_text())["cells"]
    scores = {(cell["row"], cell["task"]): cell["scores"] for cell in results}
    assert scores.keys() == {(row, task) for row in ("ia3", "gcn") for task in ("easy_vqa", "colours")}
    assert all(set(columns) == {f"{task}.accuracy"} for (_, task), columns in scores.items())
    folder = out / "cells" / "ia3" / "colours" / "seed0"
    answers = json.loads((folder / "predictions.json").read_text())
    assert len(answers) == 8 and all(name.startswith("test-") for name in answers)
    assert json.loads((folder / "adapter_config.json").read_text())["peft_type"] == "IA3"
    assert json.loads((folder / "config.json").read_text())["settings"]["recipe"]["learning_rate"] == 1e-3


def test_estimates_know_them(preset, tmp_path, capsys):
    assert main([*WORDS, "--preset", str(preset), "--out", str(tmp_path / "out"), "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(
        "(IA)³" in line and "colours" in line and "learning rate 0.001, 2 steps" in line for line in lines
    )
    assert lines[0].startswith("4 runs: ")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "content, said",
    [
        (None, " does not exist: use a Python file"),
        ("x = 1\n1 / 0", ", line 2: ZeroDivisionError: division by zero; correct the file"),
        ("x = 1\ndef (", ", line 2: SyntaxError"),
        ("raise ValueError('one\\ntwo')", ", line 1: ValueError: one; correct the file"),
        (
            "from attngraph.experiments.tasks import *\nregister(5)",
            ", line 2: UserError: 5 is not a task with a name",
        ),
        (
            "from attngraph.experiments.methods import register\nregister(5)",
            ", line 2: UserError: 5 is not a method with",
        ),
        (
            "from attngraph.experiments.tasks import TASKS\nTASKS['vqa'] = 5",
            "TypeError: vqa is 5, not a Task",
        ),
    ],
)
def test_a_plugin_that_fails_is_named_in_one_line(content, said, tmp_path, capsys):
    file = tmp_path / "mine.py"
    if content is not None:
        file.write_text(content)
    assert main(["--plugin", str(file), "ablation", "--dry-run"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"attngraph: --plugin {file}") and said in line
    assert plugin_files() == () and plugins.module_name(file) not in sys.modules


def test_a_plugin_runs_once(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(f"open({str(tmp_path / 'runs')!r}, 'a').write('x')")
    load_plugins([file, file])
    load_plugins([str(file)])
    assert (tmp_path / "runs").read_text() == "x" and plugin_files() == (file.resolve(),)


def test_two_plugins_of_one_name_are_two_modules(tmp_path):
    """What each defines can be sent to a worker process."""
    files = [tmp_path / folder / "mine.py" for folder in "ab"]
    for file in files:
        file.parent.mkdir()
        file.write_text(f"class Thing:\n    folder = {file.parent.name!r}\n")
    load_plugins(files)
    things = [sys.modules[plugins.module_name(file)].Thing for file in files]
    assert [pickle.loads(pickle.dumps(thing)).folder for thing in things] == ["a", "b"]


@pytest.mark.slow
def test_any_image_text_model_is_a_tables_model(preset, tmp_path, capsys):
    """A tiny LLaVA, through its own processor, with p-adapters in its language model."""
    out = tmp_path / "out"
    words = ["--rows", "pgnn", "--tasks", "vqa", "--model", str(save("llava", tmp_path / "llava"))]
    assert main(["ablation", "--preset", str(preset), *words, "--out", str(out)]) == 0, (
        capsys.readouterr().err
    )
    assert "pGNN" in capsys.readouterr().out
    folder = out / "cells" / "pgnn" / "vqa" / "seed0"
    scores = json.loads((folder / "scores.json").read_text())
    assert scores["examples"] == 8 and scores["loss"] > 0 and scores["parameters"] > 0
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["peft_type"] and len(json.loads((folder / "predictions.json").read_text())) == 8
    assert not (out / "image-states").exists(), "its image states are not cached"
