"""Experiments as files: what is read, what is refused, and that a resolved file is the same experiment."""

import math
from pathlib import Path

import pytest
import yaml

from attngraph.errors import UserError
from attngraph.experiments.base.config import parsed
from attngraph.experiments.base.shipped import names_of
from attngraph.experiments.data.drawn import Sizes, write_scenes
from attngraph.experiments.methods import METHODS, method_named
from attngraph.experiments.methods.settings import Settings, chosen_settings
from attngraph.experiments.runs.answering import described
from attngraph.experiments.runs.experiment import Experiment, Recipe, load_experiment
from attngraph.experiments.runs.plan import decided, settings_of
from attngraph.experiments.tables.grid import Grid, load_table
from attngraph.experiments.tables.plan import plan_table
from attngraph.experiments.tasks import TASKS
from tests.experiments.runs.small import recipe_of

pytestmark = pytest.mark.usefixtures("own_tables")

BASE = ["method=pgnn", "task=vqa"]


def cell_of(words, drawn=Path("nowhere"), file=None, chosen=None):
    return decided(load_experiment(file, words), drawn, chosen or chosen_settings())


def refusal(words, file=None) -> str:
    with pytest.raises(UserError) as error:
        cell_of(words, file=file)
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


def test_changes_reach_any_depth_and_the_last_one_holds(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("{method: pgnn, task: vqa, model: m, recipe: {steps: 1, clip: 2}}")
    words = ["recipe.steps=6", "settings.gnn_args.p=1.25", "scenes={seed: 3}", "model=null", "recipe.steps=7"]
    found = load_experiment(str(file), [*words, "decoding.min_new_tokens=0"])
    assert (found.recipe.steps, found.recipe.clip, found.scenes.seed, found.model) == (7, 2, 3, None)
    assert found.decoding.min_new_tokens == 0
    assert found.settings == {"gnn_args": {"p": 1.25}}


@pytest.mark.parametrize(
    "words, told",
    [
        (["recipe"], "--set 'recipe' is not a change: use NAME=VALUE"),
        (["methd=gcn"], "--set methd=gcn: unknown field methd (did you mean method?)"),
        (["recipe.step=3"], "--set recipe.step=3: unknown field recipe.step (did you mean steps?)"),
        (["seed=[1"], "--set 'seed=[1' cannot be read"),
        (["recipe.steps=0"], "--set recipe.steps=0: field recipe.steps: input should be greater than 0"),
        (["recipe.steps=true"], "use a number, not true or false"),
        (["recipe.learning_rate=.nan"], "field recipe.learning_rate:"),
        (["recipe.label_smoothing=1"], "input should be less than 1"),
        (["recipe.schedule=cosin"], "field recipe.schedule: input should be 'linear' or 'cosine'"),
        (["recipe.patience=2"], "recipe: patience counts validations: set validate_every, too"),
        (["recipe.steps=3", "recipe.epochs=1"], "use steps or epochs, not both (3 and 1)"),
        (["split=train"], "field split:"),
        (["decoding.num_beams=99999"], "input should be less than or equal to 100"),
        (["method=pgn"], "unknown method 'pgn' (did you mean pgnn?)"),
        (["task=vqaa"], "unknown task 'vqaa' (did you mean"),
        (["method=learned_p"], "learned_p repeats the runs of pgnn"),
        (["method=frozen", "recipe.steps=3"], "recipe has no effect, since frozen does not train"),
        (["task=coco"], "data is missing: set it to the folder with coco"),
        (["task=coco", "data=nowhere"], "data nowhere is not a folder"),
        (["task=easy_vqa", "data=."], "are in a package: remove data"),
        (["answering=rank"], "vqa has no list of answers: remove answering"),
        (["settings.jion=blend"], "settings: pgnn has no 'jion' (did you mean join?)"),
        (["scenes.layouts=100"], "layouts and published are for tables only"),
        (["data=.", "scenes.seed=3"], "scenes has no effect, since data is .: remove one"),
    ],
)
def test_refusals(words, told):
    defaults = [word for word in BASE if not any(one.startswith(word[:5]) for one in words)]
    assert told in refusal([*([] if words[0].startswith("methd") else defaults), *words])


@pytest.mark.parametrize(
    "text, words, told",
    [
        ("", [], "must consist of fields with values (name: value)"),
        ("task: vqa\n", [], "field method is missing"),
        ("method: [gcn\n", [], "cannot be read"),
        ("method: gcn\ntask: vqa\nrecipe: 3\n", [], "field recipe"),
        ("method: gcn\ntask: vqa\nrecipe: 3\n", ["recipe.steps=1"], "recipe.steps=1: the file has a single"),
    ],
)
def test_damaged_files(text, words, told, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    said = refusal(words, str(file))
    assert said.startswith("--set" if words else f"{file}") and told in said


def test_names_of_experiments():
    assert "unknown experiment 'paper-vqa' (did you mean paper-vqa2?)" in refusal([], "paper-vqa")
    assert {f"paper-{name}" for name, task in TASKS.items() if task.data_set} < set(names_of("experiment"))


# ---- what an experiment is ---------------------------------------------------------------------------------


def test_with_nothing_more_it_is_the_cell_of_a_table(tmp_path):
    write_scenes(tmp_path, 0, Sizes((12, 12, 12), (6, 6, 6), (4, 4, 4)))
    for method, task in (("pgnn", "vqa"), ("full", "ve"), ("majority", "caption"), ("fixed_p", "easy_vqa")):
        grid = Grid(about="", seeds={method: 1})
        (cell,) = plan_table(grid, tmp_path, rows=[method], tasks=[task]).cells
        mine = cell_of([f"method={method}", f"task={task}"], tmp_path)
        assert mine.description() == cell.description() and mine.folder(tmp_path) == cell.folder(tmp_path)


def test_a_resolved_file_is_the_same_cell(tmp_path):
    """Whatever is chosen on validation data by then."""
    for method in sorted(name for name, each in METHODS.items() if each.repeats is None):
        cell = cell_of([f"method={method}", "task=vqa", "scenes.seed=3"], tmp_path / "data")
        (tmp_path / "saved.yaml").write_text(cell.yaml())
        assert cell_of([], tmp_path / "data", str(tmp_path / "saved.yaml"), Settings()) == cell, method


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
    assert cell.details() == {"k": 4, "label_smoothing": 0.1} and cell.side == 96
    (tmp_path / "saved.yaml").write_text(cell.yaml())
    again = cell_of([], tmp_path, str(tmp_path / "saved.yaml"), Settings())
    assert again == cell and again.description() == cell.description()


def test_epochs_are_passes_over_what_is_trained_on():
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


def test_a_file_names_drawn_data_by_what_they_are_and_others_by_their_paths(six, tmp_path, monkeypatch):
    def file_of(**changes):
        return yaml.safe_load(cell_of([*BASE, "scenes.seed=5"], tmp_path).model_copy(update=changes).yaml())

    monkeypatch.chdir(tmp_path)
    (tmp_path / "mini-mplug").mkdir()
    drawn = file_of()
    assert set(drawn) == set(Experiment.model_fields) and list(drawn)[:3] == ["method", "task", "data"]
    assert (drawn["data"], drawn["scenes"]["seed"]) == (None, 5)
    given = file_of(data=Path("."), scenes=None, recipe=None, answering="rank")
    assert (given["data"], given["scenes"]["seed"], given["answering"]) == (str(tmp_path), 0, None)
    assert given["recipe"] == Recipe().model_dump()
    layouts = file_of(
        task="vqa2",
        data=six,
        scenes=Grid(about="", seeds=1, rows={"A": ["gcn"]}, baseline="gcn", scenes={"layouts": 40}).scenes,
    )
    assert layouts["data"] == str(six), "only a table draws them"
    models = [file_of(model=name)["model"] for name in (None, "mini-mplug", "./mini-mplug")]
    assert models == [None, "mini-mplug", str(tmp_path / "mini-mplug")], "the second is the shipped one"


def test_paper_experiments_are_the_cells_of_the_main_table(six, tmp_path):
    for task in (name for name, each in TASKS.items() if each.data_set):
        wanted = {"rows": ["pgnn"], "tasks": [task], "seeds": range(1), "model": "models/capfilt-l"}
        (cell,) = plan_table(load_table("main", "paper"), tmp_path, data=six, **wanted).cells
        mine = cell_of([f"data={six}"], tmp_path, f"paper-{task}")
        ranks = described(mine.way())["way"] == "rank"
        mine, cell = (c.model_copy(update={"answering": "rank" if ranks else None}) for c in (mine, cell))
        assert mine == cell
        assert mine.recipe.batch_size == (64 if ranks else 128)
        assert mine.settings["reduction"] * 96 == 768


# ---- recipes ---------------------------------------------------------------------------------------------


def test_the_learning_rate_rises_and_falls():
    linear, cosine = (
        [recipe_of(steps=110, warmup=10 / 110, schedule=name).factor(step) for step in range(110)]
        for name in ("linear", "cosine")
    )
    assert linear[:10] == cosine[:10] == pytest.approx([(k + 1) / 10 for k in range(10)])
    assert linear[10:] == pytest.approx([1 - k / 100 for k in range(100)])
    assert cosine[10:] == pytest.approx([(1 + math.cos(math.pi * k / 100)) / 2 for k in range(100)])
    for steps in (1, 2, 3):
        assert all(0 < recipe_of(steps=steps).factor(step) <= 1 for step in range(steps)), "in every step"


def test_a_batch_is_divided_evenly():
    for processes, accumulation, examples, size in ((1, 1, 99, 8), (2, 2, 99, 2), (2, 1, 6, 3)):
        recipe = recipe_of(batch_size=8, accumulation=accumulation)
        assert recipe.per_process(processes, examples) == size
    with pytest.raises(UserError, match="8 examples cannot be divided among 3 processes with 1 passes"):
        recipe_of(batch_size=8).per_process(3, 99)
