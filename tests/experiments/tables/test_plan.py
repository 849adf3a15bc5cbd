"""Which cells a table has."""

import sys
from pathlib import Path

import pytest

from attngraph.errors import UserError
from attngraph.experiments.data.drawn import make_scenes
from attngraph.experiments.methods import METHODS
from attngraph.experiments.methods.settings import Choice, Settings, chosen_settings
from attngraph.experiments.runs.experiment import Part, Recipe, Scenes
from attngraph.experiments.tables.grid import Grid, load_table
from attngraph.experiments.tables.plan import check_checkpoints, plan_table, tasks_of
from attngraph.experiments.tasks import TASKS
from tests.experiments.drawn import DRAWN as DRAWN_TASKS

PRESET = Grid(
    about="",
    seeds={"gcn": 2, "pgnn": 3, "learned_p": 2, "frozen": 1, "full": 1, "majority": 1},
    runs=Part(recipe=Recipe(steps=10), train_examples=40, eval_examples=20),
    scenes=Scenes(questions=(60, 20, 15)),
)
SEVERAL = PRESET.model_copy(update={"checkpoints": 3, "seeds": {"gcn": 7, "frozen": 5, "majority": 1}})
DATA = Path("data")
DRAWN = list(DRAWN_TASKS)


@pytest.fixture(scope="module")
def six(tmp_path_factory) -> Path:
    """Official files of six data sets."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATTNGRAPH_CACHE", str(tmp_path_factory.mktemp("tables")))
        yield make_scenes(tmp_path_factory.mktemp("data") / "six", size=30)


def plan(grid: Grid = PRESET, **request):
    return plan_table(grid, DATA, **request)


def test_rows_and_seeds_of_a_preset():
    """A row that repeats another one trains nothing twice."""
    table = plan()
    assert list(table.rows) == list(PRESET.seeds) and list(table.tasks) == DRAWN
    for name, count in PRESET.seeds.items():
        cells = table.rows[name]
        assert {(cell.task, cell.seed) for cell in cells} == {(t, s) for t in DRAWN for s in range(count)}
        assert len(cells) == count * len(DRAWN)
        assert all((cell.recipe is not None) == METHODS[name].trains for cell in cells)
        recipes = [cell.recipe for cell in cells if cell.recipe]
        assert {(cell.train_examples, cell.eval_examples, cell.split) for cell in cells} == {(40, 20, "test")}
        assert all(recipe.steps == 10 and recipe.batch_size for recipe in recipes)
    assert set(table.rows["learned_p"]) == {cell for cell in table.rows["pgnn"] if cell.seed < 2}
    assert len(table.cells) == (2 + 3 + 1 + 1 + 1) * len(DRAWN) == len(set(table.cells))
    assert [cell.seed for cell in table.cells] == sorted(cell.seed for cell in table.cells)


def labels(grid: Grid) -> dict[str, set[str]]:
    found = plan_table(grid, DATA).rows
    return {row: {cell.label for cell in cells} for row, cells in found.items()}


def test_a_width_that_is_the_chosen_one_is_the_plain_method():
    """At the size paper 1/8 is, so that the table of widths takes other tables' runs; no more is shared."""
    for name, same in (("paper", {"gcn_r8": "gcn", "pgnn_r8": "pgnn"}), ("scenes", {})):
        grid = load_table("width", name)
        assert labels(grid) == {row: {same.get(row, row)} for row in grid.counts}
    grid = load_table("width", "paper")
    methods = {**grid.settings.methods, "gcn_r8": {"vqa2": Choice(learning_rate=1e-3, join="replace")}}
    found = labels(grid.model_copy(update={"settings": Settings(reduction=8, methods=methods)}))
    assert found["gcn_r8"] == {"gcn_r8"}, "it has a learning rate of its own"
    assert found["pgnn_r8"] == {"pgnn"}


def test_what_a_user_asks_for():
    table = plan(rows=["appnp", "pgnn"], tasks=["ve", "vqa"], seeds=range(4, 6), model="m")
    assert list(table.rows) == ["appnp", "pgnn", "frozen", "full", "majority"], "reference rows stay"
    assert list(table.tasks) == ["ve", "vqa"]
    for name, cells in table.rows.items():
        assert {cell.seed for cell in cells} == ({4, 5} if METHODS[name].trains else {0})
        assert all(cell.model == "m" for cell in cells)
    assert len({cell.seed for cell in plan(rows=["appnp"]).rows["appnp"]}) == 3, "as many as the most seeds"


@pytest.mark.parametrize(
    "grid, wrong, said",
    [
        ({}, {"rows": ["gat"]}, "unknown method 'gat'"),
        ({}, {"rows": []}, "no method is given"),
        ({}, {"tasks": ["vqa", "chess"]}, "unknown task 'chess'"),
        ({}, {"seeds": range(0)}, "--seeds must be at least 1"),
        ({"by_task": {"chess": Part()}}, {}, "unknown task 'chess': choose from vqa, "),
        ({"by_task": dict.fromkeys(TASKS)}, {}, "skips every task: choose some with --tasks"),
        ({"seeds": {"gat": 1}}, {}, "unknown method 'gat'"),
        ({"seeds": {"gcn": 0, "frozen": 0}}, {}, "has no runs: add at least one seed of a method"),
        ({"seeds": {"gcn": 0, "pgnn": 1}}, {"rows": ["gcn"]}, "no row has a seed: use more"),
    ],
)
def test_wrong_requests(grid, wrong, said):
    with pytest.raises(UserError, match=said):
        plan(PRESET.model_copy(update=grid), **wrong)


def test_a_package_that_a_metric_needs_is_missing(monkeypatch):
    """It is named before a run, not after its training; other tasks need none."""
    monkeypatch.setitem(sys.modules, "pycocoevalcap", None)
    assert plan(tasks=["vqa"]).tasks
    with pytest.raises(UserError, match=r"pycocoevalcap is missing: pip install 'attngraph\[captions\]'"):
        plan(tasks=["vqa", "caption"])


def test_how_many_examples_a_task_trains_on(six):
    """Of data that are drawn, before they are drawn."""
    found = [PRESET.scenes.count(TASKS[name]) for name in ("vqa", "easy_vqa")]
    assert found == [60, None] and Scenes(published={"vqa2": (7, 3)}).count(TASKS["vqa2"]) == 7
    grid = PRESET.model_copy(
        update={"runs": Part(recipe=Recipe(epochs=2, batch_size=5)), "seeds": {"gcn": 1}}
    )
    (drawn,) = plan(grid, tasks=["vqa"]).cells
    (given,) = plan(grid, tasks=["snli_ve"], data=six).cells
    examples = len(TASKS["snli_ve"].examples(six, "train"))
    assert (drawn.recipe.steps, given.recipe.steps) == (2 * 60 // 5, 2 * (examples // 5))


def test_seeds_are_dealt_over_checkpoints():
    table = plan(SEVERAL)
    one, two = "runs/checkpoints/seed1", "runs/checkpoints/seed2"
    models = {cell.seed: cell.model for cell in table.rows["gcn"]}
    assert models == {0: None, 1: one, 2: two, 3: None, 4: one, 5: two, 6: None}
    assert {cell.seed: cell.model for cell in table.rows["frozen"]} == {0: None, 1: one, 2: two}
    assert {cell.model for cell in table.rows["majority"]} == {None}
    models = {(cell.seed, cell.model) for cell in plan(SEVERAL, seeds=[4, 5, 7]).rows["frozen"]}
    assert models == {(1, one), (2, two)}, "the frozen model has the checkpoints of the others"
    table = plan(SEVERAL, model="mine")
    assert {cell.model for cell in table.cells} == {"mine"}
    assert {cell.seed for cell in table.rows["frozen"]} == {0}


def test_a_checkpoint_that_is_missing_is_named_with_the_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells = plan(SEVERAL.model_copy(update={"seeds": {"gcn": 2}})).cells
    with pytest.raises(UserError, match="seed1, .* is missing: .* --seed 1 --out runs/checkpoints/seed1"):
        check_checkpoints(cells)
    place = tmp_path / "runs" / "checkpoints" / "seed1"
    place.mkdir(parents=True)
    (place / "model.safetensors").touch()
    check_checkpoints(cells)


def test_tasks_on_official_files_take_the_settings_of_the_task_that_they_are_like(six):
    table = plan(data=six, rows=["pgnn"], tasks=["vqa2", "coco"])
    chosen = chosen_settings()
    for cell in table.rows["pgnn"]:
        like = {"vqa2": "vqa", "coco": "caption"}[cell.task]
        assert cell.settings == METHODS["pgnn"].settings(chosen, like)
        assert cell.recipe.learning_rate == chosen.methods["pgnn"][like].learning_rate
        assert cell.data == six
    assert all(cell.scenes is None for cell in table.cells), "nothing is drawn"
    of_its_own = {**chosen.methods["pgnn"], "coco": chosen.methods["pgnn"]["vqa"]}
    own = Settings(reduction=4, methods={**chosen.methods, "pgnn": of_its_own})
    alone = PRESET.model_copy(update={"seeds": {"pgnn": 1}, "settings": own})
    (cell,) = plan(alone, data=six, rows=["pgnn"], tasks=["coco"]).cells
    assert cell.settings == METHODS["pgnn"].settings(own, "coco")


def test_the_tasks_of_a_folder(six, tmp_path):
    names = [name for name, task in TASKS.items() if task.data_set]
    assert list(tasks_of(PRESET, None, six)) == names and list(tasks_of(PRESET, None, None)) == DRAWN
    fewer = PRESET.model_copy(update={"by_task": {"vqa2": None, "easy_vqa": None}})
    assert list(tasks_of(fewer, None, six)) == names[1:] and list(tasks_of(fewer, ["vqa2"], six)) == ["vqa2"]
    assert list(tasks_of(fewer, None, None)) == DRAWN[:-1]
    assert list(tasks_of(fewer, ["easy_vqa", "coco"], six)) == ["easy_vqa", "coco"]
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "textcaps").symlink_to(six / "textcaps")
    assert list(tasks_of(PRESET, None, tmp_path / "part")) == ["textcaps"]
    for named, data, said in (
        (["vqa2"], None, "vqa2 reads official files: use the folder that contains vqa2 with --data FOLDER"),
        (None, tmp_path, "has no data of a task"),
        (["ve"], six, "no synthetic scenes"),
    ):
        with pytest.raises(UserError, match=said):
            tasks_of(PRESET, named, data)
