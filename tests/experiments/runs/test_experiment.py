"""Experiments as files: what is read, what is refused, and that a resolved file is the same experiment."""

import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import yaml

from attngraph.errors import UserError
from experiments.base.config import parsed
from experiments.data.drawn import Sizes, make_scenes, write_scenes
from experiments.methods import METHODS, method_named
from experiments.methods.settings import Settings, chosen_settings
from experiments.runs.answering import described
from experiments.runs.changes import changed, read_changes
from experiments.runs.experiment import (
    Answers,
    Experiment,
    Recipe,
    Scenes,
    Training,
    experiment_names,
    experiment_of,
    load_experiment,
)
from experiments.runs.plan import decided, settings_of
from experiments.tables.grid import Grid, load_table
from experiments.tables.plan import Wanted, plan_table
from experiments.tasks import TASKS

pytestmark = pytest.mark.usefixtures("own_tables")

BASE = ["method=pgnn", "task=vqa"]


@pytest.fixture(scope="module")
def six(tmp_path_factory) -> Path:
    return make_scenes(tmp_path_factory.mktemp("data") / "six", seed=0, size=40)


def cell_of(words, drawn=Path("nowhere"), chosen=None):
    return decided(load_experiment(None, words), drawn, chosen or chosen_settings())[0]


def refusal(words, name=None, drawn=Path("nowhere")) -> str:
    with pytest.raises(UserError) as error:
        decided(load_experiment(name, words), drawn, chosen_settings())
    assert "\n" not in str(error.value)
    return str(error.value)


# ---- changes ---------------------------------------------------------------------------------------------


def test_numbers_are_those_of_yaml_1_2():
    """YAML 1.1 takes 1e-3 for a text, 010 for eight and 1:30 for 90."""
    for text, value in (
        *[("1e-3", 1e-3), ("2E+4", 2e4), (".5e1", 5.0), ("e-3", "e-3"), ("-3", -3), ("+1.5", 1.5)],
        *[("010", 10), ("1:30", "1:30"), ("1_000", "1_000"), ("0x1F", 31), ("0o17", 15), (".inf", math.inf)],
    ):
        found = parsed(f"x: {text}", "", "")["x"]
        assert found == value and type(found) is type(value)


def test_changes_reach_any_depth():
    words = ["recipe.steps=7", "settings.gnn_args.p=1.25", "scenes={seed: 3}", "model=null"]
    content = changed({"recipe": {"steps": 1, "clip": 2}, "settings": None}, read_changes(words, Experiment))
    assert content == {
        "recipe": {"steps": 7, "clip": 2},
        "settings": {"gnn_args": {"p": 1.25}},
        "scenes": {"seed": 3},
        "model": None,
    }


@pytest.mark.parametrize(
    "words, told",
    [
        (["recipe"], "--set 'recipe' changes nothing: give NAME=VALUE"),
        (["methd=gcn"], "--set methd=gcn: unknown field methd (did you mean method?), choose from"),
        (["recipe.step=3"], "unknown field recipe.step (did you mean steps?), choose from learning_rate,"),
        (["seed.first=3"], "seed holds a value, no fields: give seed=VALUE"),
        (["seed=1", "seed=2"], "--set seed=1 and --set seed=2 contradict each other: leave one out"),
        (["settings.gnn_args.p=1", "settings.gnn_args={}"], "contradict each other"),
        (["seed=[1"], "--set 'seed=[1' cannot be read"),
        (["recipe.steps=0"], "--set recipe.steps=0: field recipe.steps: input should be greater than 0"),
        (["recipe.steps=true"], "give a number, not true or false"),
        (["recipe.learning_rate=.nan"], "field recipe.learning_rate:"),
        (["recipe.schedule=cosin"], "field recipe.schedule: input should be 'linear' or 'cosine'"),
        (["recipe.patience=2"], "patience counts validations: give validate_every too"),
        (
            ["recipe.steps=3", "recipe.epochs=1"],
            "give steps or epochs, not both (3 and 1): set one of them to null",
        ),
        (["recipe=null"], "--set recipe=null: field recipe: it must hold fields with values (name: value)"),
        (["split=train"], "field split:"),
        (["method=pgn"], "unknown method 'pgn' (did you mean pgnn?)"),
        (["task=vqaa"], "unknown task 'vqaa' (did you mean"),
        (["method=learned_p"], "learned_p shows the runs of pgnn again"),
        (["method=frozen", "recipe.steps=3"], "recipe changes nothing, since frozen trains nothing"),
        (["task=coco"], "data is missing: give the folder that holds coco"),
        (["task=coco", "data=nowhere"], "data nowhere is no folder"),
        (["task=easy_vqa", "data=."], "come with a package: leave data out"),
        (["answering=rank"], "there is no list of answers for vqa: leave it out"),
        (["settings.jion=blend"], "settings: pgnn has no 'jion' (did you mean join?)"),
        (["scenes.layouts=100"], "layouts and published are a table's"),
        (["data=.", "scenes.seed=3"], "scenes changes nothing, since data names .: leave one out"),
    ],
)
def test_refusals(words, told):
    if not any(one.startswith("method") for one in words):
        words = ["method=pgnn", *words]
    if not any(one.startswith(("task", "methd")) for one in words):
        words = ["task=vqa", *words]
    assert told in refusal(words)


@pytest.mark.parametrize(
    "text, told",
    [
        ("", "it must hold fields with values (name: value)"),
        ("task: vqa\n", "field method is missing"),
        ("method: gcn\ntask: vqa\nrecipe: {stps: 1}\n", "unknown field recipe.stps (did you mean steps?)"),
        ("method: [gcn\n", "cannot be read"),
        ("method: gcn\ntask: vqa\nrecipe: 3\n", "field recipe"),
    ],
)
def test_damaged_files(text, told, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    said = refusal([], str(file))
    assert said.startswith(f"{file}") and told in said


def test_changes_of_a_section_that_is_none(tmp_path):
    (tmp_path / "mine.yaml").write_text("method: gcn\ntask: vqa\nrecipe: 3\n")
    assert "--set recipe.steps=1: the file has no fields" in refusal(
        ["recipe.steps=1"], str(tmp_path / "mine.yaml")
    )


def test_names_of_experiments():
    assert "unknown experiment 'paper-vqa' (did you mean paper-vqa2?)" in refusal([], "paper-vqa")
    assert "nowhere.yaml" in refusal([], "nowhere.yaml")
    assert {f"paper-{name}" for name, task in TASKS.items() if task.data_set} < set(experiment_names())


# ---- what an experiment is ---------------------------------------------------------------------------------


def test_with_nothing_more_it_is_the_cell_of_a_table(tmp_path):
    write_scenes(tmp_path, 0, Sizes((12, 12, 12), (6, 6, 6), (4, 4, 4)))
    for method, task in (("pgnn", "vqa"), ("full", "ve"), ("majority", "caption"), ("fixed_p", "easy_vqa")):
        (cell,) = plan_table(Grid(about="", seeds={method: 1}), Wanted([method], [task]), tmp_path).cells
        mine = cell_of([f"method={method}", f"task={task}"], tmp_path)
        assert mine.description() == cell.description() and mine.folder(tmp_path) == cell.folder(tmp_path)


def test_a_resolved_file_is_the_same_cell(tmp_path):
    """Whatever is chosen on validation data by then."""
    for method in sorted(name for name, each in METHODS.items() if each.repeats is None):
        words = [f"method={method}", "task=vqa", "scenes.seed=3"]
        cell, scenes = decided(load_experiment(None, words), tmp_path / "data", chosen_settings())
        (tmp_path / "saved.yaml").write_text(experiment_of(cell, scenes).yaml())
        again = load_experiment(str(tmp_path / "saved.yaml"), [])
        found, same = decided(again, tmp_path / "data", Settings())
        assert asdict(found) == asdict(cell) and same == scenes and experiment_of(found, same) == again, (
            method
        )


CHANGES = [
    "seed=7",
    "side=96",
    "split=validation",
    "train_examples=11",
    "eval_examples=5",
    "recipe={epochs: 3, learning_rate: 1e-4, batch_size: 4, accumulation: 2, warmup: 0.1, weight_decay: 0}",
    "settings.gnn_args.p=1.25",
    "settings.positions=[cross]",
    "answering=rank",
    "ranking={k: 4, label_smoothing: 0.1}",
]


def test_every_field_counts_and_comes_back(six, tmp_path):
    plain = ["method=pgnn", "task=vqa2", f"data={six}"]
    before = cell_of(plain, tmp_path)
    for change in CHANGES:
        words = [*plain, change] + ["answering=rank"] * change.startswith("ranking")
        assert cell_of(words, tmp_path).description() != before.description(), change
    cell = cell_of([*plain, *CHANGES], tmp_path)
    assert (cell.recipe.steps, cell.recipe.accumulation, cell.recipe.weight_decay) == (6, 2, 0)
    assert cell.decoding == {"k": 4, "label_smoothing": 0.1} and cell.side == 96
    (tmp_path / "saved.yaml").write_text(experiment_of(cell).yaml())
    again, _ = decided(load_experiment(str(tmp_path / "saved.yaml"), []), tmp_path, Settings())
    assert asdict(again) == {**asdict(cell), "data": six.absolute()}
    assert again.description() == cell.description()


def test_epochs_are_passes_over_what_is_trained_on(tmp_path):
    sizes = "scenes={questions: [103, 12, 12], hypotheses: [6, 6, 6], captions: [4, 4, 4]}"
    for more, steps in (
        (["recipe.epochs=2", "recipe.batch_size=10"], 20),
        (["recipe.epochs=0.5", "recipe.batch_size=10"], 5),
        (["recipe.epochs=2", "recipe.batch_size=10", "train_examples=40"], 8),
        (["recipe.epochs=3", "recipe.batch_size=200"], 3),
        (["recipe.epochs=1e-3"], 1),
        (["recipe.steps=9"], 9),
        ([], TASKS["vqa"].budget.steps),
    ):
        assert cell_of([*BASE, sizes, *more]).recipe.steps == steps, more


def test_settings_take_the_place_of_chosen_ones():
    own = {"gnn": "pgnn", "gnn_args": {"p": 1.5, "mu": 1.0}, "join": "blend", "reduction": 4}
    method = method_named("pgnn")
    assert settings_of(method, own, {}) == own
    assert settings_of(method, own, {"gnn_args": {"p": 2.0}})["gnn_args"] == {"p": 2.0, "mu": 1.0}
    assert settings_of(method, own, {"shared": True}) == {**own, "shared": True}
    whole = {**own, "gnn_args": {"p": 2.0}}
    assert settings_of(method, own, whole) == whole, "who names all gets these"


def test_drawn_data_are_named_by_what_they_are(tmp_path):
    data = write_scenes(tmp_path / "data", 5, Sizes((12, 12, 12), (6, 6, 6), (4, 4, 4)))
    cell = replace(cell_of(BASE), data=data)
    made = experiment_of(cell)
    assert made.data is None
    assert made.scenes == Scenes(questions=(12, 12, 12), hypotheses=(6, 6, 6), captions=(4, 4, 4), seed=5)
    assert experiment_of(replace(cell, task="easy_vqa")).scenes == Scenes()


def test_a_shipped_model_is_named_and_a_folder_of_its_name_by_its_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mini-mplug").mkdir()
    cell = replace(cell_of(BASE), data=tmp_path)
    models = [experiment_of(replace(cell, model=name)).model for name in (None, "mini-mplug", "./mini-mplug")]
    assert models == [None, "mini-mplug", str(tmp_path / "mini-mplug")]


def test_the_file_holds_every_field_once():
    text = load_experiment(None, BASE).yaml()
    content = yaml.safe_load(text)
    assert set(content) == set(Experiment.model_fields) and set(content["recipe"]) == set(
        Training.model_fields
    )
    assert list(content)[:3] == ["method", "task", "data"] and set(Answers.model_fields) < set(content)


def test_paper_experiments_are_the_cells_of_the_main_table(six, tmp_path):
    for task in (name for name, each in TASKS.items() if each.data_set):
        wanted = Wanted(["pgnn"], [task], seeds=range(1), data=six, model="models/capfilt-l")
        (cell,) = plan_table(load_table("main", "paper"), wanted, tmp_path).cells
        mine, _ = decided(load_experiment(f"paper-{task}", [f"data={six}"]), tmp_path, chosen_settings())
        ranks = described(mine.way())["way"] == "rank"
        mine, cell = (replace(one, answering="rank" if ranks else None) for one in (mine, cell))
        assert asdict(mine) == asdict(cell)
        assert mine.recipe.batch_size == (64 if ranks else 128)
        assert mine.settings["reduction"] * 96 == 768


# ---- recipes ---------------------------------------------------------------------------------------------


def test_the_learning_rate_rises_and_falls():
    recipe = Recipe(1.0, 110, warmup=10 / 110)
    linear, cosine = (
        [replace(recipe, schedule=name).factor(step) for step in range(110)] for name in ("linear", "cosine")
    )
    assert linear[:10] == cosine[:10] == pytest.approx([(k + 1) / 10 for k in range(10)])
    assert linear[10:] == pytest.approx([1 - k / 100 for k in range(100)])
    assert cosine[10:] == pytest.approx([(1 + math.cos(math.pi * k / 100)) / 2 for k in range(100)])
    for steps in (1, 2, 3):
        assert all(0 < Recipe(1.0, steps).factor(step) <= 1 for step in range(steps)), "in every step"


def test_a_batch_is_divided_evenly():
    for processes, accumulation, examples, size in ((1, 1, 99, 8), (2, 2, 99, 2), (2, 1, 6, 3)):
        recipe = Recipe(1.0, 1, batch_size=8, accumulation=accumulation)
        assert recipe.per_process(processes, examples) == size
    with pytest.raises(UserError, match="8 examples can't be divided among 3 processes and 1 passes"):
        Recipe(1.0, 1, batch_size=8).per_process(3, 99)


def test_defaults_leave_the_description_of_earlier_runs():
    assert Recipe(1e-3, 250).description() == {
        "learning_rate": 1e-3,
        "steps": 250,
        "batch_size": 64,
        "accumulation": 1,
        "warmup": 0.06,
        "weight_decay": 0.05,
        "label_smoothing": 0.1,
        "clip": 1.0,
    }
    added = {"schedule": "cosine", "validate_every": 5, "patience": 2, "checkpointing": True}
    changed = Recipe(1e-3, 250, **added).description()
    assert changed == {**Recipe(1e-3, 250).description(), **added}
