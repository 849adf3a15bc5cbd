"""``attngraph predict``: a finished run answers as it did when it was scored, and every split whole."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from experiments.cli import main
from experiments.data.drawn import make_scenes
from experiments.tasks import TASKS
from tests.experiments.commands.test_benchmarks import preset

pytestmark = pytest.mark.usefixtures("own_tables")

RUNS = [("gcn", "vqa2"), ("gcn", "snli_ve"), ("full", "textcaps"), ("majority", "vizwiz_vqa")]
SERVER = {"vqa2": "question_id", "snli_ve": "pairID", "textcaps": "image_id", "vizwiz_vqa": "image"}
SPOKEN = {"correct": "entailment", "incorrect": "contradiction", "ambiguous": "neutral"}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_scenes(tmp_path_factory.mktemp("data") / "six", seed=0, size=40)


@pytest.fixture(scope="module")
def cells(data, tmp_path_factory) -> Path:
    """The folder of a small table's cells."""
    place = tmp_path_factory.mktemp("runs")
    for row, task in RUNS:
        options = ["--preset", preset(place, row), "--rows", row, "--tasks", task, "--data", data]
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


def test_refusals_leave_nothing(data, cells, tmp_path, capsys):
    cell, out = cells / "gcn-vqa2", tmp_path / "out"
    for words, told in (
        ((data, "--data", data), "holds no finished run"),
        ((cell, "--split", "test", "--image", "x.png"), "--image and --split are two things to answer"),
        ((cell, "--text", "what ?"), "--text goes with a picture: give --image"),
        ((cell, "--data", data, "--split", "nope"), "'nope': choose from train, val, test"),
        ((cell, "--data", data, "--format", "nope"), "'nope': choose from karpathy"),
        ((cell, "--data", tmp_path), "vqa2"),
        ((cell, "--data", data, "--model", cells), "started from other weights"),
    ):
        assert told in refusal(capsys, *words, "--out", out)
        assert not out.exists()


@pytest.mark.parametrize(
    "run, harm",
    [("gcn-vqa2", "shape"), ("gcn-vqa2", "missing"), ("full-textcaps", "name"), ("full-textcaps", "nan")],
)
def test_weights_fit_to_the_last_one(run, harm, data, cells, tmp_path, capsys):
    cell = Path(shutil.copytree(cells / run, tmp_path / "cell"))
    (file,) = cell.glob("*model.safetensors")
    weights = load_file(file)
    name = min(weights)
    if harm == "missing":
        file.unlink()
    elif harm == "nan":
        save_file({**weights, name: torch.full_like(weights[name], torch.nan)}, file)
    else:
        tensor = weights.pop(name)
        save_file({**weights, name if harm == "shape" else "other": torch.zeros(*tensor.shape, 1)}, file)
    said = refusal(capsys, cell, "--data", data, "--out", tmp_path / "out")
    why = {"shape": "does not fit", "name": "does not fit", "nan": "not finite"}
    assert str(file) in said and why.get(harm, "cannot be read") in said
    assert not (tmp_path / "out" / "results.json").exists()


def test_config_that_lacks_something_or_has_too_much(data, cells, tmp_path, capsys):
    for run, change, told in (
        ("majority-vizwiz_vqa", lambda settings: settings.pop("weights"), "weights"),
        ("gcn-vqa2", lambda settings: settings["settings"].update(bygone=1), "that gcn cannot take"),
    ):
        cell = Path(shutil.copytree(cells / run, tmp_path / run))
        config = json.loads((cell / "config.json").read_text())
        change(config["settings"])
        (cell / "config.json").write_text(json.dumps(config))
        said = refusal(capsys, cell, "--data", data, "--out", tmp_path / "out")
        assert str(cell / "config.json") in said and told in said
        assert not (tmp_path / "out").exists()


# ---- pictures and texts of the user's --------------------------------------------------------------------


@pytest.fixture(scope="module")
def scored(data, cells) -> list[tuple[dict, str]]:
    """What the run on vqa2 was asked, and what it answered."""
    predictions = json.loads((cells / "gcn-vqa2" / "predictions.json").read_text())
    examples = {example.id: example for example in TASKS["vqa2"].examples(data, "test")}
    asked = [{"image": str(examples[id].image), "text": examples[id].prompt} for id in predictions]
    return list(zip(asked, predictions.values(), strict=True))


def test_a_question_at_the_prompt(cells, scored, capsys):
    for asked, answer in scored[:2]:
        words = ["--image", asked["image"], "--text", asked["text"], "-q"]
        assert predict(cells / "gcn-vqa2", *words) == 0
        assert capsys.readouterr().out == f"{answer}\n"


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_a_file_of_questions(suffix, cells, scored, tmp_path, capsys):
    records = [{**asked, "number": str(k)} for k, (asked, _) in enumerate(scored)]
    file = tmp_path / f"asked{suffix}"
    if suffix == ".json":
        file.write_text(json.dumps(records))
    else:
        file.write_text("\n".join(map(json.dumps, records)))
    due = [{**record, "answer": answer} for record, (_, answer) in zip(records, scored, strict=True)]
    assert predict(cells / "gcn-vqa2", "--file", file, "-q") == 0
    assert json.loads(capsys.readouterr().out) == due
    if suffix == ".json":
        assert predict(cells / "gcn-vqa2", "--file", file, "--out", tmp_path / "out", "-q") == 0
        assert json.loads((tmp_path / "out" / "answers.json").read_text()) == due


def test_captions_have_no_text_and_pictures_lie_beside_the_file(data, cells, tmp_path, capsys):
    picture = min((data / "textcaps").rglob("*.jpg"))
    shutil.copy(picture, tmp_path / "mine.png")
    assert predict(cells / "full-textcaps", "--image", picture, "-q") == 0
    caption = capsys.readouterr().out.strip()
    (tmp_path / "asked.json").write_text('[{"image": "mine.png"}]')
    assert predict(cells / "full-textcaps", "--file", tmp_path / "asked.json", "-q") == 0
    assert json.loads(capsys.readouterr().out) == [{"image": "mine.png", "answer": caption}] and caption


def test_refusals_of_pictures_and_texts(data, cells, tmp_path, capsys):
    picture = min((data / "textcaps").rglob("*.jpg"))
    (tmp_path / "text.json").write_text(json.dumps([{"image": str(picture)}]))
    assert "text.json" in refusal(capsys, cells / "gcn-vqa2", "--file", tmp_path / "text.json", "-q")
    for words, told in (
        (("--image", picture), "--text is missing"),
        (
            ("--image", picture, "--text", "what ?", "--out", tmp_path / "out"),
            "--out does not go with --image",
        ),
        (("--image", picture, "--text", "what ?", "--format", "official"), "--format goes with --split"),
        (("--image", tmp_path / "none.png", "--text", "what ?"), "none.png"),
        (("--file", tmp_path / "none.json"), "no such file"),
        (("--image", picture, "--text", "what \udcff"), "--text holds bytes that are no UTF-8"),
        ((), "--out is missing"),
    ):
        assert told in refusal(capsys, cells / "gcn-vqa2", *words, "-q")
    words = (cells / "full-textcaps", "--image", picture, "--text", "what ?", "-q")
    assert "--text changes nothing" in refusal(capsys, *words)
    assert not (tmp_path / "out").exists()
