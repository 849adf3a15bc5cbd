"""``attngraph score``: the scores of the table from a file of predictions."""

import json

import pandas as pd
import pytest

from attngraph.experiments.cli import main
from attngraph.experiments.data.drawn import Sizes, write_scenes
from attngraph.experiments.tasks import TASKS
from attngraph.experiments.tasks.formats import read_predictions, write_predictions


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("scores") / "data", 0, Sizes((2, 8, 8), (2, 6, 6), (1, 3, 3)))


def said(task, data, split="test"):
    """Every third prediction is another example's."""
    examples = TASKS[task].examples(data, split)
    targets = [TASKS[task].target(example, 0.5) for example in examples]
    return {example.id: targets[k - 1 if k % 3 == 2 else k] for k, example in enumerate(examples)}, examples


@pytest.mark.parametrize("task", ["vqa", "ve", "caption"])
def test_a_tasks_scores_from_its_file(task, data, tmp_path, capsys):
    predictions, examples = said(task, data)
    file = write_predictions(
        tmp_path / "mine.json", TASKS[task].file_format, predictions, [example.id for example in examples]
    )
    words = ["score", str(file), "--task", task, "--data", str(data), "--out", str(tmp_path / "out")]
    assert main(words) == 0
    text = capsys.readouterr().out
    scores = TASKS[task].score(predictions, examples)
    frame = pd.read_csv(tmp_path / "out" / "scores.csv")
    columns = frame[frame["kind"].isna()].set_index("column")["score"].to_dict()
    assert columns == pytest.approx(scores.columns)
    kinds = frame[frame["kind"].notna()].set_index("kind")["score"].to_dict()
    assert kinds == pytest.approx({kind: score for kind, (score, _) in scores.kinds.items()})
    for key, value in scores.columns.items():
        assert key in text and f"{100 * value:.2f}" in text
    details = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert details["evaluator"] == scores.evaluator and scores.evaluator in text
    assert (tmp_path / "out" / "results.json").read_bytes() == file.read_bytes()
    assert main([*words, "--allow-empty"]) == 2, "other settings need another folder"
    file.write_text(json.dumps({**predictions, examples[0].id: ""}))
    if task != "ve":  # whose format writes it as no label
        assert main(words[:-2]) == 2 and "is empty; add" in capsys.readouterr().err
    assert main([*words[:-2], "--allow-empty"]) == 0


def test_a_cells_predictions_score_as_the_cell_did(data, tmp_path, capsys):
    """A frozen model says other words than those of training, and sometimes nothing."""
    predictions, examples = said("ve", data, "validation")
    predictions[examples[0].id], predictions[examples[1].id] = "Yes.", "a dog"
    (tmp_path / "predictions.json").write_text(json.dumps(predictions))
    words = [str(tmp_path / "predictions.json"), "--task", "ve", "--data", str(data), "--split", "validation"]
    assert main(["score", *words, "--out", str(tmp_path / "out")]) == 0
    expected = TASKS["ve"].score(predictions, examples).columns["ve.accuracy"]
    assert f"{100 * expected:.2f}" in capsys.readouterr().out
    ids = [example.id for example in examples]
    labels = read_predictions(tmp_path / "out" / "results.json", TASKS["ve"].file_format, ids)
    assert (labels[ids[0]], labels[ids[1]]) == ("entailment", "-")


def test_a_task_of_a_package_needs_no_folder(tmp_path, capsys):
    examples = TASKS["easy_vqa"].examples(tmp_path, "test")
    records = [{"id": example.id, "answer": example.references[0].upper()} for example in examples]
    (tmp_path / "p.json").write_text(json.dumps(records))
    assert main(["score", str(tmp_path / "p.json"), "--task", "easy_vqa"]) == 0
    text = capsys.readouterr().out
    assert "easy_vqa.accuracy  100.00  100.00 to 100.00" in text and "equality of the answer" in text
    assert main(["score", str(tmp_path / "p.json"), "--task", "easy_vqa", "--data", str(tmp_path)]) == 2
    assert main(["score", str(tmp_path / "p.json"), "--task", "vqa"]) == 2
    assert "--data is missing: use the folder with the data of vqa" in capsys.readouterr().err
