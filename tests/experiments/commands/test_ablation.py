"""The table's command as a user runs it, from end to end."""

import contextlib
import io
import json
import os
import shutil
import tarfile
from pathlib import Path

import pandas as pd
import pytest

from experiments.base.lock import LOCK, sole_use
from experiments.cli import main
from experiments.models.blip import CHECKPOINT
from experiments.models.weights import weights_digest
from tests.experiments.drawn import DRAWN
from tests.experiments.tables.made import write_archives

ROOT = Path(__file__).parents[3]
SMALL = """
about: the rows and tasks that the tests look at
seeds: {gcn: 1, pgnn: 1, frozen: 1, majority: 1}
runs: {recipe: {steps: 3}, train_examples: 32, eval_examples: 16}
scenes: {questions: [48, 12, 24], hypotheses: [48, 12, 24], captions: [24, 6, 8]}
"""


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
    out, said = tmp_path_factory.mktemp("ablation") / "small", io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        patch.setenv("COLUMNS", "120")
        assert main([*words, "--out", str(out)]) == 0
    return out, said.getvalue()


@pytest.mark.timeout(400)
def test_the_table_stands_in_the_terminal_and_on_disk(small):
    out, said = small
    for word in ("GCN", "pGNN", "Frozen model", "Majority class", "VQA acc", "CIDEr"):
        assert word in said
    for suffix in ("csv", "md", "tex", "png", "txt"):
        assert (out / f"ablation.{suffix}").stat().st_size > 100
    assert "scores by kind" in (out / "details.md").read_text()
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
    assert said.out == first and "8 cells, 8 of them finished already" in said.err
    assert began == {p: p.stat().st_mtime_ns for p in out.glob("cells/*/*/*/scores.json")}


@pytest.mark.parametrize(
    "words, said",
    [
        (["--rows", "gat"], "unknown method 'gat'"),
        (["--seeds", "1001"], "--seeds must be at least 1 and at most 1000"),
        (["--device", "cuda:99", "--dry-run"], "--device cuda:99 is not available"),
        (["--set", "seeds.gcn=many"], "--set seeds.gcn=many"),
        (
            ["--set", "runs.answering=rank", "--set", "checkpoints=0"],
            "--set checkpoints=0: field checkpoints",
        ),
        (["--model", "/no/such/folder"], "/no/such/folder"),
    ],
)
def test_wrong_calls_end_with_one_line(words, said, tmp_path, capsys):
    assert main(["ablation", "--preset", "smoke", "--out", str(tmp_path / "out"), *words]) == 2
    assert said in one_line(capsys)
    assert not (tmp_path / "out").exists()


def test_values_of_the_preset_are_changed(tmp_path, capsys):
    """In the file's own words, as those of an experiment; and first seeds other than 0."""
    words = ["--set", "seeds={gcn: 2}", "--set", "runs.recipe.steps=7", "--seeds", "4-6", "--tasks", "vqa"]
    assert main(["ablation", "--preset", "full", "--dry-run", "--out", str(tmp_path / "out"), *words]) == 0
    *lines, _, _ = capsys.readouterr().out.splitlines()
    assert [line.split("seed ")[1].split()[0] for line in lines] == ["4", "5", "6"]
    assert all(line.startswith("GCN") and " 7 steps" in line for line in lines)


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
    assert last == f"{len(there)} cells, 0 without scores, 0 examples to train on"

    (out / "cells" / "pgnn" / "vqa" / "seed0" / "scores.json").unlink()
    *lines, last = listed()
    left = [line for line in lines if not line.endswith(", has scores")]
    assert len(left) == 1 and left[0].startswith("pGNN") and " vqa " in left[0]
    assert last == f"{len(lines)} cells, 1 without scores, 192 examples to train on"


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


def test_a_table_of_other_threads_is_refused_and_left_alone(small, words, capsys):
    out, _ = small
    before = times(out)
    assert json.loads((out / "results.json").read_text())["threads"] == 1
    assert main([*words, "--out", str(out), "--on", "threads=2"]) == 2
    assert "holds another experiment (other threads: 1, not 2)" in one_line(capsys)
    assert before == times(out)


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
