"""A cell is trained, scored and saved once; other settings, damaged files and other weights are noticed."""

import json
import os
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import torch

from attngraph.errors import UserError
from experiments.datasets.example import Example
from experiments.models import Ranking
from experiments.models.weights import weights_digest
from experiments.tasks import TASKS
from experiments.training import cells
from experiments.training.cells import Cell, is_finished, per_image, read_scores, run_cell
from experiments.training.execution import Execution
from experiments.training.recipe import Recipe
from tests.experiments.training.small import ADAPTER, SmallTask, small_cell, small_examples

FINISHED = {
    "experiment.yaml",
    "config.json",
    "metrics.csv",
    "adapter_config.json",
    "adapter_model.safetensors",
    "predictions.json",
    "statistics.npz",
    "scores.json",
}


@pytest.fixture
def cell(tmp_path, monkeypatch):
    """A cell on the small model and task, in ``tmp_path``."""
    return small_cell(tmp_path, monkeypatch)


def test_a_cell_is_run_once(cell, tmp_path):
    steps = []
    result = run_cell(cell, Execution(tmp_path), on_step=steps.append)
    folder = cell.folder(tmp_path)
    assert steps == [1, 2, 3, 4] and {file.name for file in folder.iterdir()} == FINISHED
    assert is_finished(cell, Execution(tmp_path)) and read_scores(cell, tmp_path) == result
    assert run_cell(cell, Execution(tmp_path), on_step=lambda step: pytest.fail("trained again")) == result
    assert (result["row"], result["task"], result["seed"], result["split"]) == ("pgnn", "small", 3, "test")
    assert (result["examples"], result["trained_on"]) == (8, 8)
    assert result["scores"].keys() == {"small.accuracy"} and result["loss"] > 0
    assert result["started"].keys() == result["learned"].keys() and result["started"] != result["learned"]
    assert len(result["effects"]) == 2, "one self-attention and one cross-attention"
    assert all(0 < effect["kappa"] < 1 for effect in result["effects"].values())
    assert result["train_seconds"] > 0 and result["peak_mb"] > 50
    predictions = json.loads((folder / "predictions.json").read_text())
    assert list(predictions) == [f"e{k}" for k in range(8)]
    with np.load(folder / "statistics.npz") as statistics:
        sums = statistics["small.accuracy"]
    assert sums.shape == (4, 2), "two questions about each of four pictures"
    assert sums[:, 0].sum() / sums[:, 1].sum() == pytest.approx(result["scores"]["small.accuracy"])


def test_the_seed_decides(cell, tmp_path):
    losses = [
        run_cell(replace(cell, seed=seed), Execution(tmp_path / str(k)))["loss"]
        for k, seed in enumerate((3, 3, 4))
    ]
    assert losses[0] == losses[1] != losses[2]


def test_a_cell_that_was_interrupted_while_scoring_trains_no_more(cell, tmp_path, monkeypatch):
    whole = run_cell(cell, Execution(tmp_path / "whole"))
    with monkeypatch.context() as patch:
        patch.setattr(cells, "predict", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run_cell(cell, Execution(tmp_path))
    assert not is_finished(cell, Execution(tmp_path))
    result = run_cell(cell, Execution(tmp_path), on_step=lambda step: pytest.fail("trained again"))
    assert {file.name for file in cell.folder(tmp_path).iterdir()} == FINISHED
    for key in ("scores", "loss", "learned", "parameters"):
        assert result[key] == whole[key]


def test_a_cell_from_before_pictures_could_be_changed_is_finished(cell, tmp_path):
    run_cell(cell, Execution(tmp_path))
    file = cell.folder(tmp_path) / "config.json"
    assert "augment" not in file.read_text() and is_finished(cell, Execution(tmp_path))
    changing = replace(cell, recipe=replace(cell.recipe, augment=True))
    result = run_cell(changing, Execution(tmp_path / "changing"))
    saved = json.loads((changing.folder(tmp_path / "changing") / "config.json").read_text())
    assert saved["settings"]["recipe"]["augment"] is True
    assert result["loss"] != read_scores(cell, tmp_path)["loss"]


@pytest.mark.parametrize("cache_gb", [1, 0])
def test_examples_whose_pictures_cannot_be_read_are_left_out_and_counted(cache_gb, cell, tmp_path):
    run = Execution(tmp_path, cache_gb=cache_gb)
    picture = tmp_path / "pictures" / "1.png"
    picture.write_bytes(picture.read_bytes()[:300])
    with pytest.raises(UserError, match="1.png cannot be read .*: replace the file"):
        run_cell(cell, run)
    lenient = replace(cell, skip_bad=2)
    assert lenient.description() == cell.description(), "what was left out counts, not how much may be"
    result = run_cell(lenient, run)
    assert result["examples"] == 6 and result["left_out"] == {"train": 2, "test": 2}
    predictions = json.loads((cell.folder(tmp_path) / "predictions.json").read_text())
    assert list(predictions) == ["e0", "e1", "e4", "e5", "e6", "e7"]
    with np.load(cell.folder(tmp_path) / "statistics.npz") as statistics:
        assert statistics["small.accuracy"].shape == (3, 2)
    assert is_finished(lenient, run)


def test_methods_without_training(cell, tmp_path):
    for name in ("frozen", "majority"):
        untrained = replace(cell, label=name, method=name, settings={}, recipe=None, eval_examples=6)
        result = run_cell(untrained, Execution(tmp_path))
        assert result["effects"] == result["started"] == {}
        assert result["loss"] is None and result["parameters"] == 0 and result["examples"] == 6
        names = {file.name for file in untrained.folder(tmp_path).iterdir()}
        assert names == FINISHED - {"metrics.csv", "adapter_config.json", "adapter_model.safetensors"}
    predictions = json.loads((untrained.folder(tmp_path) / "predictions.json").read_text())
    assert set(predictions.values()) == {"yes"}


def test_cells_of_an_empty_folder_are_not_finished(tmp_path):
    assert not is_finished(Cell("gcn", "gcn", {}, "vqa", 0, None, tmp_path), Execution(tmp_path))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "change, named",
    [
        ({"settings": {**ADAPTER, "join": "gated"}}, "settings"),
        ({"recipe": Recipe(1e-3, 4, batch_size=4)}, "recipe"),
        ({"recipe": Recipe(1e-2, 4, batch_size=4, augment=True)}, "recipe"),
        ({"eval_examples": 3}, "eval_examples"),
        ({"split": "validation"}, "split"),
    ],
)
def test_another_experiment_in_the_folder_is_refused(change, named, cell, tmp_path):
    begin(cell, tmp_path)
    assert not is_finished(cell, Execution(tmp_path)), "begun, with these settings"
    for call in (is_finished, run_cell):
        with pytest.raises(
            UserError, match=rf"holds another experiment \(other {named}\): give another --out"
        ):
            call(replace(cell, **change), Execution(tmp_path))
    assert os.listdir(cell.folder(tmp_path)) == ["config.json"]


def test_other_data_are_another_experiment(cell, tmp_path):
    begin(cell, tmp_path)
    (cell.data / "manifest.json").write_text('{"seed": 1}')
    with pytest.raises(UserError, match=r"other data"):
        is_finished(cell, Execution(tmp_path))


@pytest.mark.parametrize(
    "conditions, said",
    [
        ({"threads": 2, "processes": 1}, r"other threads: 2, not 1"),
        ({"threads": 1, "processes": 2}, r"other processes: 2, not 1"),
        ({}, r"other threads: unknown, not 1, processes: unknown, not 1"),
    ],
)
def test_runs_of_other_threads_or_processes_are_not_mixed(conditions, said, cell, tmp_path):
    begin(cell, tmp_path, conditions)
    for call in (is_finished, run_cell):
        with pytest.raises(UserError, match=rf"holds another experiment \({said}\)"):
            call(cell, Execution(tmp_path))


def test_a_cell_is_computed_with_the_threads_that_it_says(cell, tmp_path, monkeypatch):
    threads, train = [], cells.train
    monkeypatch.setattr(cells, "train", lambda *a: threads.append(torch.get_num_threads()) or train(*a))
    before = torch.get_num_threads()
    for count in (1, 2):
        run_cell(cell, Execution(tmp_path / str(count), threads=count))
        config = json.loads((cell.folder(tmp_path / str(count)) / "config.json").read_text())
        assert (config["threads"], config["processes"]) == (count, 1)
    assert threads == [1, 2] and torch.get_num_threads() == before


DEEP = "[" * 100_000
NUMBERS = {"shape": np.zeros(4), "text": np.full((4, 2), "a"), "nan": np.full((4, 2), np.nan)}
DAMAGE = {
    "config.json": ["{", "", "null", "[]", '{"settings": null}', '{"settings": []}', DEEP, b"\xff", None],
    "scores.json": [
        "{",
        "",
        "null",
        "[]",
        "{}",
        '{"vqa": null}',
        '{"scores": {"small.accuracy": null}}',
        DEEP,
    ],
    "statistics.npz": [
        "",
        "PK",
        b"PK\x03\x04 no archive",
        {},
        *({"small.accuracy": x} for x in NUMBERS.values()),
        None,
    ],
    "predictions.json": ["{", "[]", "null", '{"e0": "yes"}', '{"e0": null}', DEEP, None],
}


@pytest.fixture
def finished(cell, tmp_path):
    run_cell(cell, Execution(tmp_path))
    return cell.folder(tmp_path)


def test_damaged_files_are_named_with_the_remedy(cell, finished, tmp_path):
    for file, contents in DAMAGE.items():
        whole = (finished / file).read_bytes()
        for content in contents:
            spoil(finished / file, content)
            with pytest.raises(UserError) as error:
                is_finished(cell, Execution(tmp_path))
            assert str(error.value).startswith(f"{finished / file} is damaged ("), content
            assert str(error.value).endswith(f"): delete the folder {finished} and run again"), content
            assert "\n" not in str(error.value) and len(str(error.value)) < 600
        (finished / file).write_bytes(whole)
    assert is_finished(cell, Execution(tmp_path))


@pytest.mark.parametrize(
    "change, said",
    [
        (
            {"scores": {"small.accuracy": 0.125}},
            "statistics.npz is damaged .*they give .*, scores.json says 0.125",
        ),
        (
            {"scores": {"small.accuracy": float("nan")}},
            "scores.small.accuracy: Input should be a finite number",
        ),
        ({"scores": {"other": 0.5}}, "no small.accuracy"),
        ({"row": "gcn"}, "of gcn small seed 3"),
        ({"seed": 4}, "of pgnn small seed 4"),
        ({"seed": "3"}, "seed: Input should be a valid integer"),
        ({"examples": 7}, "predictions.json is damaged .*not 7 texts"),
        ({"kinds": {"yesno": 1}}, "kinds.yesno"),
        ({"effects": {"layer": {"kappa": "all"}}}, "effects.layer.kappa"),
        ({"loss": "low"}, "loss: Input should be a valid number"),
    ],
)
def test_scores_that_the_other_files_contradict_are_not_taken(change, said, cell, finished, tmp_path):
    scores = json.loads((finished / "scores.json").read_text())
    (finished / "scores.json").write_text(json.dumps({**scores, **change}))
    for read in (lambda: is_finished(cell, Execution(tmp_path)), lambda: read_scores(cell, tmp_path)):
        with pytest.raises(UserError, match=said):
            read()


def test_results_of_earlier_versions_are_read(cell, finished, tmp_path):
    scores = json.loads((finished / "scores.json").read_text())
    earlier = {key: value for key, value in scores.items() if key not in ("started", "effects")}
    (finished / "scores.json").write_text(json.dumps(earlier))
    assert read_scores(cell, tmp_path) == earlier


def test_runs_with_a_schemes_earlier_name_are_finished(cell, finished, tmp_path):
    config = (finished / "config.json").read_text()
    (finished / "config.json").write_text(config.replace('"gnn": "pgnn"', '"gnn": "placebo"'))
    renamed = replace(cell, settings={**cell.settings, "gnn": "rotated"})
    assert is_finished(renamed, Execution(tmp_path))


ALONE = MappingProxyType({"threads": 1, "processes": 1})


def begin(cell, out, conditions=ALONE):
    """As if the cell had been interrupted."""
    cell.folder(out).mkdir(parents=True)
    config = {"settings": cell.description(), **conditions}
    (cell.folder(out) / "config.json").write_text(json.dumps(config))


def spoil(file, content):
    """Write something else into a file; None removes it, a dictionary is written as arrays."""
    if content is None:
        file.unlink()
    elif isinstance(content, dict):
        np.savez(file, **content)
    else:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())


def test_descriptions_are_what_json_gives_back(cell):
    assert json.loads(json.dumps(cell.description())) == cell.description()
    assert cell.description()["recipe"]["steps"] == 4 and cell.description()["data"] == {"seed": 0}


def test_statistics_are_summed_over_the_questions_of_an_image():
    examples = [Example(str(k), Path(name), "", (), "") for k, name in enumerate("abab")]
    sums = per_image(np.array([[1.0, 1], [0, 1], [0.5, 1], [0, 1]]), examples)
    assert sums.tolist() == [[1.5, 2], [0, 2]]


def test_a_task_may_answer_by_ranking(cell, tmp_path, monkeypatch):
    """A list that it finds beside its data, say."""

    class Ranks(SmallTask):
        def answering(self, data):
            return Ranking(tuple((data / "answers.txt").read_text().split()))

    (tmp_path / "data" / "answers.txt").write_text("black yes")
    monkeypatch.setitem(TASKS, "small", Ranks(small_examples(tmp_path / "pictures")))
    run_cell(cell, Execution(tmp_path / "out"))
    predictions = json.loads((cell.folder(tmp_path / "out") / "predictions.json").read_text())
    assert len(predictions) == 8 and set(predictions.values()) <= {"black", "yes"}


def test_a_run_says_how_it_answered_and_by_whose_rules(cell, tmp_path, monkeypatch):
    result = run_cell(cell, Execution(tmp_path / "written"))
    assert result["answering"] == {"way": "generate", "beams": 1, "tokens": 4}
    assert result["evaluator"] == "the task's own metric" and result["source"] == ""
    assert result["left_out"] == {"train": 0, "test": 0}
    assert "answering" not in cell.description(), "a run of earlier versions is the same run"
    monkeypatch.setattr(SmallTask, "answers", lambda self, data, faults: ("yes", "no"))
    ranked = replace(cell, answering="rank")
    about = run_cell(ranked, Execution(tmp_path / "ranked"))["answering"]
    assert (about["way"], about["k"], about["answers"]) == ("rank", 2, 2) and len(about["digest"]) == 64
    assert ranked.description()["answering"] == {**about, "k": None}
    assert replace(cell, answering="generate").description()["answering"] == result["answering"]


def test_descriptions_of_drawn_data_stay_as_they_were(tmp_path):
    """A study of earlier versions goes on: these are all fields, in this order."""
    (tmp_path / "manifest.json").write_text('{"version": 1, "seed": 0}')
    drawn = Cell("gcn", "gcn", {"gnn": "gcn"}, "vqa", 1, Recipe(0.01, 500, 32), tmp_path, skip_bad=2)
    recipe = {
        "learning_rate": 0.01,
        "steps": 500,
        "batch_size": 32,
        "accumulation": 1,
        "warmup": 0.06,
        "weight_decay": 0.05,
        "label_smoothing": 0.1,
        "clip": 1.0,
    }
    assert list(drawn.description().items()) == [
        ("label", "gcn"),
        ("method", "gcn"),
        ("settings", {"gnn": "gcn"}),
        ("task", "vqa"),
        ("seed", 1),
        ("recipe", recipe),
        ("data", {"version": 1, "seed": 0}),
        ("split", "test"),
        ("train_examples", None),
        ("eval_examples", None),
        ("weights", weights_digest()),
    ]
