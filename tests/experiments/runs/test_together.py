"""Two processes under ``torchrun`` train and score as one does, and end together."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from attngraph.errors import UserError
from attngraph.experiments.runs import device
from attngraph.experiments.runs.cells import check_folder_of, run_cell
from attngraph.experiments.runs.execution import Execution
from attngraph.experiments.tables.grid import load_preset
from attngraph.experiments.tables.plan import plan_table
from tests.experiments.runs.runs_together import RUNS, run_all
from tests.experiments.runs.small import small_examples

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.slow  # two processes
PRESET = """
about: one row, and a number of questions that two processes cannot share evenly
seeds: {pgnn: 1}
runs: {recipe: {steps: STEPS}, train_examples: 64, eval_examples: 25}
scenes: {questions: [64, 4, 30], hypotheses: [12, 4, 4], captions: [4, 4, 4]}
"""


def torchrun(module, *words):
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    return subprocess.run(
        [*launch, "-m", f"tests.experiments.runs.{module}", *map(str, words)],
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=480,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )


def preset(folder, steps):
    file = folder / f"steps{steps}.yaml"
    file.write_text(PRESET.replace("STEPS", str(steps)))
    return file


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """The folder of a table that two processes ran, then another one into the same folder; what they said."""
    folder = tmp_path_factory.mktemp("together")
    words = [
        ["ablation", "--preset", preset(folder, k), "--tasks", "vqa", "--out", folder / "two"] for k in (4, 5)
    ]
    return folder, torchrun("together", folder, *words[0], "then", *words[1])


def table(folder, out):
    chosen = load_preset(str(folder / "steps4.yaml"))
    return plan_table(chosen, out / "data", tasks=["vqa"])


@pytest.fixture(scope="module")
def alone(together):
    """The folder of the same cell run in this process, and the cell."""
    folder, _ = together
    out, patch = folder / "one", pytest.MonkeyPatch()
    patch.setattr(device, "uses_bfloat16", lambda name: False)
    plan = table(folder, out)
    plan.cells[0].scenes.draw(out / "data")
    run_cell(plan.cells[0], Execution(out))
    patch.undo()
    return out, plan.cells[0]


def test_scores_are_the_same_and_every_example_is_scored_once(together, alone):
    folder, done = together
    assert done.stderr.count("the first command is done") == 2, done.stderr
    out, cell = alone
    mine, theirs = (
        json.loads((cell.folder(folder) / "scores.json").read_text()) for folder in (folder / "two", out)
    )
    for key in ("scores", "kinds", "examples", "trained_on", "parameters", "split"):
        assert mine[key] == theirs[key], key
    predictions = [(cell.folder(path) / "predictions.json").read_text() for path in (folder / "two", out)]
    assert predictions[0] == predictions[1] and len(json.loads(predictions[0])) == 25
    answered = [(folder / f"{rank}.txt").read_text().split() for rank in (0, 1)]
    assert [len(names) for names in answered] == [13, 12]
    assert sorted(answered[0] + answered[1]) == sorted(json.loads(predictions[0]))


def test_one_process_speaks_and_nothing_is_left_half_written(together, alone):
    folder, done = together
    out, cell = alone
    assert done.stdout.count("GNN ablation") == 1 and done.stdout.count("saved:") == 1
    files = [sorted(path.name for path in cell.folder(path).iterdir()) for path in (folder / "two", out)]
    assert files[0] == files[1]
    assert [path for path in (folder / "two").rglob("*") if path.name.startswith(".")] == []
    assert not list((folder / "two").rglob("*.part")) and not list((folder / "two").rglob("step-*"))


def test_runs_of_several_processes_are_not_mixed_with_those_of_one(together):
    folder, _ = together
    out = folder / "two"
    with pytest.raises(UserError, match="holds another experiment .*other processes: 2, not 1"):
        check_folder_of(table(folder, out).cells[0], Execution(out))


def test_an_error_ends_all_processes_with_one_line(together):
    _, done = together
    said = [line for line in done.stderr.splitlines() if line.startswith("attngraph:")]
    assert done.returncode != 0 and len(said) == 1, done.stderr
    assert "holds another experiment (other recipe)" in said[0]
    assert 'experiments/cli.py", line' not in done.stderr, "no traceback of ours beside torchrun's own"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folders of small runs by two processes, and by this one."""
    two, one = (tmp_path_factory.mktemp(name) for name in ("two", "one"))
    for name in RUNS:
        small_examples(two / name / "pictures")
    done = torchrun("runs_together", two)
    assert done.returncode == 0, done.stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "uses_bfloat16", lambda name: False)
        run_all(one)
    return two, one


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", RUNS)
def test_a_run_of_two_is_one_of_one(name, runs):
    """Losses to 1e-5, answers and scores exactly; early stopping and the best step too."""
    mine, theirs = (json.loads((folder / f"{name}.json").read_text()) for folder in runs)
    losses = [
        [float(line["loss"]) for line in csv.DictReader(found["metrics"].splitlines())]
        for found in (mine, theirs)
    ]
    assert len(losses[0]) == len(losses[1]) and losses[0] == pytest.approx(losses[1], abs=2e-5)
    assert mine["predictions"] == theirs["predictions"] and mine["validations"] == theirs["validations"]
    if name == "stopped early":
        assert len(losses[0]) < 12
    if "interrupted" in name:
        whole = json.loads((runs[0] / "in passes.json").read_text())
        assert all(whole[key] == mine[key] for key in ("metrics", "weights", "predictions")), "to the bit"
