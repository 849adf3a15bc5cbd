"""A cell is trained, scored and saved once; other settings, damaged files and other weights are noticed."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from attngraph.errors import UserError
from attngraph.experiments.methods import method_named
from attngraph.experiments.methods.parameters import count_parameters
from attngraph.experiments.methods.settings import Settings
from attngraph.experiments.models import Ranking
from attngraph.experiments.models.weights import weights_digest
from attngraph.experiments.runs import cells, saved
from attngraph.experiments.runs.cells import check_folder_of, read_scores, run_cell
from attngraph.experiments.runs.execution import Execution
from attngraph.experiments.runs.experiment import Recipe, TextDecoding
from attngraph.experiments.runs.saved import made_with
from attngraph.experiments.runs.train import train
from attngraph.experiments.tasks import TASKS
from tests.experiments.runs import small
from tests.experiments.runs.small import SmallTask, recipe_of, small_cell, small_examples

ADAPTER_FILES = {"metrics.csv", "adapter_config.json", "adapter_model.safetensors"}
OTHERS = {"experiment.yaml", "config.json", "predictions.json", "statistics.npz", "scores.json"}
FINISHED = ADAPTER_FILES | OTHERS


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A cell on the small model and task, and the folder in which it is finished."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        cell, steps = small_cell(folder, patch), []
        result = run_cell(cell, Execution(folder), on_step=steps.append)
        assert steps == [1, 2, 3, 4] and result["loss"] > 0
        yield cell, folder


@pytest.fixture
def cell(made):
    return made[0]


@pytest.fixture
def finished(made, tmp_path):
    """The folder of the cell, finished in ``tmp_path``."""
    cell, folder = made
    shutil.copytree(cell.folder(folder), cell.folder(tmp_path))
    return cell.folder(tmp_path)


def changed(cell, **changes):
    return cell.model_copy(update=changes)


def begin(cell, out, **conditions):
    """As if the cell had been interrupted."""
    cell.folder(out).mkdir(parents=True)
    about = {"threads": 1, "processes": 1, **conditions}
    (cell.folder(out) / "config.json").write_text(json.dumps({"settings": cell.description(), **about}))


def interrupted(*_):
    raise KeyboardInterrupt


def test_what_a_run_leaves(cell, finished, tmp_path):
    result = read_scores(cell, tmp_path)
    assert {file.name for file in finished.iterdir()} == FINISHED
    check_folder_of(cell, Execution(tmp_path))
    assert (result["row"], result["task"], result["seed"], result["split"]) == ("pgnn", "small", 3, "test")
    assert (result["examples"], result["trained_on"]) == (8, 8)
    assert result["started"].keys() == result["learned"].keys() and result["started"] != result["learned"]
    assert len(result["effects"]) == 2, "one self-attention and one cross-attention"
    assert all(0 < effect["kappa"] < 1 for effect in result["effects"].values())
    assert result["train_seconds"] > 0 and result["peak_mb"] > 50
    assert result["answering"] == {"way": "generate", "beams": 1, "tokens": 4}
    assert result["evaluator"] == "the task's own metric" and result["source"] == ""
    assert list(json.loads((finished / "predictions.json").read_text())) == [f"e{k}" for k in range(8)]
    with np.load(finished / "statistics.npz") as statistics:
        sums = statistics["small.accuracy"]
    assert result["scores"] == {"small.accuracy": pytest.approx(sums[:, 0].sum() / sums[:, 1].sum())}
    assert sums.shape == (4, 2), "two questions about each of four pictures"
    config = json.loads((finished / "config.json").read_text())
    assert config["versions"] == made_with()["versions"] and "torch" in config["versions"]


def test_a_cell_that_was_interrupted_while_scoring_trains_no_more(cell, finished, tmp_path, monkeypatch):
    out = tmp_path / "again"
    with monkeypatch.context() as patch:
        patch.setattr(cells, "predict", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_cell(cell, Execution(out))
    result = run_cell(cell, Execution(out), on_step=lambda step: pytest.fail("trained again"))
    assert {file.name for file in cell.folder(out).iterdir()} == FINISHED
    whole = read_scores(cell, tmp_path)
    assert all(result[key] == whole[key] for key in ("scores", "loss", "learned", "parameters"))


@pytest.mark.parametrize(
    "change, said",
    [
        ({"decoding": TextDecoding(max_new_tokens=999)}, "max_new_tokens is 999, and .* has .* positions"),
        (
            {"settings": {"gnn": "pgnn", "gnn_args": {"q": 1}}},
            "pgnn has no argument 'q'",
        ),
    ],
)
def test_what_the_model_cannot_do_is_refused_before_anything_is_written(change, said, cell, tmp_path):
    with pytest.raises(UserError, match=said):
        run_cell(changed(cell, **change), Execution(tmp_path))
    assert not (tmp_path / "cells").exists()


def test_it_trains_selects_and_scores_on_three_splits(cell, tmp_path, monkeypatch):
    """Would catch weights selected on test data."""
    used: list[tuple[str, set[str]]] = []

    class Noting(SmallTask):
        def examples(self, data, split):
            return [replace(example, id=f"{split} {example.id}") for example in self.given]

        def score(self, predictions, examples):
            used.append(("score", {id.split()[0] for id in predictions}))
            return super().score(predictions, examples)

    def noting(tuned, data, *more):
        used.append(("train", {example.id.split()[0] for example in data.examples}))
        return train(tuned, data, *more)

    monkeypatch.setattr(cells, "train", noting)
    monkeypatch.setitem(TASKS, "small", Noting(small_examples(tmp_path / "pictures")))
    run_cell(changed(cell, recipe=recipe_of(steps=4, batch_size=4, validate_every=2)), Execution(tmp_path))
    validated = ("score", {"validation"})
    assert used == [("train", {"train"}), validated, validated, ("score", {"test"})]


def test_adalora_counts_the_parameters_that_it_starts_with(cell, tmp_path):
    """Saving removes those of zero singular values."""
    method = method_named("adalora")
    settings = method.settings(Settings(), "vqa")
    asked = changed(cell, label="adalora", method="adalora", settings=settings)
    result = run_cell(asked, Execution(tmp_path))
    assert result["parameters"] == count_parameters(method.apply(small.small_family(), settings)).trained


def test_methods_without_training(cell, tmp_path):
    for name in ("frozen", "majority"):
        untrained = changed(cell, label=name, method=name, settings={}, recipe=None, eval_examples=6)
        result = run_cell(untrained, Execution(tmp_path))
        assert result["effects"] == result["started"] == {}
        assert result["loss"] is None and result["parameters"] == 0 and result["examples"] == 6
        names = {file.name for file in untrained.folder(tmp_path).iterdir()}
        assert names == OTHERS
    predictions = json.loads((untrained.folder(tmp_path) / "predictions.json").read_text())
    assert set(predictions.values()) == {"yes"}


@pytest.mark.parametrize(
    "change, conditions, named",
    [
        ({"recipe": recipe_of(steps=4, batch_size=4, augment=True)}, {}, "recipe"),
        ({"split": "validation", "settings": {}}, {}, "settings, split"),
        ({}, {"threads": 2}, "threads: 2, not 1"),
        ({}, {"processes": None}, "processes: None, not 1"),
    ],
)
def test_another_experiment_in_the_folder_is_refused(change, conditions, named, cell, tmp_path):
    begin(cell, tmp_path, **conditions)
    with pytest.raises(UserError, match=rf"holds another experiment \(other {named}\): use another --out"):
        check_folder_of(changed(cell, **change), Execution(tmp_path))


def test_a_run_on_a_checkpoint_of_a_grid_is_reused_without_the_checkpoint(cell, tmp_path):
    """But not a run on a model of the user's, nor one with other settings."""
    begin(changed(cell, model="elsewhere"), tmp_path)
    file = cell.folder(tmp_path) / "config.json"
    file.write_text(file.read_text().replace('"weights": "elsewhere"', '"weights": "0123"'))
    check_folder_of(changed(cell, model="elsewhere", checkpoint=True), Execution(tmp_path))
    for change, other in (({}, "weights"), ({"checkpoint": True, "train_examples": 4}, "train_examples")):
        with pytest.raises(UserError, match=rf"\(other {other}\)"):
            check_folder_of(changed(cell, model="elsewhere", **change), Execution(tmp_path))


def test_other_data_are_not_mixed(cell, tmp_path, monkeypatch):
    begin(cell, tmp_path)
    check_folder_of(cell, Execution(tmp_path))
    monkeypatch.setattr(SmallTask, "content", lambda *about: {"seed": 1})
    with pytest.raises(UserError, match="other data"):
        check_folder_of(cell, Execution(tmp_path))


def test_a_cell_is_computed_with_the_threads_that_it_says(cell, tmp_path, monkeypatch):
    threads = []
    monkeypatch.setattr(cells, "train", lambda *a: threads.append(torch.get_num_threads()) or interrupted())
    before = torch.get_num_threads()
    with pytest.raises(KeyboardInterrupt):
        run_cell(cell, Execution(tmp_path, threads=before + 1))
    config = json.loads((cell.folder(tmp_path) / "config.json").read_text())
    assert (config["threads"], config["processes"]) == (before + 1, 1)
    assert threads == [before + 1] and torch.get_num_threads() == before


DAMAGE = [
    ("config.json", '{"settings": null}', "no settings"),
    ("config.json", "[" * 100_000, "RecursionError"),
    ("config.json", b"\xff", "UnicodeDecodeError"),
    ("config.json", None, "No such file"),
    ("scores.json", "", "Invalid JSON"),
    ("scores.json", {"scores": {"other": 0.5}}, "no small.accuracy"),
    ("scores.json", {"row": "gcn"}, "of gcn small seed 3"),
    ("scores.json", {"loss": "low"}, "loss: Input should be a valid number"),
    ("statistics.npz", b"PK\x03\x04 no archive", "BadZipFile"),
    ("statistics.npz", np.full((4, 2), np.nan), "not rows of finite numbers"),
    ("statistics.npz", np.ones((4, 2)), "they give 1, scores.json says 0"),
    ("predictions.json", '{"e0": null}', "not 8 texts"),
]


@pytest.mark.parametrize("name, content, said", DAMAGE)
def test_damaged_files_and_scores_that_others_contradict_are_named(
    name, content, said, cell, finished, tmp_path
):
    file = finished / name
    if content is None:
        file.unlink()
    elif isinstance(content, dict):
        file.write_text(json.dumps(json.loads(file.read_text()) | content))
    elif isinstance(content, np.ndarray):
        np.savez(file, **{"small.accuracy": content})
    else:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=said) as error:
        check_folder_of(cell, Execution(tmp_path))
        read_scores(cell, tmp_path)
    assert str(error.value).startswith(f"{file} is damaged (") and "\n" not in str(error.value)
    assert str(error.value).endswith(f"): delete the folder {finished} and run again")


def test_results_of_earlier_versions_are_read(cell, finished, tmp_path):
    """They lack some numbers and have others, and a scheme was called otherwise."""
    scores = json.loads((finished / "scores.json").read_text())
    earlier = {key: value for key, value in scores.items() if key not in ("started", "effects")}
    earlier["accumulation"] = 2
    (finished / "scores.json").write_text(json.dumps(earlier))
    assert read_scores(cell, tmp_path) == earlier
    config = (finished / "config.json").read_text()
    (finished / "config.json").write_text(config.replace('"gnn": "pgnn"', '"gnn": "placebo"'))
    check_folder_of(changed(cell, settings={**cell.settings, "gnn": "rotated"}), Execution(tmp_path))


def test_a_run_may_answer_by_ranking_and_says_so(cell, tmp_path, monkeypatch):
    """The task's own list, that it finds beside its data, say; or the one that was asked for."""
    assert "answering" not in cell.description(), "a run of earlier versions is the same run"

    class Ranks(SmallTask):
        def answering(self, data):
            return Ranking(("black", "yes"))

        def answers(self, data):
            return ("no", "yes")

    monkeypatch.setitem(TASKS, "small", Ranks(small_examples(tmp_path / "pictures")))
    for answering, answers in ((None, {"black", "yes"}), ("rank", {"no", "yes"})):
        asked = changed(cell, answering=answering)
        about = run_cell(asked, Execution(tmp_path / str(answering)))["answering"]
        assert (about["way"], about["k"], about["answers"]) == ("rank", 2, 2) and len(about["digest"]) == 64
        texts = json.loads((asked.folder(tmp_path / str(answering)) / "predictions.json").read_text())
        assert len(texts) == 8 and set(texts.values()) <= answers
    assert asked.description()["answering"] == {**about, "k": None}


def test_descriptions_of_drawn_data_stay_as_they_were(tmp_path):
    """A study of earlier versions goes on: these are all fields."""
    (tmp_path / "manifest.json").write_text('{"version": 1, "seed": 0}')
    recipe = Recipe(learning_rate=0.01, steps=500, batch_size=32, augment=False)
    drawn = small.cell("gcn", settings={"gnn": "gcn"}, seed=1, recipe=recipe, data=tmp_path)
    expected = dict(learning_rate=0.01, steps=500, batch_size=32, accumulation=1, warmup=0.06)
    expected |= dict(weight_decay=0.05, label_smoothing=0.1, clip=1.0)
    about = dict(label="gcn", method="gcn", settings={"gnn": "gcn"}, task="vqa", seed=1, recipe=expected)
    about |= dict(data={"version": 1, "seed": 0}, split="test", train_examples=None, eval_examples=None)
    assert drawn.description() == {**about, "weights": weights_digest()}
    added = {"schedule": "cosine", "validate_every": 5, "patience": 2, "checkpointing": True, "augment": True}
    more = recipe.model_copy(update=added)
    assert more.description() == {**recipe.description(), **added}


def test_a_finished_run_is_asked_with_its_own_threads(finished, monkeypatch):
    config = json.loads((finished / "config.json").read_text())
    (finished / "config.json").write_text(json.dumps(config | {"threads": 3}))
    for cores, threads in ((4, 3), (2, 2)):
        monkeypatch.setattr(saved.os, "cpu_count", lambda cores=cores: cores)
        assert saved.finished(finished).threads == threads
