"""The command as a user runs it, from end to end (about a minute)."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from attngraph.errors import UserError
from experiments.cli import main
from experiments.training.cells import Cell, is_finished, subset

ROOT = Path(__file__).parents[3]


def command(*words, **options):
    return subprocess.run(
        [sys.executable, "-m", "experiments.cli", *map(str, words)],
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=400,
        **options,
    )


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    out = tmp_path_factory.mktemp("ablation") / "smoke"
    return out, command("ablation", "--preset", "smoke", "--out", out)


@pytest.mark.timeout(400)
def test_the_table_stands_in_the_terminal_and_on_disk(smoke):
    out, done = smoke
    assert done.returncode == 0, done.stderr
    for word in ("GCN", "pGNN", "Frozen model", "Majority class", "VQA acc", "CIDEr", "another scale"):
        assert word in done.stdout
    for suffix in ("csv", "md", "tex", "png", "txt"):
        assert (out / f"ablation.{suffix}").stat().st_size > 100
    assert "score per question type" in (out / "details.md").read_text()


def test_every_run_keeps_what_made_it(smoke):
    out, _ = smoke
    folder = out / "cells" / "pgnn" / "vqa" / "seed0"
    config = json.loads((folder / "config.json").read_text())
    assert config["settings"]["method"]["config"]["gnn"] == "pgnn" and "torch" in config["versions"]
    assert {p.name for p in folder.iterdir()} == {
        "config.json",
        "metrics.csv",
        "adapter.safetensors",
        "predictions.json",
        "statistics.npz",
        "scores.json",
    }
    scores = json.loads((folder / "scores.json").read_text())
    assert scores["parameters"] > 1000 and scores["peak_mb"] > 50 and scores["train_seconds"] > 0
    assert len(json.loads((folder / "predictions.json").read_text())) == scores["examples"]
    assert list(pd.read_csv(folder / "metrics.csv").columns) == [
        "step",
        "loss",
        "learning_rate",
        "gradient_norm",
    ]


def test_the_gnns_have_equal_budgets_up_to_the_scalars_of_p(smoke):
    out, _ = smoke
    count = {
        gnn: json.loads((out / "cells" / gnn / "vqa" / "seed0" / "scores.json").read_text())["parameters"]
        for gnn in ("gcn", "pgnn")
    }
    assert count["pgnn"] - count["gcn"] == 8  # one p for each of 2 · 4 attention layers


def test_a_second_call_runs_nothing_again(smoke):
    out, first = smoke
    began = {p: p.stat().st_mtime_ns for p in out.glob("cells/*/*/*/scores.json")}
    again = command("ablation", "--preset", "smoke", "--out", out)
    assert again.returncode == 0 and again.stdout == first.stdout
    assert began == {p: p.stat().st_mtime_ns for p in out.glob("cells/*/*/*/scores.json")}


def test_a_folder_of_another_experiment_is_refused_and_left_alone(smoke):
    out, _ = smoke
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}
    other = command("ablation", "--preset", "quick", "--out", out)
    assert other.returncode == 2 and other.stderr.count("attngraph:") == 1 and str(out) in other.stderr
    assert before == {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}


def test_ctrl_c_loses_nothing_finished(tmp_path):
    out = tmp_path / "stopped"
    words = [
        sys.executable,
        "-m",
        "experiments.cli",
        "ablation",
        "--preset",
        "smoke",
        "--gnn",
        "gcn",
        "--tasks",
        "vqa,ve",
        "--jobs",
        "2",
        "--out",
        str(out),
    ]
    process = subprocess.Popen(
        words,
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # CI may ignore it
    until = time.time() + 200
    while not list(out.glob("cells/*/*/*/scores.json")) and time.time() < until and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=200)
    finished = list(out.glob("cells/*/*/*/scores.json"))
    assert finished and all(json.loads(p.read_text()) for p in finished)
    if process.returncode != 0:  # it may have been quicker than the signal
        assert process.returncode == 130 and "goes on from there" in errors
    assert command(*words[3:]).returncode == 0


@pytest.mark.parametrize(
    "words, said",
    [
        (["--gnn", "gat"], "unknown GNN 'gat'"),
        (["--tasks", "vqa,chess"], "unknown task 'chess'"),
        (["--preset", "huge"], "unknown preset 'huge'"),
        (["--join", "glue"], "unknown join 'glue'"),
        (["--seeds", "0"], "--seeds must be at least 1"),
        (["--jobs", "0"], "--jobs must be at least 1"),
        (["--device", "cuda:99"], "--device cuda:99 is not available"),
        (["--model", "/no/such/folder"], "/no/such/folder"),
    ],
)
def test_wrong_calls_end_with_one_line(words, said, tmp_path, capsys):
    assert main(["ablation", "--preset", "smoke", "--out", str(tmp_path / "out"), *words]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("attngraph:")]
    assert len(errors) == 1 and said in errors[0]
    assert not (tmp_path / "out").exists()


def test_dry_run_lists_the_cells_and_an_estimate(tmp_path, capsys):
    assert main(["ablation", "--preset", "full", "--dry-run", "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert out.count("pGNN") == 20 and "cells, " in out and "minutes" in out
    assert not (tmp_path / "out").exists()


def test_help_explains(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["ablation", "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    for option in ("--seed", "--device", "--out", "--gnn", "--tasks", "--preset", "--dry-run"):
        assert option in out


def test_a_damaged_score_file_is_named(smoke, tmp_path):
    out, _ = smoke
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    (copy / "cells" / "gcn" / "vqa" / "seed0" / "scores.json").write_text("{")
    done = command("ablation", "--preset", "smoke", "--out", copy)
    assert done.returncode == 2 and "gcn/vqa/seed0 is damaged" in done.stderr


def test_subsets_do_not_depend_on_method_or_seed():
    examples = list(range(100))
    assert subset(examples, 10) == subset(examples, 10) and len(set(subset(examples, 10))) == 10
    assert subset(examples, None) is examples and subset(examples, 200) is examples


def test_cells_of_an_empty_folder_are_not_finished(tmp_path):
    assert not is_finished(Cell("gcn", "vqa", 0, None, None, tmp_path), tmp_path)
    assert os.listdir(tmp_path) == []


def test_a_smaller_table_does_not_replace_a_larger(smoke):
    out, _ = smoke
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}
    done = command("ablation", "--preset", "smoke", "--tasks", "vqa", "--out", out)
    assert done.returncode == 2 and "runs that this one would leave out" in done.stderr
    assert before == {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}


def test_cells_of_other_weights_are_not_taken_for_finished(smoke, tmp_path):
    from experiments.models.mini_blip import CHECKPOINT, weights_digest

    model, out = tmp_path / "model", tmp_path / "out"
    shutil.copytree(CHECKPOINT, model)
    assert weights_digest(model) == weights_digest()
    words = [
        "ablation",
        "--preset",
        "smoke",
        "--gnn",
        "gcn",
        "--tasks",
        "vqa",
        "--model",
        model,
        "--out",
        out,
    ]
    assert command(*words).returncode == 0
    content = bytearray((model / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (model / "model.safetensors").write_bytes(content)
    done = command(*words)
    assert done.returncode == 2 and "holds another experiment (other weights)" in done.stderr


def test_comparisons_use_the_runs_of_this_table_only(smoke, monkeypatch):
    from experiments.commands import ablation

    out, _ = smoke
    frozen = [Cell(row, task, 0, None, None, out) for row in ("gcn", "pgnn") for task in ("vqa", "ve")]
    adjusted, lines = ablation.significance(dict.fromkeys(frozen[:1] + frozen[2:], {}), out)
    assert [line["column"] for line in lines] == ["vqa"] and set(adjusted) == {("pGNN", "vqa")}


def test_one_failing_cell_does_not_end_the_others(smoke, tmp_path, capsys):
    from experiments.methods import Frozen, Majority
    from experiments.training.runner import run_cells

    data = smoke[0] / "data"
    bad = Cell("bad", "vqa", 0, Frozen(), None, data, str(tmp_path / "no such model"), eval_examples=4)
    good = Cell("good", "vqa", 0, Majority(), None, data, eval_examples=4)
    with pytest.raises(
        UserError, match="1 of 2 cells failed, the others are finished: bad vqa seed 0: .*no such model"
    ):
        run_cells([bad, good], tmp_path / "out", jobs=1)
    assert is_finished(good, tmp_path / "out")


def test_statistics_are_summed_over_the_questions_of_an_image():
    from experiments.datasets.example import Example
    from experiments.training.cells import per_image

    examples = [Example(str(k), Path(name), "", (), "") for k, name in enumerate("abab")]
    sums = per_image(np.array([[1.0, 1], [0, 1], [0.5, 1], [0, 1]]), examples)
    assert sums.tolist() == [[1.5, 2], [0, 2]]


@pytest.mark.parametrize(
    "words, said",
    [
        (["search", "--out", "FILE"], "FILE"),
        (["ablation", "--preset", "smoke", "--out", "FILE/x"], "FILE"),
        (["scenes", "--out", "x", "--seed", "-1"], "--seed must be at least 0"),
        (["pretrain", "--out", "FILE"], "FILE"),
        (["pretrain", "--threads", "-1"], "--threads must be at least 1"),
        (["pretrain", "--device", "cuda:99"], "--device cuda:99 is not available"),
    ],
)
def test_wrong_calls_of_every_command_end_with_one_line(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("FILE").write_text("keep me")
    assert main(words) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("attngraph:")]
    assert len(errors) == 1 and said in errors[0]
    assert Path("FILE").read_text() == "keep me"


def test_settings_that_lack_something_are_named(tmp_path):
    from experiments.configs.rows import chosen

    file = tmp_path / "settings.json"
    file.write_text('{"join": "blend", "gnn_args": {}, "learning_rates": {"gcn": {}}}')
    with pytest.raises(UserError, match="settings.json cannot be read .appnp is missing"):
        chosen(file)
