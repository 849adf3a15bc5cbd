"""The table's command as a user runs it, from end to end."""

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys

import pandas as pd
import pytest
from peft import LoraConfig
from PIL import Image

import attngraph
from attngraph.experiments.base.lock import sole_use
from attngraph.experiments.cli import main
from attngraph.experiments.methods.peft import row_name
from attngraph.experiments.models.blip import CHECKPOINT
from tests.experiments.drawn import DRAWN

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
    """And every run keeps what made it."""
    out, said = small
    for word in ("GCN", "pGNN", "Frozen model", "Majority class", "VQA acc", "CIDEr"):
        assert word in said
    for suffix in ("csv", "md", "tex", "png", "txt"):
        assert (out / f"ablation.{suffix}").stat().st_size > 100
    assert "scores by kind" in (out / "details.md").read_text()
    columns = set(pd.read_csv(out / "ablation.csv").columns)
    assert {"vqa.accuracy_mean", "caption.bleu4_mean", "caption.cider_mean"} <= columns
    folder = out / "cells" / "pgnn" / "vqa" / "seed0"
    config, scores = (json.loads((folder / f"{name}.json").read_text()) for name in ("config", "scores"))
    assert config["settings"]["settings"]["gnn"] == "pgnn" and "torch" in config["versions"]
    assert scores["parameters"] > 1000 and scores["peak_mb"] > 50 and scores["train_seconds"] > 0
    assert len(json.loads((folder / "predictions.json").read_text())) == scores["examples"]
    metrics = pd.read_csv(folder / "metrics.csv")
    assert list(metrics.columns) == ["step", "loss", "learning_rate", "gradient_norm"]
    assert len(metrics) == 3


def test_a_second_call_runs_nothing_again(small, words, capfd, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    out, first = small
    before = times(out / "cells")
    assert main([*words, "--out", str(out)]) == 0
    said = capfd.readouterr()
    assert said.out == first and "8 runs, 8 of them finished already" in said.err
    assert times(out / "cells") == before


def test_compare_returns_what_the_command_writes(small, preset, capsys):
    """Of finished runs, taken as they are. Would catch other rows, tasks or seeds than were asked."""
    out, _ = small
    before, due = times(out / "cells"), (out / "ablation.csv").read_text()
    options = dict(preset=str(preset), out=out)
    frame = attngraph.compare(["gcn", "pGNN"], ["vqa", "caption"], **options)
    assert frame.to_csv(index=False) == due and times(out / "cells") == before
    assert not capsys.readouterr().out
    for methods, more, told in (
        (["gcm"], {}, "did you mean gcn?"),
        (["gcn"], {"seed": 2}, "did you mean seeds?"),
        (["gcn"], {"tasks": "vqa"}, "runs that this one does not have"),
        *((["gcn"], {"seeds": seeds}, f"seeds={seeds!r}: use") for seeds in ([0, 0], [-1], [1.5], "3", 0)),
    ):
        with pytest.raises(attngraph.UserError, match=re.escape(told)):
            attngraph.compare(methods, **options, **more)


@pytest.mark.timeout(400)
def test_compare_trains_peft_configurations(preset, tmp_path, capsys):
    """In worker processes, each as it was given; and the command runs them again from their files."""
    out, config = tmp_path / "out", LoraConfig(r=2, target_modules=["query"])
    name = row_name(config)
    frame = attngraph.compare([config, "ia3"], "vqa", preset=str(preset), out=out)
    assert frame["name"].tolist() == [name, "(IA)³", "Frozen model", "Majority class"]
    saved = json.loads((out / "cells" / name / "vqa" / "seed0" / "adapter_config.json").read_text())
    assert (saved["r"], saved["target_modules"]) == (2, ["query"])
    words = ["--plugin", out / "rows" / name / "adapter_config.json", "ablation", "--preset", preset]
    words += ["--rows", f"{name},ia3", "--tasks", "vqa", "--out", out]
    before = times(out / "cells")
    assert main(list(map(str, words))) == 0 and times(out / "cells") == before
    assert "4 runs, 4 of them finished already" in capsys.readouterr().err
    # another process knows the row by its file
    folder = out / "cells" / name / "vqa" / "seed0"
    code = f"import attngraph; print(attngraph.evaluate({str(folder)!r})['score'][0])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    scores = json.loads((folder / "scores.json").read_text())["scores"]
    assert float(done.stdout) == scores["vqa.accuracy"]


@pytest.mark.timeout(400)
def test_compare_takes_records(preset, tmp_path, monkeypatch):
    """By split, with images in memory; the frozen model's score is that of evaluate on the test records.
    Would catch splits that are mixed up, and labels or images that are lost on the way.
    """
    monkeypatch.setenv("ATTNGRAPH_CACHE", str(tmp_path / "cache"))
    labels = ("entailment", "contradiction", "neutral")
    data = {
        split: [
            {
                "image": Image.new("RGB", (64, 64), (40 * k, 80, 200 - 10 * k)),
                "text": f"there is a {('red', 'blue')[k % 2]} circle .",
                "answer": labels[(k + shift) % 3],
            }
            for k in range(count)
        ]
        for split, count, shift in (("train", 8, 0), ("validation", 3, 1), ("test", 6, 2))
    }
    out, options = tmp_path / "out", dict(preset=str(preset))
    frame = attngraph.compare(["gcn"], "snli_ve", data, out=out, **options).set_index("name")
    scores = json.loads((out / "cells" / "gcn" / "snli_ve" / "seed0" / "scores.json").read_text())
    assert (scores["trained_on"], scores["examples"]) == (8, 6)
    due = attngraph.evaluate("mini-blip", "snli_ve", data["test"])["score"][0]
    assert frame.loc["Frozen model", "snli_ve.accuracy_mean"] == due
    wrong = {**data, "train": [{**data["train"][0], "answer": "yes"}]}
    for task, records, told in (
        ("vqa", data, "task vqa reads no records: choose from vqa2, "),
        ("snli_ve", {"train": data["train"]}, "no split 'validation'"),
        ("snli_ve", wrong, "field 'answer' of record 0 is 'yes'"),
        ("snli_ve", data["train"], "not given by split"),
    ):
        with pytest.raises(attngraph.UserError, match=told):
            attngraph.compare(["gcn"], task, records, out=tmp_path / "other", **options)
    assert not (tmp_path / "other").exists(), "wrong records are refused before any is written"
    with pytest.raises(attngraph.UserError, match="field 'answer' of record 0 is 'yes'"):
        attngraph.evaluate("mini-blip", "snli_ve", wrong["train"])
    before = times(out)
    with pytest.raises(attngraph.UserError, match="holds other records"):
        attngraph.compare(["gcn"], "snli_ve", {**data, "test": data["train"]}, out=out, **options)
    assert times(out) == before, "records of a finished run are not replaced"


def test_a_dry_run_lists_the_cells_and_an_estimate(tmp_path, capsys):
    """Values of the preset are changed in the file's own words, and first seeds may be others than 0."""
    words = ["ablation", "--preset", "full", "--dry-run", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    out = capsys.readouterr().out
    lines = [line for line in out.splitlines() if line.startswith("pGNN  ")]
    assert out.splitlines()[0].endswith(" examples to train on")
    assert [line.split()[1] for line in lines] == list(DRAWN)
    assert all(line.endswith("  0-20   0 of 21") for line in lines)
    sets = ["--set", "seeds={gcn: 2}", "--set", "runs.recipe.steps=7", "--seeds", "4-6", "--tasks", "vqa"]
    assert main([*words, *sets]) == 0
    *_, line = capsys.readouterr().out.splitlines()
    assert line.split()[:2] == ["GCN", "vqa"] and " 7 steps " in line and line.endswith("  4-6    0 of 3")
    assert not (tmp_path / "out").exists()


def test_dry_run_tells_cells_with_scores_from_those_to_run(small, words, tmp_path, capsys):
    out = tmp_path / "copy"
    shutil.copytree(small[0], out)

    def listed() -> list[str]:
        assert main([*words, "--out", str(out), "--dry-run"]) == 0
        return [line for line in capsys.readouterr().out.splitlines() if line]

    first, _, *lines = listed()
    assert all(line.endswith(" 1 of 1") for line in lines)
    assert first == f"{len(lines)} runs: {len(lines)} finished, 0 to run, 0 examples to train on"
    (out / "cells" / "pgnn" / "vqa" / "seed0" / "scores.json").unlink()
    first, _, *lines = listed()
    (left,) = [line for line in lines if not line.endswith(" 1 of 1")]
    assert left.startswith("pGNN") and " vqa " in left
    assert first == f"{len(lines)} runs: {len(lines) - 1} finished, 1 to run, 192 examples to train on"


def test_what_is_refused_leaves_the_folder_as_it_is(small, preset, words, capsys):
    """Fewer runs than the table has, other threads, and a folder that is in use."""
    out, _ = small
    before = times(out)
    fewer = ["ablation", "--preset", str(preset), "--tasks", "vqa"]
    for asked, said in (
        (fewer, "runs that this one does not have"),
        ([*fewer, "--dry-run"], "runs that this one does not have"),
        ([*words, "--on", "threads=2"], "holds another experiment (other threads: 1, not 2)"),
    ):
        assert main([*asked, "--out", str(out)]) == 2
        assert said in one_line(capsys)
    with sole_use(out):
        assert main([*words, "--out", str(out)]) == 2
        assert "is in use by another command" in one_line(capsys)
    assert times(out) == before


@pytest.mark.slow
def test_compare_does_not_start_again_in_workers_that_import_the_script(tmp_path):
    """As they do if the script has no guard."""
    script = tmp_path / "script.py"
    call = f"attngraph.compare(['gcn'], 'vqa', out={str(tmp_path / 'out')!r})"
    script.write_text(
        "import attngraph, multiprocessing\n"
        f"if __name__ != '__main__': {call}\n"
        "else: multiprocessing.get_context('spawn').Process(target=print).start()\n"
    )
    said = subprocess.run([sys.executable, str(script)], capture_output=True, text=True).stderr
    assert 'call compare below `if __name__ == "__main__":`' in said
    assert not (tmp_path / "out").exists()


def test_cells_of_other_weights_are_not_taken_for_finished(preset, tmp_path, capsys):
    model, out = tmp_path / "model", tmp_path / "out"
    shutil.copytree(CHECKPOINT, model)
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
