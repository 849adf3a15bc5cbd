"""The table's command as a user runs it, from end to end."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pandas as pd
import pytest

from experiments.base.lock import LOCK, sole_use
from experiments.cli import main
from experiments.models.blip import CHECKPOINT
from experiments.models.weights import weights_digest
from experiments.runs.cells import Cell
from experiments.tables.compare import compare_with_baseline
from experiments.tables.grid import load_preset
from experiments.tables.runs import Run
from experiments.tasks import tasks_named
from tests.experiments.drawn import DRAWN
from tests.experiments.tables.made import write_archives

ROOT = Path(__file__).parents[3]
SMALL = """
about: the rows and tasks that the tests look at
seeds: {gcn: 1, pgnn: 1, frozen: 1, majority: 1}
runs: {recipe: {steps: 3}, train_examples: 32, eval_examples: 16}
scenes: {questions: [48, 12, 24], hypotheses: [48, 12, 24], captions: [24, 6, 8]}
"""


def command(*words):
    return subprocess.run(
        [sys.executable, "-m", "experiments.cli", *map(str, words)],
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=280,
        env={**os.environ, "COLUMNS": "120"},
    )


def one_line(capsys) -> str:
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("attngraph:")]
    return line


def times(out):
    return {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    file = tmp_path_factory.mktemp("preset") / "small.yaml"
    file.write_text(SMALL)
    return file


@pytest.fixture(scope="module")
def words(preset):
    return ["ablation", "--preset", str(preset), "--tasks", "vqa,caption"]


@pytest.fixture(scope="module")
def small(tmp_path_factory, words):
    """A finished table, and what the command printed."""
    out = tmp_path_factory.mktemp("ablation") / "small"
    return out, command(*words, "--out", out)


@pytest.mark.timeout(400)
def test_the_table_stands_in_the_terminal_and_on_disk(small):
    out, done = small
    assert done.returncode == 0, done.stderr
    for word in ("GCN", "pGNN", "Frozen model", "Majority class", "VQA acc", "CIDEr"):
        assert word in done.stdout
    for suffix in ("csv", "md", "tex", "png", "txt"):
        assert (out / f"ablation.{suffix}").stat().st_size > 100
    assert "scores by kind" in (out / "details.md").read_text()
    assert "of 4 trained runs end below the frozen model" in (out / "ablation.md").read_text()
    columns = set(pd.read_csv(out / "ablation.csv").columns)
    assert {"vqa.accuracy_mean", "caption.bleu4_mean", "caption.cider_mean"} <= columns


def test_every_run_keeps_what_made_it(small):
    out, _ = small
    folder = out / "cells" / "pgnn" / "vqa" / "seed0"
    config = json.loads((folder / "config.json").read_text())
    assert config["settings"]["settings"]["gnn"] == "pgnn" and "torch" in config["versions"]
    assert {p.name for p in folder.iterdir()} == {
        "config.json",
        "experiment.yaml",
        "metrics.csv",
        "adapter_config.json",
        "adapter_model.safetensors",
        "predictions.json",
        "statistics.npz",
        "scores.json",
    }
    scores = json.loads((folder / "scores.json").read_text())
    assert scores["parameters"] > 1000 and scores["peak_mb"] > 50 and scores["train_seconds"] > 0
    assert len(json.loads((folder / "predictions.json").read_text())) == scores["examples"]
    metrics = pd.read_csv(folder / "metrics.csv")
    assert list(metrics.columns) == ["step", "loss", "learning_rate", "gradient_norm"]
    assert len(metrics) == 3


def test_a_second_call_runs_nothing_again(small, words, capfd, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    out, first = small
    began = {p: p.stat().st_mtime_ns for p in out.glob("cells/*/*/*/scores.json")}
    assert main([*words, "--out", str(out)]) == 0
    said = capfd.readouterr()
    assert said.out == first.stdout and "8 of 8 cells are finished already" in said.err
    assert began == {p: p.stat().st_mtime_ns for p in out.glob("cells/*/*/*/scores.json")}


def test_a_folder_of_another_experiment_is_refused_and_left_alone(small, preset, tmp_path, capsys):
    out, _ = small
    other = tmp_path / "other.yaml"
    other.write_text(SMALL.replace("steps: 3", "steps: 4"))
    before = times(out)
    assert main(["ablation", "--preset", str(other), "--tasks", "vqa,caption", "--out", str(out)]) == 2
    assert str(out) in one_line(capsys)
    assert before == times(out)


def test_data_of_another_size_are_refused_and_left_alone(small, capsys):
    out, _ = small
    before = times(out)
    assert main(["ablation", "--preset", "quick", "--out", str(out)]) == 2
    assert str(out) in one_line(capsys)
    assert before == times(out)


@pytest.mark.slow
def test_ctrl_c_loses_nothing_finished(preset, tmp_path):
    out = tmp_path / "stopped"
    rows = ["--preset", str(preset), "--gnn", "gcn", "--tasks", "vqa", "--jobs", "2", "--out", str(out)]
    words = [sys.executable, "-m", "experiments.cli", "ablation", *rows]
    process = subprocess.Popen(
        words,
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # CI may ignore it
    )
    until = time.time() + 200
    while not list(out.glob("cells/*/*/*/scores.json")) and time.time() < until and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=200)
    finished = list(out.glob("cells/*/*/*/scores.json"))
    assert finished and all(json.loads(p.read_text()) for p in finished)
    if process.returncode != 0:  # it may have been quicker than the signal
        assert process.returncode == 130 and "goes on from there" in errors
    began = {p: p.stat().st_mtime_ns for p in finished}
    assert main(["ablation", *rows]) == 0
    assert began.items() <= {p: p.stat().st_mtime_ns for p in out.glob("cells/*/*/*/scores.json")}.items()


@pytest.mark.parametrize(
    "words, said",
    [
        (["--gnn", "gat"], "unknown method 'gat'"),
        (["--gnn", ","], "no method is named"),
        (["--tasks", "vqa,chess"], "unknown task 'chess'"),
        (["--preset", "huge"], "unknown preset 'huge'"),
        (["--seeds", "0"], "--seeds must be at least 1"),
        (["--jobs", "0"], "--jobs must be at least 1"),
        (["--device", "cuda:99"], "--device cuda:99 is not available"),
        (["--device", "cuda:99", "--dry-run"], "--device cuda:99 is not available"),
        (["--device", "meta"], "--device meta is not available"),
        (["--threads", "1000000"], "--threads must be at least 1 and at most"),
        (["--seed", str(2**40)], "--seed must be at least 0 and below 2147483648"),
        (["--model", "/no/such/folder"], "/no/such/folder"),
    ],
)
def test_wrong_calls_end_with_one_line(words, said, tmp_path, capsys):
    assert main(["ablation", "--preset", "smoke", "--out", str(tmp_path / "out"), *words]) == 2
    assert said in one_line(capsys)
    assert not (tmp_path / "out").exists()


def test_dry_run_lists_the_cells_and_an_estimate(tmp_path, capsys):
    assert main(["ablation", "--preset", "full", "--dry-run", "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    lines = [line for line in out.splitlines() if line.startswith("pGNN  ")]
    assert len(lines) == 21 * len(DRAWN) and out.rstrip().endswith(" examples to train on")
    assert not (tmp_path / "out").exists()


def test_dry_run_tells_cells_with_scores_from_those_to_run(small, words, tmp_path, capsys):
    out = tmp_path / "copy"
    shutil.copytree(small[0], out)

    def listed() -> list[str]:
        assert main([*words, "--out", str(out), "--dry-run"]) == 0
        return [line for line in capsys.readouterr().out.splitlines() if line]

    *there, last = listed()
    assert all(line.endswith(", has scores") for line in there)
    assert last == f"{len(there)} cells, all with scores"

    (out / "cells" / "pgnn" / "vqa" / "seed0" / "scores.json").unlink()
    *lines, last = listed()
    left = [line for line in lines if not line.endswith(", has scores")]
    assert len(left) == 1 and left[0].startswith("pGNN") and " vqa " in left[0]
    assert re.search(
        rf"^{len(lines)} cells, of which {len(lines) - 1} have scores; the others, .* examples to train on",
        last,
    )


def test_one_command_at_a_time(preset, tmp_path, capsys):
    with sole_use(tmp_path / "out"):
        assert main(["ablation", "--preset", str(preset), "--out", str(tmp_path / "out")]) == 2
        assert "is in use by another command (process" in one_line(capsys)
        assert os.listdir(tmp_path / "out") == [LOCK]
    assert not (tmp_path / "out").exists()


def test_a_tables_folder_is_for_tables(small, capsys):
    out, _ = small
    before = times(out)
    for folder, maker in (
        (out, "ablation"),
        (out / "data", "scenes"),
        (out / "cells/gcn/vqa/seed0", "ablation"),
    ):
        for words in (
            ["tsne"],
            ["bench", "--quick"],
            ["search"],
            ["scenes"],
            ["pretrain"],
            ["ablation", "--dry-run"],
        ):
            if words[0] != maker:
                assert main([*words, "--out", str(folder)]) == 2
                assert f"holds another experiment (of `attngraph {maker}`)" in one_line(capsys)
    assert times(out) == before


def test_a_dry_run_tells_what_would_be_refused(small, preset, capsys):
    out, _ = small
    fewer = ["ablation", "--preset", str(preset), "--tasks", "vqa", "--out", str(out)]
    for words in (fewer, [*fewer, "--dry-run"]):
        assert main(words) == 2
        assert "runs that this one would leave out" in one_line(capsys)


def test_a_folder_under_the_name_of_a_table_is_refused_before_any_work(preset, tmp_path, capsys):
    (tmp_path / "ablation.csv").mkdir()
    assert main(["ablation", "--preset", str(preset), "--out", str(tmp_path)]) == 2
    assert "ablation.csv is no file: move it away" in one_line(capsys)
    assert os.listdir(tmp_path) == ["ablation.csv"]


def test_help_explains(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["ablation", "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    for option in ("--seed", "--device", "--out", "--gnn", "--tasks", "--preset", "--dry-run", "--cache-gb"):
        assert option in out
    for name in ("quick", "full", "smoke"):
        assert load_preset(name).about[:30] in " ".join(out.split())


@pytest.mark.parametrize(
    "file, content, said",
    [
        ("scores.json", "{", "scores.json is damaged (Invalid JSON"),
        ("scores.json", '{"vqa": null}', "scores.json is damaged (row: Field required)"),
        ("config.json", "[]", "config.json is damaged ("),
        ("statistics.npz", "", "statistics.npz is damaged ("),
        ("predictions.json", "{}", "predictions.json is damaged ("),
        ("metrics.csv", "", None),  # no table is made of it
    ],
)
def test_a_damaged_file_is_named_and_no_table_is_made_of_it(
    file, content, said, small, words, tmp_path, capsys
):
    out, _ = small
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    cell = copy / "cells" / "gcn" / "vqa" / "seed0"
    (cell / file).write_text(content)
    before = times(copy)
    assert main([*words, "--out", str(copy)]) == (2 if said else 0)
    if said:
        line = one_line(capsys)
        assert said in line and line.endswith(f"delete the folder {cell} and run again")
        assert before == times(copy)


def test_a_table_of_other_threads_is_refused_and_left_alone(small, words, capsys):
    out, _ = small
    before = times(out)
    assert json.loads((out / "results.json").read_text())["threads"] == 1
    assert main([*words, "--out", str(out), "--threads", "2"]) == 2
    assert "holds another experiment (other threads: 1, not 2)" in one_line(capsys)
    assert before == times(out)


def test_a_smaller_table_does_not_replace_a_larger(small, preset, capsys):
    out, _ = small
    before = times(out)
    assert main(["ablation", "--preset", str(preset), "--tasks", "vqa", "--out", str(out)]) == 2
    assert "runs that this one would leave out" in one_line(capsys)
    assert before == times(out)


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "null",
        '{"vqa": null}',
        '{"cells": null}',
        '{"cells": {}}',
        '{"cells": [{}]}',
        '{"cells": [{"row": "gcn", "task": "vqa", "seed": null}]}',
        "[" * 100_000,
        None,
    ],
)
def test_a_table_that_cannot_be_read_is_left_alone(content, preset, tmp_path, capsys):
    (tmp_path / "ablation.md").write_text("mine")
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    assert main(["ablation", "--preset", str(preset), "--out", str(tmp_path)]) == 2
    line = one_line(capsys)
    assert str(tmp_path) in line and "give another --out" in line
    assert (tmp_path / "ablation.md").read_text() == "mine"


@pytest.mark.parametrize("name", ["ablation.png", "significance.json", "details.md"])
def test_files_of_somebody_else_are_left_alone(name, preset, tmp_path, capsys):
    (tmp_path / name).write_text("mine")
    assert main(["ablation", "--preset", str(preset), "--out", str(tmp_path)]) == 2
    assert "holds a table without its results.json: give another --out" in one_line(capsys)
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {name: "mine"}


def test_cells_of_other_weights_are_not_taken_for_finished(preset, tmp_path, capsys):
    model, out = tmp_path / "model", tmp_path / "out"
    shutil.copytree(CHECKPOINT, model)
    assert weights_digest(model) == weights_digest()
    config = (model / "config.json").read_text()
    (model / "config.json").write_text(config + " ")
    assert weights_digest(model) != weights_digest(), "its configuration belongs to a model"
    (model / "config.json").write_text(config)
    file = tmp_path / "one.yaml"
    file.write_text(SMALL.replace("{gcn: 1, pgnn: 1, frozen: 1, majority: 1}", "{gcn: 0, majority: 1}"))
    words = ["ablation", "--preset", file, "--tasks", "vqa", "--model", model, "--out", out]
    assert main([str(word) for word in words]) == 0
    content = bytearray((model / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (model / "model.safetensors").write_bytes(content)
    os.utime(model / "model.safetensors", ns=(10**18, 10**18))
    capsys.readouterr()
    assert main([str(word) for word in words]) == 2
    assert "holds another experiment (other weights)" in one_line(capsys)


def test_comparisons_use_the_runs_of_this_table_only(small):
    out, _ = small
    cells = [Cell(row, row, {}, task, 0, None, out) for row in ("gcn", "pgnn") for task in ("vqa", "caption")]
    runs = [Run(cell.method, cell.task, cell.seed, {}, cell.folder(out)) for cell in cells]
    lines = compare_with_baseline(runs[:1] + runs[2:], tasks_named(["vqa", "caption"]))
    assert [line["column"] for line in lines] == ["vqa.accuracy"]
    assert json.loads((out / "significance.json").read_text()) != lines
    both = compare_with_baseline(runs, tasks_named(["vqa", "caption"]))
    assert [line["column"] for line in both][:3] == ["vqa.accuracy", "caption.bleu4", "caption.cider"]


@pytest.mark.parametrize(
    "words, said",
    [
        (["search", "--out", "FILE"], "FILE"),
        (["ablation", "--preset", "smoke", "--out", "FILE/x"], "FILE"),
        (["scenes", "--out", "FILE"], "FILE"),
        (["pretrain", "--out", "FILE"], "FILE"),
        (["pretrain", "--device", "cuda:99"], "--device cuda:99 is not available"),
    ],
)
def test_wrong_calls_of_every_command_end_with_one_line(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("FILE").write_text("keep me")
    assert main(words) == 2
    assert said in one_line(capsys)
    assert Path("FILE").read_text() == "keep me"


@pytest.mark.timeout(400)
def test_a_table_goes_on_from_an_archive(small, words, tmp_path):
    """As on another machine: the table is the same, and nothing runs again."""
    out, archive, again = small[0], tmp_path / "archive", tmp_path / "again"
    for path in write_archives(out, archive):
        with tarfile.open(path) as tar:
            tar.extractall(again, filter="data")
    assert main([*words, "--out", str(again)]) == 0
    assert not list(again.rglob("metrics.csv")), "no run trained here"
    for name in ("ablation.txt", "ablation.md", "details.md"):
        assert (again / name).read_bytes() == (out / name).read_bytes()
