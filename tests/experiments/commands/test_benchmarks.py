"""Commands on official files, from end to end on small drawn data in six layouts."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from attngraph.experiments.cli import main
from attngraph.experiments.data.drawn import make_scenes
from attngraph.experiments.tasks import TASKS

pytestmark = pytest.mark.usefixtures("own_tables")

SIX = [name for name, task in TASKS.items() if task.data_set]
ROWS = """
about: the rows that the tests look at
seeds: {%s: 1}
runs: {recipe: {steps: 2, batch_size: 8}, train_examples: 16, eval_examples: 6}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make_scenes(tmp_path_factory.mktemp("data") / "six", seed=0, size=40)


@pytest.fixture
def vizwiz(folder, tmp_path) -> Path:
    """A folder with one data set, to be damaged."""
    shutil.copytree(folder / "vizwiz_vqa", tmp_path / "data" / "vizwiz_vqa")
    return tmp_path / "data"


def preset(place: Path, row: str) -> str:
    file = place / f"{row}.yaml"
    file.write_text(ROWS % row)
    return str(file)


def ablation(row: str, data: Path, place: Path, *words: object, out: str = "out") -> int:
    options = ["--preset", preset(place, row), "--rows", row, "--data", data, "--out", place / out, *words]
    return main(["ablation", *map(str, options)])


def one_line(capsys) -> str:
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("attngraph:")]
    return line


@pytest.mark.timeout(400)
@pytest.mark.parametrize("row", ["majority", pytest.param("gcn", marks=pytest.mark.slow)])
def test_the_table_of_the_six_benchmarks(row, folder, tmp_path, capsys):
    assert ablation(row, folder, tmp_path) == 0
    said = capsys.readouterr().out
    for words in (
        "texts generated with 3 beams, at most 10 tokens",
        "the best of 3 answers by likelihood (k 3,",
        "scored by VQA v2's evaluator (March 2021)",
        "scored by pycocoevalcap, PTB tokenizer",
        "test is the split test (format karpathy)",
        "test is the split val (format official)",
    ):
        assert words in " ".join(said.split()), words
    frame = pd.read_csv(tmp_path / "out" / "ablation.csv")
    columns = [name.removesuffix("_mean") for name in frame.columns if name.endswith("_mean")]
    due = [c.key for name in SIX for c in TASKS[name].columns if c.averaged]
    assert [name for name in columns if "." in name] == due and len(due) == 9
    assert frame["avg_mean"].notna().all() and not (tmp_path / "out" / "data").exists(), "nothing is drawn"
    cells = tmp_path / "out" / "cells" / row
    scores = json.loads((cells / "snli_ve/seed0/scores.json").read_text())
    assert scores["answering"]["way"] == "rank" and scores["answering"]["k"] == 3
    assert scores["source"] == "test (format official)"
    config = json.loads((cells / "textcaps/seed0/config.json").read_text())
    assert config["settings"]["answering"] == {"way": "generate", "beams": 3, "tokens": 24}
    moved = Path(shutil.copytree(folder, tmp_path / "elsewhere"))
    assert ablation(row, moved, tmp_path) == 0, "the same files in another place are the same data"
    again = capsys.readouterr()
    assert "6 runs, 6 of them finished already" in again.err and again.out == said


def test_damaged_records_are_an_error_or_listed_and_left_out(vizwiz, tmp_path, capsys):
    """By a table, and by whoever scores its predictions afterwards."""
    assert ablation("majority", vizwiz, tmp_path) == 0
    records = json.loads((vizwiz / "vizwiz_vqa" / "val.json").read_text())
    records[0]["answers"] = records[1]["answers"] = []
    (vizwiz / "vizwiz_vqa" / "val.json").write_text(json.dumps(records))
    assert ablation("majority", vizwiz, tmp_path, out="new") == 2
    line = one_line(capsys)
    root = vizwiz / "vizwiz_vqa"
    assert "val.json" in line and f"attngraph data check vizwiz_vqa --root {root} --leave-out" in line
    assert main(["data", "check", "vizwiz_vqa", "--root", str(root), "--leave-out"]) == 1
    assert ablation("majority", vizwiz, tmp_path) == 2
    assert "holds another experiment (other data)" in one_line(capsys)
    assert ablation("majority", vizwiz, tmp_path, out="new") == 0
    assert "2 damaged records skipped" in " ".join(capsys.readouterr().out.split())
    cell = tmp_path / "new/cells/majority/vizwiz_vqa/seed0"
    assert json.loads((cell / "config.json").read_text())["settings"]["data"]["test"]["left out"] == 2
    predictions = str(cell / "predictions.json")
    assert main(["score", predictions, "--task", "vizwiz_vqa", "--data", str(vizwiz)]) == 0
    assert "2 damaged records skipped" in capsys.readouterr().out


def test_answers_may_be_ranked_or_generated(vizwiz, tmp_path, capsys):
    (vizwiz / "vizwiz_vqa" / "answer_list.json").write_text('["red", "a ball", "unanswerable"]')
    assert ablation("frozen", vizwiz, tmp_path, "--set", "runs.answering=rank") == 0
    assert "the best of 3 answers by likelihood (k 3, list" in " ".join(capsys.readouterr().out.split())
    cell = tmp_path / "out" / "cells" / "frozen" / "vizwiz_vqa" / "seed0"
    given = set(json.loads((cell / "predictions.json").read_text()).values())
    assert given <= {"red", "a ball", "unanswerable"}
    assert ablation("frozen", vizwiz, tmp_path) == 2
    assert "other answering" in one_line(capsys)
    (vizwiz / "vizwiz_vqa" / "answer_list.json").write_text('["red", "a ball"]')
    assert ablation("frozen", vizwiz, tmp_path, "--set", "runs.answering=rank") == 2
    assert "other answering" in one_line(capsys), "another list gives other answers"


def test_files_are_read_before_any_picture(vizwiz, tmp_path, capsys):
    (vizwiz / "vizwiz_vqa" / "answer_list.json").write_text("[]")
    assert ablation("frozen", vizwiz, tmp_path, "--set", "runs.answering=rank") == 2
    line = one_line(capsys)
    assert "answer_list.json: the list is empty" in line and "cells failed" not in line
    assert not list((tmp_path / "out").glob("image-states/*")), "whose states take hours"
