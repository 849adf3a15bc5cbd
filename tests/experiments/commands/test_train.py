"""``attngraph train`` and ``attngraph evaluate``: a file is a run, and the run's file is the run again."""

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from peft import PeftModel
from PIL import Image
from transformers import BlipForConditionalGeneration

import attngraph
from attngraph.experiments.cli import main
from attngraph.experiments.data.snli_ve import LABELS
from attngraph.experiments.methods.settings import Settings
from attngraph.experiments.models.blip import CHECKPOINT, DESCRIBE
from attngraph.experiments.runs.answering import predict
from attngraph.experiments.tasks import TASKS
from tests.experiments.conftest import one_line

pytestmark = pytest.mark.usefixtures("own_tables")

SMALL = """
method: pgnn
task: vqa
seed: 3
recipe: {steps: 3, batch_size: 8}
train_examples: 16
scenes: {questions: [24, 12, 12], hypotheses: [6, 6, 6], captions: [4, 4, 4]}
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("files") / "small.yaml"
    place.write_text(SMALL)
    return place


@pytest.fixture(scope="module")
def out(file, tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("runs") / "out"
    assert run("train", file, "--out", place, "-q") == 0
    return place


@pytest.fixture(scope="module")
def cell(out) -> Path:
    return out / "cells" / "pgnn" / "vqa" / "seed3"


def run(*words) -> int:
    return main([str(word) for word in words])


def refusal(capsys, *words) -> str:
    assert run(*words) == 2
    return one_line(capsys)


def content(folder: Path) -> dict[str, str]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def scores(folder: Path) -> dict:
    return json.loads((folder / "scores.json").read_text())


def predictions(folder: Path) -> dict:
    return json.loads((folder / "predictions.json").read_text())


# ---- train -----------------------------------------------------------------------------------------------


def test_a_run_leaves_the_file_that_runs_it_again(cell, tmp_path, capsys):
    """Equal to the bit, also where other settings have been chosen on validation data since."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("attngraph.experiments.commands.train.chosen_settings", Settings)
        patch.setattr("attngraph.experiments.commands.train.plugin_files", lambda: (Path("own.py"),))
        assert run("train", cell / "experiment.yaml", "--out", tmp_path / "again") == 0
    said = capsys.readouterr()
    again = tmp_path / "again" / "cells" / "pgnn" / "vqa" / "seed3"
    assert str(again) in said.out and "vqa.accuracy" in said.out
    frozen = scores(tmp_path / "again" / "cells" / "frozen" / "vqa" / "seed0")
    row = (
        f"{100 * scores(again)['scores']['vqa.accuracy']:.2f}  {100 * frozen['scores']['vqa.accuracy']:.2f} "
    )
    assert f"vqa.accuracy  {row}" in said.out and frozen["examples"] == 12
    assert (
        said.out.splitlines()[-1]
        == f"Next: attngraph --plugin own.py predict {again} --image FILE --text WORDS"
    )
    ours, theirs = scores(cell), scores(again)
    for name in ("scores", "kinds", "loss", "learned", "effects", "examples"):
        assert ours[name] == theirs[name]
    same = ("predictions.json", "adapter_model.safetensors", "experiment.yaml", "metrics.csv")
    assert {name: content(cell)[name] for name in same} == {name: content(again)[name] for name in same}


def test_a_finished_run_stays_as_it_is(file, out, cell, tmp_path, capsys):
    before = content(cell)
    assert run("train", file, "--out", out) == 0
    said = capsys.readouterr()
    assert "1 runs, 1 of them finished already" in said.err
    assert f"{100 * scores(cell)['scores']['vqa.accuracy']:.2f}" in said.out
    refused = refusal(capsys, "train", file, "--set", "recipe.clip=2", "--out", out, "-q")
    assert "holds another experiment (other recipe)" in refused and content(cell) == before
    assert run("train", file, "--set", "method=gcn", "--set", "eval_examples=5", "--out", out) == 0
    said = capsys.readouterr()
    assert "frozen model not scored: " in said.err and "Frozen" not in said.out
    assert run("train", file, "--dry-run", "--out", tmp_path / "out") == 0
    shown = capsys.readouterr().out
    assert shown == (cell / "experiment.yaml").read_text() and list(tmp_path.iterdir()) == []


def test_changes_and_no_file(tmp_path, capsys):
    words = ["method=majority", "task=easy_vqa", "eval_examples=9", "train_examples=8"]
    sets = [part for word in words for part in ("--set", word)]
    assert run("train", *sets, "--out", tmp_path / "out", "-q") == 0
    cell = tmp_path / "out" / "cells" / "majority" / "easy_vqa" / "seed0"
    assert scores(cell)["examples"] == 9
    saved = yaml.safe_load((cell / "experiment.yaml").read_text())
    assert (saved["method"], saved["eval_examples"], saved["data"]) == ("majority", 9, None)
    again = ["train", cell / "experiment.yaml", "--out", tmp_path / "out", "-q"]
    assert run(*again) == 0, "the resolved file is the same experiment"
    assert "easy_vqa.accuracy" in capsys.readouterr().out


def test_refusals_leave_nothing(tmp_path, capsys):
    out = tmp_path / "out"
    for words, told in (
        (["scenes-pgn"], "did you mean scenes-pgnn?"),
        (["scenes-pgnn", "--set", "settings.gnn_args.mue=1"], "pgnn has no argument 'mue'"),
        (["scenes-pgnn", "--set", "recipe.accumulation=7"], "cannot be divided"),
        (["scenes-pgnn", "--set", "side=7"], "side 7"),
        (["scenes-pgnn", "--set", "model=no/such", "--dry-run"], "no/such"),
    ):
        assert told in refusal(capsys, "train", *words, "--out", out, "-q")
        assert not out.exists()


# ---- evaluate --------------------------------------------------------------------------------------------


def test_the_scores_of_the_run_come_out_again(cell, tmp_path, capsys):
    before = content(cell)
    assert run("evaluate", cell, "--out", tmp_path / "out") == 0
    assert content(cell) == before
    ours, theirs = scores(cell), scores(tmp_path / "out")
    (line,) = [line for line in theirs["lines"] if line["kind"] is None]
    assert line["score"] == ours["scores"]["vqa.accuracy"] and theirs["examples"] == ours["examples"]
    with np.load(cell / "statistics.npz") as one, np.load(tmp_path / "out" / "statistics.npz") as two:
        assert np.array_equal(one["vqa.accuracy"], two["vqa.accuracy"])
    assert predictions(cell) == predictions(tmp_path / "out")
    assert "VQA (Scenes, VQA v2 format): 12 examples" in capsys.readouterr().out


def test_another_split_and_way_to_answer(cell, tmp_path, capsys):
    sets = ["--set", "decoding={num_beams: 2, max_new_tokens: 2}", "--set", "eval_examples=7"]
    assert run("evaluate", cell, "--split", "validation", *sets, "--out", tmp_path / "out", "-q") == 0
    made = scores(tmp_path / "out")
    assert made["answering"] == {"way": "generate", "beams": 2, "tokens": 2}
    assert (made["split"], made["examples"]) == ("validation", 7)
    assert "with 2 beams, at most 2 tokens" in capsys.readouterr().out


def test_refusals_of_evaluate(cell, six, tmp_path, capsys):
    before = content(cell)
    for words, told in (
        ((tmp_path,), "does not contain a finished run"),
        ((cell, "--set", "decoding.beams=3"), "did you mean num_beams?"),
        ((cell, "--set", "ranking.k=3"), "generates its answers: remove k\n"),
        ((cell, "--set", "answering=rank"), "vqa has no list of answers: remove answering"),
        ((cell, "--data", six), "no synthetic scenes"),
        ((cell, "--out", cell), "already exists"),
        ((cell, "--model", six), "started from other weights"),
    ):
        assert told in refusal(capsys, "evaluate", *words, "-q") + "\n"
    assert content(cell) == before


def test_a_list_is_ranked_as_the_run_ranked_it(six, tmp_path, capsys):
    words = ["method=frozen", "task=vqa2", f"data={six}", "eval_examples=6", "answering=rank"]
    words += ["ranking={k: 3, label_smoothing: 0.1}"]
    sets = [part for word in words for part in ("--set", word)]
    assert run("train", *sets, "--out", tmp_path / "out", "-q") == 0
    cell = tmp_path / "out" / "cells" / "frozen" / "vqa2" / "seed0"
    about = scores(cell)["answering"]
    assert (about["way"], about["k"], about["smoothing"]) == ("rank", 3, 0.1)
    assert run("evaluate", cell, "--out", tmp_path / "same", "-q") == 0
    assert scores(tmp_path / "same")["answering"] == about
    assert predictions(tmp_path / "same") == predictions(cell)
    assert run("evaluate", cell, "--set", "ranking.k=1", "--out", tmp_path / "one", "-q") == 0
    assert scores(tmp_path / "one")["answering"]["k"] == 1
    assert run("evaluate", cell, "--set", "answering=generate", "--out", tmp_path / "text", "-q") == 0
    assert scores(tmp_path / "text")["answering"]["way"] == "generate"
    assert "ranks a list of answers" in refusal(
        capsys, "evaluate", cell, "--set", "decoding.num_beams=2", "-q"
    )


# ---- in Python -------------------------------------------------------------------------------------------


def records_of(examples) -> list[dict]:
    """With images in memory."""
    return [
        {"image": Image.open(one.image).copy(), "text": one.prompt, "answer": list(one.references)}
        for one in examples
    ]


def test_evaluate_as_released_uses_the_prompt_of_the_released_code(cell, monkeypatch):
    """As a run does, which is trained with this prompt."""
    asked = []

    def first_prompt(tuned, data, way):
        asked.append(data.sample(0).prompt)
        return predict(tuned, data, way)

    monkeypatch.setattr("attngraph.experiments.commands.evaluate.predict", first_prompt)
    listed = records_of(TASKS["caption"].examples(cell.parents[3] / "data", "test"))[:2]
    for released in (None, "blip", "p_adapter"):
        decoding = {"as_released": released, "max_new_tokens": 20} if released else {}
        attngraph.evaluate(None, "coco", listed, decoding=decoding)
    assert asked == [DESCRIBE, "a picture of", DESCRIBE]


def test_evaluate_returns_what_the_command_writes(cell, tmp_path):
    """Whether the model is the run's folder or in memory, and the data a folder or records. Would catch
    another prompt, another way to answer, images changed on the way, and dropped adapters.
    """
    assert run("evaluate", cell, "--out", tmp_path / "out", "-q") == 0
    written = (tmp_path / "out" / "scores.csv").read_text()
    assert attngraph.evaluate(cell).to_csv(index=False) == written
    data = cell.parents[3] / "data"
    base = BlipForConditionalGeneration.from_pretrained(CHECKPOINT)
    frozen = attngraph.evaluate(base, "vqa", data)
    assert (
        frozen.equals(attngraph.evaluate("mini-blip", "vqa", data)) and frozen.to_csv(index=False) != written
    )
    model = PeftModel.from_pretrained(base, cell).train()
    assert attngraph.evaluate(model, "vqa", data).to_csv(index=False) == written
    assert model.training, "the model is left as it was"
    listed, due = records_of(TASKS["vqa"].examples(data, "test")), attngraph.evaluate(cell).iloc[0]
    for records in (listed, {"test": listed}):
        first = attngraph.evaluate(cell, data=records).iloc[0]
        assert (first["score"], first["number"]) == (due["score"], len(listed))


def test_evaluate_reads_objects_of_the_library_datasets(cell, tmp_path):
    """Images as files' bytes, and class labels by their names."""
    datasets = pytest.importorskip("datasets")
    data = cell.parents[3] / "data"
    listed = records_of(TASKS["vqa"].examples(data, "test"))
    table = datasets.Dataset.from_list(listed).cast_column("image", datasets.Image())
    due = attngraph.evaluate(cell).iloc[0]
    for records in (table, datasets.DatasetDict(test=table)):
        first = attngraph.evaluate(cell, data=records).iloc[0]
        assert (first["score"], first["number"]) == (due["score"], len(listed))
    pairs = records_of(TASKS["ve"].examples(data, "test"))
    for pair in pairs:
        pair["answer"] = LABELS.index(pair["answer"][0])
    table = datasets.Dataset.from_list(pairs).cast_column("image", datasets.Image())
    table = table.cast_column("answer", datasets.ClassLabel(names=list(LABELS)))
    due = attngraph.evaluate("mini-blip", "ve", data).iloc[0]
    assert attngraph.evaluate("mini-blip", "ve", table).iloc[0]["score"] == due["score"]


def test_evaluate_on_another_task_and_in_another_way(cell, tmp_path):
    """A run answers captions with the captions' prompt and reports the captions' columns."""
    data = cell.parents[3] / "data"
    frame = attngraph.evaluate(cell, "caption", data, split="validation", eval_examples=3)
    assert set(frame["column"].dropna()) == {"caption.bleu4", "caption.cider", "caption.scene"}
    assert frame["number"].iloc[0] == 3
    assert attngraph.evaluate(cell, "easy_vqa", eval_examples=2)["number"].iloc[0] == 2
    labels = [{"image": "none.png", "text": "a ball .", "answer": "yes"}]
    Image.effect_noise((32, 32), 50).save(tmp_path / "x.png")
    (tmp_path / "x.png").write_bytes((tmp_path / "x.png").read_bytes()[:200])
    truncated = Image.open(tmp_path / "x.png")
    for words, options, told in (
        ((cell, "vqa", data), {"decoding": {"beams": 3}}, "did you mean num_beams?"),
        ((cell,), {"num_beams": 3}, "num_beams (did you mean decoding.num_beams?); use options such as"),
        ((None,), {}, "task is missing"),
        ((None, labels, "vqa"), {}, "the task is of type list"),
        ((torch.nn.Linear(2, 2), "vqa", labels), {}, "Linear is not a model with a tokenizer"),
        ((None, "vqa2"), {}, "--data is missing"),
        ((None, "vqa", []), {}, "there are no records"),
        ((None, "vqa", [labels[0] | {"answer": " "}]), {}, "'answer' of record 0 is empty"),
        ((None, "vqa", [labels[0] | {"image": truncated}]), {}, "'image' of record 0 cannot be decoded"),
        ((None, "vqa", [{"image": "x.png", "question": "what ?"}]), {}, "record 0 has no field 'answer'"),
        ((None, "vqa", labels), {"split": "test"}, "not given by split"),
        ((None, "vqa", labels), {}, "image none.png not found"),
    ):
        with pytest.raises(attngraph.UserError, match=re.escape(told)):
            attngraph.evaluate(*words, **options)
