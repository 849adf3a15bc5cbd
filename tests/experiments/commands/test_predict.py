"""``attngraph predict``: a finished run answers as it did when it was scored, and every split whole."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from attngraph.experiments.cli import main
from attngraph.experiments.data.drawn import make_scenes
from attngraph.experiments.tasks import TASKS
from tests.experiments.conftest import one_line

pytestmark = pytest.mark.usefixtures("own_tables")

RUNS = [("gcn", "vqa2"), ("gcn", "snli_ve"), ("full", "textcaps"), ("majority", "vizwiz_vqa")]
SERVER = {"vqa2": "question_id", "snli_ve": "pairID", "textcaps": "image_id", "vizwiz_vqa": "image"}
SPOKEN = {"correct": "entailment", "incorrect": "contradiction", "ambiguous": "neutral"}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_scenes(tmp_path_factory.mktemp("data") / "six", seed=0, size=40)


@pytest.fixture(scope="module")
def cells(data, tmp_path_factory) -> Path:
    """The folder of short runs."""
    place = tmp_path_factory.mktemp("runs")
    for row, task in RUNS:
        words = [f"method={row}", f"task={task}", f"data={data}", "train_examples=16", "eval_examples=6"]
        words += [] if row == "majority" else ["recipe={steps: 2, batch_size: 8}"]
        sets = [part for word in words for part in ("--set", word)]
        assert main(["train", *sets, "--track", "none", "--out", str(place), "-q"]) == 0
        shutil.copytree(place / "cells" / row / task / "seed0", place / f"{row}-{task}")
    return place


def predict(*words) -> int:
    return main(["predict", *map(str, words)])


def records(folder: Path) -> list[dict]:
    return json.loads((folder / "results.json").read_text())


def refusal(capsys, *words) -> str:
    assert predict(*words) == 2
    return one_line(capsys)


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


def test_refusals_leave_nothing(data, cells, tmp_path, capsys):
    cell, out = cells / "gcn-vqa2", tmp_path / "out"
    picture = min((data / "textcaps").rglob("*.jpg"))
    to_out = ("--out", out)
    for words, told in (
        ((data, "--data", data, *to_out), "does not contain a finished run"),
        ((cell, "--split", "test", "--image", "x.png"), "--image and --split exclude each other"),
        ((cell, "--text", "what ?", *to_out), "--text requires an image: add --image"),
        ((cell, "--data", data, "--split", "nope", *to_out), "'nope': choose from train, val, test"),
        ((cell, "--data", data, "--format", "nope", *to_out), "'nope': choose from karpathy"),
        ((cell, "--data", tmp_path, *to_out), "vqa2"),
        ((cell, "--data", data, "--model", cells, *to_out), "started from other weights"),
        ((cell,), "--out is missing"),
        ((cell, "--image", picture), "--text is missing"),
        (
            (cell, "--image", picture, "--text", "what ?", "--format", "official"),
            "--format requires --split",
        ),
        ((cell, "--image", tmp_path / "none.png", "--text", "what ?"), "none.png"),
        ((cells / "full-textcaps", "--image", picture, "--text", "what ?"), "--text has no effect"),
        (
            (cell, "--image", picture, "--text", "what ?" + " red" * 200),
            f"the text of {picture} has 204 tokens, and mini-BLIP reads at most",
        ),
    ):
        assert told in refusal(capsys, *words, "-q")
        assert not out.exists()


@pytest.mark.parametrize("run", ["gcn-vqa2", "full-textcaps"])
def test_a_damaged_run_is_refused(run, data, cells, tmp_path, capsys):
    """Weights fit to the last one, and settings are those that the method takes."""
    cell = Path(shutil.copytree(cells / run, tmp_path / "cell"))
    (file,) = cell.glob("*model.safetensors")
    weights, config = load_file(file), json.loads((cell / "config.json").read_text())
    first = min(weights)
    others = {name: tensor for name, tensor in weights.items() if name != first}
    wrong = {
        "not finite": {**weights, first: torch.full_like(weights[first], torch.nan)},
        "does not fit": {**others, first if run == "gcn-vqa2" else "other": torch.zeros(1)},
    }
    for why, tensors in wrong.items():
        save_file(tensors, file)
        said = refusal(capsys, cell, "--data", data, "--out", tmp_path / "out")
        assert str(file) in said and why in said
    file.unlink()
    assert "cannot be read" in refusal(capsys, cell, "--data", data, "--out", tmp_path / "out")
    config["settings"]["settings"]["bygone"] = 1
    for said in ("that gcn does not accept" if run == "gcn-vqa2" else "unknown field bygone", "'weights'"):
        (cell / "config.json").write_text(json.dumps(config))
        assert said in refusal(capsys, cell, "--data", data, "--out", tmp_path / "out")
        config["settings"].pop("weights", None)
    assert not (tmp_path / "out").exists()


# ---- pictures and texts of the user's --------------------------------------------------------------------


def test_a_file_of_questions(data, cells, tmp_path, capsys):
    """Answers are those that were scored, whatever way they are asked for."""
    cell, lines, listed = cells / "gcn-vqa2", tmp_path / "asked.jsonl", tmp_path / "asked.json"
    answers = json.loads((cell / "predictions.json").read_text())
    examples = [example for example in TASKS["vqa2"].examples(data, "test") if example.id in answers]
    records = [{"image": str(one.image), "text": one.prompt, "number": one.id} for one in examples]
    due = [{**record, "answer": answers[record["number"]]} for record in records]
    lines.write_text("\n".join(map(json.dumps, records)))
    assert predict(cell, "--file", lines, "-q") == 0
    assert json.loads(capsys.readouterr().out) == due
    listed.write_text(json.dumps(records))
    assert predict(cell, "--file", listed, "--out", tmp_path / "out", "-q") == 0
    assert json.loads((tmp_path / "out" / "answers.json").read_text()) == due
    capsys.readouterr()
    assert predict(cell, "--image", due[0]["image"], "--text", due[0]["text"], "-q") == 0
    assert capsys.readouterr().out == f"{due[0]['answer']}\n"


def test_captions_have_no_text_and_pictures_lie_beside_the_file(data, cells, tmp_path, capsys):
    picture = min((data / "textcaps").rglob("*.jpg"))
    shutil.copy(picture, tmp_path / "mine.png")
    assert predict(cells / "full-textcaps", "--image", picture, "-q") == 0
    caption = capsys.readouterr().out.strip()
    (tmp_path / "asked.json").write_text('[{"image": "mine.png"}]')
    assert predict(cells / "full-textcaps", "--file", tmp_path / "asked.json", "-q") == 0
    assert json.loads(capsys.readouterr().out) == [{"image": "mine.png", "answer": caption}] and caption
