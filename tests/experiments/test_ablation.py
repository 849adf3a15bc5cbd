"""The command as a user runs it, from end to end (about a minute)."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from experiments.cells import Cell, is_finished, subset
from experiments.cli import main

ROOT = Path(__file__).parents[2]


def command(*words, **options):
    return subprocess.run([sys.executable, "-m", "experiments.cli", *map(str, words)], cwd=ROOT, text=True,
                          capture_output=True, timeout=400, **options)


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
    assert {p.name for p in folder.iterdir()} == {"config.json", "metrics.csv", "adapter.safetensors", "predictions.json",
                                                  "statistics.npz", "scores.json"}
    scores = json.loads((folder / "scores.json").read_text())
    assert scores["parameters"] > 1000 and scores["peak_mb"] > 50 and scores["train_seconds"] > 0
    assert len(json.loads((folder / "predictions.json").read_text())) == scores["examples"]
    assert list(pd.read_csv(folder / "metrics.csv").columns) == ["step", "loss", "learning_rate", "gradient_norm"]


def test_the_gnns_have_equal_budgets_up_to_the_scalars_of_p(smoke):
    out, _ = smoke
    count = {gnn: json.loads((out / "cells" / gnn / "vqa" / "seed0" / "scores.json").read_text())["parameters"]
             for gnn in ("gcn", "pgnn")}
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
    words = [sys.executable, "-m", "experiments.cli", "ablation", "--preset", "smoke", "--gnn", "gcn", "--tasks", "vqa,ve",
             "--jobs", "2", "--out", str(out)]
    process = subprocess.Popen(words, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # CI may ignore it
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


@pytest.mark.parametrize("words, said", [
    (["--gnn", "gat"], "unknown GNN 'gat'"), (["--tasks", "vqa,chess"], "unknown task 'chess'"),
    (["--preset", "huge"], "unknown preset 'huge'"), (["--join", "glue"], "unknown join 'glue'"),
    (["--seeds", "0"], "--seeds must be at least 1"), (["--jobs", "0"], "--jobs must be at least 1"),
    (["--device", "cuda:99"], "--device cuda:99 is not available"), (["--model", "/no/such/folder"], "/no/such/folder"),
])
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
    import shutil

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
