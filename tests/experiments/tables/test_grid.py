"""Presets, tables, sizes and settings: files that are right are read, all others end with one line and the
remedy."""

from pathlib import Path

import pytest

from attngraph.errors import UserError
from attngraph.experiments.base import config, shipped
from attngraph.experiments.base.shipped import names_of
from attngraph.experiments.methods import METHODS
from attngraph.experiments.methods.settings import chosen_settings
from attngraph.experiments.runs.experiment import Part, Recipe, Scenes, laid_over
from attngraph.experiments.tables import grid as grid_module
from attngraph.experiments.tables.grid import Grid, load_preset, load_table
from attngraph.experiments.tables.plan import Plan, plan_table
from attngraph.experiments.tasks import TASKS

RESULTS = Path(__file__).parents[3] / "experiments" / "results"
SIX = ("vqa2", "vizwiz_vqa", "snli_ve", "coco", "textcaps", "vizwiz_caps")
RIGHT = "about: mine\nseeds: {gcn: 1}\n"


def planned(table: str, size: str = "scenes", **wanted) -> Plan:
    return plan_table(load_table(table, size), **wanted)


def one_line(error) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


# ---- what is shipped --------------------------------------------------------------------------------------


def test_what_is_shipped_is_read():
    assert names_of("preset") == ["quick", "full", "smoke"] and names_of("size") == [
        "scenes",
        "paper",
        "peft",
    ]
    assert names_of("table") == ["main", "concat", "gnn", "p", "peft", "position", "width"]
    for name in names_of("preset"):
        grid = load_preset(name)
        assert grid.about and set(grid.counts) <= set(METHODS) and set(grid.by_task) <= set(TASKS)


def test_tables_of_a_size_agree_on_the_runs_that_they_share():
    seen = {}
    for name in names_of("table"):
        if name == "peft":  # of a size of its own
            continue
        plan = planned(name)
        for row, cells in plan.rows.items():
            seeds = {cell.seed for cell in cells}
            assert seeds == ({0} if row == "frozen" else set(range(3 if name in ("main", "gnn") else 2)))
        for cell in plan.cells:
            assert seen.setdefault(cell.name, cell) == cell
    gnn, main = (set(planned(name).cells) for name in ("gnn", "main"))
    assert gnn < main, "nothing is run twice"


def test_rates_of_the_large_size_are_the_papers():
    plan = planned("main", "paper", seeds=range(1))
    rates = {row: {cell.recipe.learning_rate for cell in plan.rows[row]} for row in ("full", "lora", "gcn")}
    assert rates == {"full": {2e-5}, "lora": {5e-4, 3e-4}, "gcn": {5e-4, 3e-4}}
    assert {cell.settings["reduction"] for cell in plan.rows["gcn"]} == {8}
    rows = [row for row in plan.rows.values() if "gnn" in row[0].settings]
    assert len(rows) == 6, "four networks and two controls"
    assert {cell.settings["join"] for row in rows for cell in row} == {"replace"}, "the paper's"


# ---- settings chosen on validation data -----------------------------------------------------------------


def test_shipped_settings_are_what_the_searches_chose():
    """Captions and easy-VQA were searched again with more steps."""
    first, longer = (
        chosen_settings(RESULTS / name / "settings.yaml") for name in ("search", "search-longer")
    )
    for name, choices in chosen_settings().methods.items():
        for task, choice in choices.items():
            search = longer if task in ("caption", "easy_vqa") else first
            assert choice == search.choice(name, task), (name, task)


def test_what_a_file_leaves_open_is_what_the_row_would_have_had(tmp_path):
    """Of the method that it follows and of the task that a task is like; and on tasks that are like it."""
    file = tmp_path / "rates.yaml"

    def given(size, content):
        file.write_text(f"methods: {content}")
        return load_table("main", size).with_settings(file).settings

    def found(size, content, method, task):
        return METHODS[method].settings(given(size, content), task)

    rate = "{learning_rate: 0.5}"
    own = given("paper", f"{{pgnn: {{snli_ve: {rate}}}}}").choice("pgnn", "snli_ve")
    assert (own.learning_rate, own.join, own.arguments) == (0.5, "replace", {"p": 1.5, "mu": 10})
    said = given("paper", "{pgnn: {snli_ve: {learning_rate: 0.5, join: blend}}}").choice("pgnn", "snli_ve")
    assert said.join == "blend", "said, if only the default"
    for row in ("tempering", "placebo"):
        settings = found("paper", f"{{{row}: {{vqa2: {rate}}}}}", row, "vqa2")
        assert (settings["join"], settings["gnn_args"]) == ("replace", {"p": 1.25, "mu": 0.1})
    scenes = load_table("main", "scenes").settings
    for row in ("pgnn", "gcnii", "appnp"):
        plain = METHODS[row].settings(scenes, "vqa")
        assert found("scenes", f"{{{row}: {{vqa2: {rate}}}}}", row, "vqa2") == plain
    both = f"{{tempering: {{vqa2: {rate}}}, pgnn: {{vqa2: {{learning_rate: 0.1, join: gated}}}}}}"
    assert found("paper", both, "tempering", "vqa2")["join"] == "gated", "as pGNN of the same file"
    two = f"{{pgnn: {{vqa2: {rate}, vqa: {{learning_rate: 0.1, join: gated}}}}}}"
    assert found("paper", two, "pgnn", "vqa2")["join"] == "gated", "as the task that it is like"
    mine = found("paper", "{pgnn: {vqa: {learning_rate: 0.5, join: gated}}}", "pgnn", "vqa2")
    assert (mine["join"], mine["gnn_args"]) == ("gated", {"p": 1.25, "mu": 0.1})


def test_checkpoints_are_taken_from_the_first_folder_that_has_them(tmp_path, monkeypatch):
    monkeypatch.setattr(grid_module, "CHECKPOINTS", (tmp_path / "a", tmp_path / "b"))
    (tmp_path / "b" / "seed105").mkdir(parents=True)
    grid = Grid(about="", seeds={"gcn": 1}, checkpoints=[104, 105, 0])
    assert [grid.model_of(seed) for seed in range(4)] == [
        str(tmp_path / "a" / "seed104"),
        str(tmp_path / "b" / "seed105"),
        None,
        str(tmp_path / "a" / "seed104"),
    ]


# ---- files of one's own ---------------------------------------------------------------------------------


def test_steps_and_epochs_are_two_ways_to_say_one_thing():
    with pytest.raises(ValueError, match="use steps or epochs, not both"):
        Recipe(steps=3, epochs=2)
    assert laid_over({"recipe": {"epochs": 2}}, {"recipe": {"steps": 7}}) == {"recipe": {"steps": 7}}
    said = laid_over({"recipe": {"epochs": 2}}, {"recipe": {"steps": 7, "epochs": None}})
    assert said == {"recipe": {"steps": 7, "epochs": None}}, "null says nothing of steps"
    grid = Grid(about="", seeds={"gcn": 1}, runs=Part(recipe=Recipe(epochs=2, batch_size=8)))
    grid = grid.model_copy(update={"by_task": {"vqa": Part(recipe=Recipe(steps=7))}})
    steps = {cell.task: cell.recipe.steps for cell in plan_table(grid, tasks=["vqa", "ve"]).cells}
    assert steps == {"vqa": 7, "ve": 2 * (Scenes().hypotheses[0] // 8)}


def test_a_size_without_settings_has_none(tmp_path):
    """Those that ship were chosen for another model: to take them is for the user to say."""
    (tmp_path / "own.yaml").write_text("about: mine\nscenes: {layouts: 10}\n")
    plan = plan_table(load_table("gnn", str(tmp_path / "own.yaml")))
    for row, cells in plan.rows.items():
        assert {cell.recipe.learning_rate for cell in cells} == {METHODS[row].default_rate}


@pytest.mark.parametrize(
    "text, said",
    [
        (RIGHT + "run: {recipe: {steps: 3}}\n", r"unknown field run \(did you mean runs\?\)"),
        ("about: mine\nseeds: abc\n", "field seeds: use an integer from 1 to 1000, or one for each"),
        ("about: mine\nseeds: {1: 2}\n", "field seeds: use an integer"),
        ("about: mine\nseeds: {gcn: 1001}\n", "field seeds: use an integer"),
        (RIGHT + "by_task: {vqa: {recipe: {step: 3}}}\n", r"field by_task.vqa.recipe.step \(did you mean"),
        (RIGHT + "seeds: {gcn: 2}\n", "seeds appears twice"),
        ("about: mine\n", "has no rows: name them in rows"),
        ("about: a\nrows: {A: [gcn, gcnii]}\nseeds: {gcn: 2}\n", "'gcnii' is in only one of rows and seeds"),
        (RIGHT + "checkpoints: [3, 3]\n", "field checkpoints: use a number of checkpoints"),
        ("about: a\nrows: {A: [gcn, gcn]}\n", "rows contain 'gcn' twice"),
        ("about: a\nrows: {A: [gcn]}\nbaseline: pgnn\n", "baseline contains 'pgnn', which is not a row"),
        ("- a\n- b\n", "must consist of fields with values"),
    ],
)
def test_damaged_grids_are_named(text, said, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=said) as error:
        load_preset(str(file))
    line = one_line(error)
    assert line.startswith(str(file))
    assert "see experiments/configs/presets for examples" in line


@pytest.mark.parametrize(
    "table, size, said",
    [
        ("mian", "scenes", "unknown table 'mian' .*: choose from main, .*, or use a YAML file"),
        ("main", "papr", "unknown size 'papr' .*did you mean paper"),
        ("main", "- a", r"own\.yaml: must consist of fields"),
        ("main", "about: a\ntasks: [coco]\n", r"main\.yaml sets tasks, too: remove it from one of them"),
        ("main", "about: a\nrates: {lorra: [0.1, 0.2]}\n", r"own\.yaml: unknown method 'lorra'"),
        (
            "main",
            "about: a\nsettings: {methods: {pgn: {vqa2: {learning_rate: 1}}}}\n",
            "unknown method 'pgn'",
        ),
    ],
)
def test_tables_and_sizes_that_are_wrong_are_named(table, size, said, tmp_path):
    if " " in size:
        (tmp_path / "own.yaml").write_text(size)
        size = str(tmp_path / "own.yaml")
    with pytest.raises(UserError, match=said) as error:
        load_table(table, size)
    one_line(error)


def test_a_preset_that_is_gone_and_the_lines_of_the_others(tmp_path, monkeypatch):
    for module in (config, shipped):
        monkeypatch.setattr(module, "CONFIGS", tmp_path)
    with pytest.raises(UserError, match="unknown preset 'quick': install attngraph again, or use a YAML"):
        load_preset("quick")
    (tmp_path / "presets").mkdir()
    (tmp_path / "presets" / "quick.yaml").write_text("seeds: [")
    (tmp_path / "presets" / "smoke.yaml").write_text(f"{RIGHT}")
    assert shipped.described("preset") == "quick; smoke: mine"


@pytest.mark.parametrize(
    "text, said",
    [
        ("reductoin: 4\n", r"unknown field reductoin \(did you mean reduction\?\)"),
        ("methods: {gcn: {vqa: {learning_rate: .inf}}}\n", "input should be a finite number"),
        (
            "methods: {gcn: {vqa: {learning_rate: 1, join: glue}}}\n",
            "vqa.join: input should be 'replace', 'gated' or 'blend'",
        ),
        ("methods: {lorra: {vqa2: {learning_rate: 1}}}", "unknown method 'lorra' .did you mean lora"),
        ("methods: {lora: {vqa3: {learning_rate: 1}}}", "unknown task 'vqa3' .did you mean vqa"),
        (None, "no such file"),
    ],
)
def test_settings_that_are_damaged_or_name_what_is_not_there(text, said, tmp_path):
    file = tmp_path / "settings.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=said) as error:
        load_table("main", "scenes").with_settings(file)
    assert one_line(error).startswith(str(file))
