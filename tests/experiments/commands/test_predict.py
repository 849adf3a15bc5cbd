"""``attngraph predict``: a finished run answers as it did when it was scored, and every split whole."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from experiments.cli import main
from experiments.scenes.layouts.make import make_scenes
from tests.experiments.commands.test_benchmarks import preset

RUNS = [("gcn", "vqa2"), ("gcn", "snli_ve"), ("full", "textcaps"), ("majority", "vizwiz_vqa")]
SERVER = {"vqa2": "question_id", "snli_ve": "pairID", "textcaps": "image_id", "vizwiz_vqa": "image"}
SPOKEN = {"correct": "entailment", "incorrect": "contradiction", "ambiguous": "neutral"}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATTNGRAPH_CACHE", str(tmp_path_factory.mktemp("tables")))
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_scenes(tmp_path_factory.mktemp("data") / "six", seed=0, size=40)


@pytest.fixture(scope="module")
def cells(data, tmp_path_factory) -> Path:
    """The folder of a small table's cells."""
    place = tmp_path_factory.mktemp("runs")
    for row, task in RUNS:
        options = ["--preset", preset(place, row), "--gnn", row, "--tasks", task, "--data", data]
        assert main(["ablation", *map(str, [*options, "--out", place / row / task, "-q"])]) == 0
        (place / "cells").mkdir(exist_ok=True)
        shutil.copytree(
            place / row / task / "cells" / row / task / "seed0", place / "cells" / f"{row}-{task}"
        )
    return place / "cells"


def predict(*words) -> int:
    return main(["predict", *map(str, words)])


def records(folder: Path) -> list[dict]:
    return json.loads((folder / "results.json").read_text())


def refusal(capsys, *words) -> str:
    assert predict(*words) == 2
    error = capsys.readouterr().err
    assert error.startswith("attngraph: ") and error.count("\n") == 1
    return error


@pytest.mark.timeout(400)
@pytest.mark.parametrize("row, task", RUNS)
def test_answers_are_those_that_were_scored(row, task, data, cells, tmp_path):
    cell = cells / f"{row}-{task}"
    split = "val" if task in ("textcaps", "vizwiz_vqa") else "test"
    assert predict(cell, "--data", data, "--split", split, "--out", tmp_path / "out", "-q") == 0
    answered = {str(record.pop(SERVER[task])): record for record in records(tmp_path / "out")}
    scored = json.loads((cell / "predictions.json").read_text())
    assert len(answered) > len(scored) > 4
    for id, text in scored.items():
        assert answered[id] in [{name: SPOKEN.get(text, text)} for name in ("answer", "caption", "label")]


def test_splits_without_annotations(data, cells, tmp_path, capsys):
    out, options = tmp_path / "out", ("--split", "test", "--format", "official")
    assert predict(cells / "gcn-vqa2", "--data", data, *options, "--out", out) == 0
    file = data / "vqa2" / "v2_OpenEnded_mscoco_test2015_questions.json"
    asked = [question["question_id"] for question in json.loads(file.read_text())["questions"]]
    assert [record["question_id"] for record in records(out)] == asked
    assert capsys.readouterr().out == f"{out / 'results.json'}: {len(asked)} answers, VQA v2 results\n"


def test_pictures_that_cannot_be_read_are_answered_with_nothing(data, cells, tmp_path, capsys):
    own = tmp_path / "data"
    shutil.copytree(data / "vizwiz_vqa", own / "vizwiz_vqa")
    broken = min((own / "vizwiz_vqa" / "test").iterdir())
    broken.write_bytes(broken.read_bytes()[:200])
    words = (cells / "majority-vizwiz_vqa", "--data", own, "--split", "test", "--out", tmp_path / "out")
    assert predict(*words, "--skip-bad", 1) == 0
    said = capsys.readouterr()
    assert "1 of them empty" in said.out and f"first one: {broken.stem}" in said.err.replace("image ", "")
    assert [record["answer"] for record in records(tmp_path / "out")].count("") == 1


def test_refusals_leave_nothing(data, cells, tmp_path, capsys):
    cell, out = cells / "gcn-vqa2", tmp_path / "out"
    for words, told in (
        ((data, "--data", data), "holds no finished run"),
        ((cell,), "--data is missing"),
        ((cell, "--data", data, "--split", "nope"), "no split 'nope': choose from train, val, test"),
        ((cell, "--data", data, "--format", "nope"), "format 'nope': choose from"),
        ((cell, "--data", tmp_path), "vqa2"),
        ((cell, "--data", data, "--model", cells), "started from other weights"),
    ):
        assert told in refusal(capsys, *words, "--out", out)
        assert not out.exists()


@pytest.mark.parametrize("harm", ["cut", "shape", "name", "missing"])
@pytest.mark.parametrize("run", ["gcn-vqa2", "full-textcaps"])
def test_weights_fit_to_the_last_one(run, harm, data, cells, tmp_path, capsys):
    cell = Path(shutil.copytree(cells / run, tmp_path / "cell"))
    (file,) = cell.glob("*model.safetensors")
    weights = load_file(file)
    name = min(weights)
    if harm == "cut":
        file.write_bytes(file.read_bytes()[:-9])
    elif harm == "missing":
        file.unlink()
    else:
        tensor = weights.pop(name)
        save_file({**weights, name if harm == "shape" else "other": torch.zeros(*tensor.shape, 1)}, file)
    said = refusal(capsys, cell, "--data", data, "--out", tmp_path / "out")
    assert str(file) in said and ("cannot be read" if harm in ("cut", "missing") else "does not fit") in said
    assert not (tmp_path / "out" / "results.json").exists()


def test_another_list_of_answers_is_refused(data, cells, tmp_path, capsys):
    cell = Path(shutil.copytree(cells / "gcn-vqa2", tmp_path / "cell"))
    result = json.loads((cell / "scores.json").read_text())
    result["answering"] = {"way": "rank", "k": 5, "answers": 7, "digest": "other"}
    (cell / "scores.json").write_text(json.dumps(result))
    assert "answered in another way" in refusal(capsys, cell, "--data", data, "--out", tmp_path / "out")


def test_config_that_lacks_something_or_has_too_much(data, cells, tmp_path, capsys):
    for run, change, told in (
        ("majority-vizwiz_vqa", lambda settings: settings.pop("train_examples"), "no train_examples"),
        ("gcn-vqa2", lambda settings: settings["settings"].update(bygone=1), "that gcn cannot take"),
    ):
        cell = Path(shutil.copytree(cells / run, tmp_path / run))
        config = json.loads((cell / "config.json").read_text())
        change(config["settings"])
        (cell / "config.json").write_text(json.dumps(config))
        said = refusal(capsys, cell, "--data", data, "--out", tmp_path / "out")
        assert str(cell / "config.json") in said and told in said
        assert not (tmp_path / "out").exists()


def test_damaged_training_records_are_left_out_too(data, cells, tmp_path, capsys):
    """Of those whose answers a method counts."""
    own = tmp_path / "data"
    shutil.copytree(data / "vizwiz_vqa", own / "vizwiz_vqa")
    file = own / "vizwiz_vqa" / "train.json"
    records = json.loads(file.read_text())
    records[0]["answers"] = []
    file.write_text(json.dumps(records))
    cell = Path(shutil.copytree(cells / "majority-vizwiz_vqa", tmp_path / "cell"))
    config = json.loads((cell / "config.json").read_text())
    del config["settings"]["data"]  # so that it does not say which these were
    (cell / "config.json").write_text(json.dumps(config))
    words = (cell, "--data", own, "--out", tmp_path / "out")
    assert "train.json" in refusal(capsys, *words)
    assert predict(*words, "--skip-bad", 1) == 0


def test_answers_are_counted_in_the_data_of_the_run_only(data, cells, tmp_path, capsys):
    own = tmp_path / "data"
    shutil.copytree(data / "vizwiz_vqa", own / "vizwiz_vqa")
    file = own / "vizwiz_vqa" / "train.json"
    file.write_text(json.dumps(json.loads(file.read_text())[:-1]))
    words = (cells / "majority-vizwiz_vqa", "--data", own, "--out", tmp_path / "out")
    assert "counted the training answers of other data" in refusal(capsys, *words)
