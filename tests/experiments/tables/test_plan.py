"""Which cells a table has, and how long they should take."""

from pathlib import Path

import pytest

from attngraph.errors import UserError
from experiments.data.drawn import make_scenes
from experiments.methods import METHODS
from experiments.methods.settings import Choice, Settings, chosen_settings
from experiments.runs.experiment import Part, Scenes, Training
from experiments.tables.grid import Grid, load_preset, load_table
from experiments.tables.plan import (
    ENCODER_TIMES,
    START_SECONDS,
    STEP_SECONDS,
    Wanted,
    example_count,
    plan_table,
    tasks_of,
)
from experiments.tasks import TASKS
from tests.experiments.drawn import DRAWN as DRAWN_TASKS

PRESET = Grid(
    about="",
    seeds={"gcn": 2, "pgnn": 3, "learned_p": 2, "frozen": 1, "full": 1, "majority": 1},
    runs=Part(recipe=Training(steps=10), train_examples=40, eval_examples=20),
    scenes=Scenes(questions=(60, 20, 15)),
)


DATA = Path("data")
DRAWN = list(DRAWN_TASKS)


@pytest.fixture(autouse=True)
def bfloat16(monkeypatch) -> None:
    """The machine has it."""
    monkeypatch.setattr("experiments.tables.plan.uses_bfloat16", lambda device: True)


def step_of(examples: int, precision: str = "half") -> float:
    """The seconds of a step that leaves the image encoder frozen."""
    fixed, example = STEP_SECONDS[precision]
    return fixed + examples * example


@pytest.fixture(scope="module")
def six(tmp_path_factory) -> Path:
    """Official files of six data sets."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATTNGRAPH_CACHE", str(tmp_path_factory.mktemp("tables")))
        yield make_scenes(tmp_path_factory.mktemp("data") / "six", size=30)


def plan(**request):
    return plan_table(PRESET, Wanted(**request), DATA)


def test_rows_and_seeds_of_a_preset():
    table = plan()
    assert list(table.rows) == list(PRESET.seeds) and list(table.tasks) == DRAWN
    for name, count in PRESET.seeds.items():
        cells = table.rows[name]
        assert len(cells) == count * len(DRAWN) and {cell.seed for cell in cells} == set(range(count))
        assert {cell.task for cell in cells} == set(DRAWN)
        assert all((cell.recipe is not None) == METHODS[name].trains for cell in cells)


def labels(grid: Grid) -> dict[str, set[str]]:
    found = plan_table(grid, data=DATA).rows
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


def test_a_row_that_repeats_another_trains_nothing_twice():
    table = plan()
    assert set(table.rows["learned_p"]) == {cell for cell in table.rows["pgnn"] if cell.seed < 2}
    assert len(table.cells) == (2 + 3 + 1 + 1 + 1) * len(DRAWN) == len(set(table.cells))
    assert [cell.seed for cell in table.cells] == sorted(cell.seed for cell in table.cells)


def test_times_are_known_of_the_mini_blip():
    assert plan().is_small and plan(model="mini-blip").is_small
    assert not plan(model="mini-mplug").is_small and not plan(model="./mini-blip").is_small


def test_a_cell_has_the_chosen_settings_and_the_presets_budget():
    cell = next(cell for cell in plan(tasks=["caption"]).rows["pgnn"])
    chosen = chosen_settings()
    assert cell.settings == METHODS["pgnn"].settings(chosen, "caption")
    rate = chosen.methods["pgnn"]["caption"].learning_rate
    assert (cell.recipe.learning_rate, cell.recipe.steps) == (rate, 10)
    assert (cell.train_examples, cell.eval_examples, cell.split) == (40, 20, "test")
    assert cell.folder(Path("out")) == Path("out/cells/pgnn/caption/seed0")


def test_what_a_user_asks_for():
    table = plan(rows=["appnp", "pgnn"], tasks=["ve", "vqa"], first_seed=4, seeds=2, join="gated", model="m")
    assert list(table.rows) == ["appnp", "pgnn", "frozen", "full", "majority"], "reference rows stay"
    assert list(table.tasks) == ["ve", "vqa"]
    for name, cells in table.rows.items():
        assert {cell.seed for cell in cells} == ({4, 5} if METHODS[name].trains else {0})
        assert all(cell.model == "m" for cell in cells)
    assert {cell.settings["join"] for cell in table.rows["pgnn"]} == {"gated"}
    assert len({cell.seed for cell in plan(rows=["appnp"]).rows["appnp"]}) == 3, "as many as the most seeds"


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"rows": ["gat"]}, "unknown method 'gat'"),
        ({"rows": []}, "no method is named"),
        ({"tasks": ["vqa", "chess"]}, "unknown task 'chess'"),
        ({"join": "glue"}, "unknown join 'glue'"),
        ({"seeds": 0}, "--seeds must be at least 1"),
    ],
)
def test_wrong_requests(wrong, said):
    with pytest.raises(UserError, match=said):
        Wanted(**wrong)


def test_unknown_names_in_a_preset():
    tasks = PRESET.model_copy(update={"by_task": {"chess": Part()}})
    with pytest.raises(UserError, match="unknown task 'chess': choose from vqa, "):
        plan_table(tasks, data=DATA)
    methods = PRESET.model_copy(update={"seeds": {"gat": 1}})
    with pytest.raises(UserError, match="unknown method 'gat'"):
        plan_table(methods, data=DATA)


@pytest.mark.parametrize("seeds", [{}, {"gcn": 0, "frozen": 0}])
@pytest.mark.parametrize("gnns", [None, ["pgnn"]])
def test_a_preset_without_seeds_is_refused(seeds, gnns):
    preset = PRESET.model_copy(update={"seeds": seeds})
    with pytest.raises(UserError, match="the file runs nothing: give a method at least one seed"):
        plan_table(preset, Wanted(rows=gnns), data=DATA)


def test_the_estimate_adds_starts_steps_and_answers():
    table = plan(rows=["gcn"], tasks=["vqa"], seeds=1)
    seconds = TASKS["vqa"].budget.eval_seconds
    each = START_SECONDS + 15 * seconds  # fewer questions are drawn than the preset would score
    trained = 10 * ENCODER_TIMES["trained"] * step_of(64)
    steps = 10 * step_of(64) + trained
    assert [cell.method for cell in table.cells] == ["gcn", "frozen", "full", "majority"]
    assert table.seconds(1) == pytest.approx(4 * each + steps)
    assert table.seconds(2) == pytest.approx(table.seconds(1) / 2)
    assert table.seconds(50) == table.seconds(2), "two cores do not do more at a time"
    assert table.seconds(1, table.cells[:1]) == pytest.approx(table.seconds(1) - each - 10 * step_of(64))
    assert table.seconds(1, table.cells) == 0, "all are done"
    one = plan(rows=["gcn"], tasks=["vqa"], seeds=1)
    one.rows.pop("frozen"), one.rows.pop("majority")
    assert one.seconds(2) == pytest.approx(each + trained), "the longest cell"


@pytest.mark.parametrize(
    "precision, has_it, slow", [("float32", True, True), ("auto", False, True), ("bfloat16", False, False)]
)
def test_float32_takes_longer(monkeypatch, precision, has_it, slow):
    wanted = Wanted(rows=["gcn"], tasks=["vqa"], seeds=1)
    before = plan(**vars(wanted)).seconds(1)
    monkeypatch.setattr("experiments.tables.plan.uses_bfloat16", lambda device: has_it)
    changed = PRESET.model_copy(
        update={"runs": Part(recipe=Training(steps=10, precision=precision), train_examples=40)}
    )
    more = plan_table(changed, wanted, data=DATA).seconds(1) - before
    steps = 10 * (1 + ENCODER_TIMES["trained"]) * (step_of(64, "float32") - step_of(64))
    assert steps > 0
    assert more == pytest.approx(steps if slow else 0)


def test_how_many_examples_a_task_has():
    assert [
        example_count(TASKS["vqa"], split, PRESET.scenes, DATA) for split in ("train", "validation", "test")
    ] == [
        60,
        20,
        15,
    ]
    easy = TASKS["easy_vqa"]
    assert example_count(easy, "test", PRESET.scenes, DATA) == len(easy.examples(Path(), "test")) == 9673


@pytest.mark.parametrize("has_it", [True, False], ids=["bfloat16", "float32"])
@pytest.mark.parametrize("preset, limit", [("quick", 8 * 60), ("full", 12 * 3600)])
def test_presets_keep_what_they_promise_on_two_cores(monkeypatch, preset, limit, has_it):
    monkeypatch.setattr("experiments.tables.plan.uses_bfloat16", lambda device: has_it)
    table = plan_table(load_preset(preset), data=DATA)
    assert table.seconds(2) < limit


def test_a_preset_may_leave_tasks_out():
    short = PRESET.model_copy(update={"by_task": {"easy_vqa": None, "vqa": Part()}})
    assert list(plan_table(short, data=DATA).tasks) == ["vqa", "ve", "caption"]
    assert list(plan_table(short, Wanted(tasks=["easy_vqa"]), data=DATA).tasks) == ["easy_vqa"]
    nothing = PRESET.model_copy(update={"by_task": dict.fromkeys(TASKS)})
    with pytest.raises(UserError, match="leaves out every task: name some with --tasks"):
        plan_table(nothing, data=DATA)


def test_settings_that_nobody_chose_are_named():
    assert plan().unsearched == ()
    chosen = chosen_settings()
    methods = {name: dict(of_task) for name, of_task in chosen.methods.items()}
    del methods["pgnn"]["ve"], methods["full"]
    grid = PRESET.model_copy(update={"settings": Settings(reduction=4, methods=methods)})
    table = plan_table(grid, Wanted(tasks=["vqa", "ve"]), DATA)
    assert set(table.unsearched) == {("pgnn", "ve"), ("full", "vqa"), ("full", "ve")}
    rate = {cell.task: cell.recipe.learning_rate for cell in table.rows["pgnn"]}
    assert rate == {
        "vqa": chosen.methods["pgnn"]["vqa"].learning_rate,
        "ve": METHODS["pgnn"].default_rate,
    }


def test_seeds_are_dealt_over_checkpoints():
    several = PRESET.model_copy(update={"checkpoints": 3, "seeds": {"gcn": 7, "frozen": 5, "majority": 1}})
    table = plan_table(several, Wanted(checkpoints=Path("ckpt")), data=DATA)
    models = {cell.seed: cell.model for cell in table.rows["gcn"]}
    one, two = (str(Path("ckpt") / name) for name in ("seed1", "seed2"))
    assert models == {0: None, 1: one, 2: two, 3: None, 4: one, 5: two, 6: None}
    assert {cell.seed: cell.model for cell in table.rows["frozen"]} == {0: None, 1: one, 2: two}
    assert {cell.model for cell in table.rows["majority"]} == {None}
    table = plan_table(several, Wanted(model="mine"), data=DATA)
    assert {cell.model for cell in table.cells} == {"mine"}
    assert {cell.seed for cell in table.rows["frozen"]} == {0}


def test_rows_without_a_seed_are_refused():
    nothing = PRESET.model_copy(update={"seeds": {"gcn": 0, "pgnn": 1}})
    with pytest.raises(UserError, match="no row has a seed: give more"):
        plan_table(nothing, Wanted(rows=["gcn"]), data=DATA)


def test_tasks_on_official_files_take_the_settings_of_the_task_that_they_are_like(six):
    table = plan(data=six, rows=["pgnn"], tasks=["vqa2", "coco"], answering="rank")
    chosen = chosen_settings()
    for cell in table.rows["pgnn"]:
        like = {"vqa2": "vqa", "coco": "caption"}[cell.task]
        assert cell.settings == METHODS["pgnn"].settings(chosen, like)
        assert cell.recipe.learning_rate == chosen.methods["pgnn"][like].learning_rate
        assert (cell.data, cell.answering) == (six, "rank")
    assert table.borrowed == {"vqa2": "vqa", "coco": "caption"} and not table.unsearched
    assert table.scenes is None, "nothing is drawn"
    of_its_own = {**chosen.methods["pgnn"], "coco": chosen.methods["pgnn"]["vqa"]}
    own = Settings(reduction=4, methods={**chosen.methods, "pgnn": of_its_own})
    request = Wanted(data=six, rows=["pgnn"], tasks=["coco"])
    alone = PRESET.model_copy(update={"seeds": {"pgnn": 1}, "settings": own})
    table = plan_table(alone, request, DATA)
    assert table.borrowed == {} and table.cells[0].settings == METHODS["pgnn"].settings(own, "coco")
    table = plan_table(alone.model_copy(update={"settings": Settings()}), request, DATA)
    assert table.unsearched == (("pgnn", "coco"),), "neither has any"


def test_the_tasks_of_a_folder(six, tmp_path):
    names = [name for name, task in TASKS.items() if task.data_set]
    assert list(tasks_of(PRESET, None, six)) == names and list(tasks_of(PRESET, None, None)) == DRAWN
    fewer = PRESET.model_copy(update={"by_task": {"vqa2": None}})
    assert list(tasks_of(fewer, None, six)) == names[1:] and list(tasks_of(fewer, ["vqa2"], six)) == ["vqa2"]
    assert list(tasks_of(PRESET, ["easy_vqa", "coco"], six)) == ["easy_vqa", "coco"]
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "textcaps").symlink_to(six / "textcaps")
    assert list(tasks_of(PRESET, None, tmp_path / "part")) == ["textcaps"]
    for named, data, said in (
        (["vqa2"], None, "vqa2 reads official files: give the folder that holds vqa2 with --data FOLDER"),
        (None, tmp_path, "holds no data of a task"),
        (["ve"], six, "holds no drawn scenes"),
    ):
        with pytest.raises(UserError, match=said):
            tasks_of(PRESET, named, data)


def test_examples_of_official_files_are_counted(six):
    preset = load_preset("quick")
    table = plan_table(preset, Wanted(data=six, rows=["gcn"], tasks=["snli_ve"]), data=DATA)
    counted = example_count(TASKS["snli_ve"], "test", None, six)
    assert counted == len(TASKS["snli_ve"].examples(six, "test")) > 0
    seconds = START_SECONDS + counted * TASKS["snli_ve"].budget.eval_seconds
    recipe = table.rows["gcn"][0].recipe
    assert recipe.batch_size == 32
    steps = recipe.steps * step_of(32)
    assert table.seconds(1) == pytest.approx(3 * seconds + steps)
