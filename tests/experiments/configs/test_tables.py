"""The tables of the paper: rows, tasks and settings of both sizes; files that are wrong end with one line."""

from dataclasses import asdict
from pathlib import Path

import pytest

from attngraph.errors import UserError
from experiments.configs.experiment import load_experiment
from experiments.configs.presets import BudgetChange, Preset
from experiments.configs.settings import Choice, Settings, chosen_settings, write_settings
from experiments.configs.tables import load_size, load_table, size_names, table_names
from experiments.methods import METHODS, GraphAdapter, method_named
from experiments.report.frame import averaged_columns, table_columns
from experiments.report.published import published_blocks
from experiments.tasks import TASKS, tasks_named
from experiments.training.plan import Request, plan_table

RESULTS = Path(__file__).parents[3] / "experiments" / "results"
SIX = ("vqa2", "vizwiz_vqa", "snli_ve", "coco", "textcaps", "vizwiz_caps")


def planned(table, size="scenes", **request):
    table, size = load_table(table), load_size(size)
    return plan_table(size.preset(table), Request(tasks=table.tasks, **request), size.chosen(), Path("data"))


def test_the_papers_tables_are_there():
    assert table_names() == ["main", "concat", "gnn", "p", "position", "width"]
    assert size_names() == ["scenes", "paper"]


@pytest.mark.parametrize("name", table_names())
def test_rows_are_methods_and_published_blocks_fit(name):
    table = load_table(name)
    assert all(row in METHODS for row in table.blocks)
    titles = [method_named(row).title for row in table.blocks]
    assert len(set(titles)) == len(titles)
    columns = table_columns(tasks_named(table.tasks))
    keys = {column.key for column in columns}
    for block in table.published:
        published = published_blocks()[block]
        assert all(set(numbers) <= keys for numbers in published.rows.values())
        averages = {column.key for column in averaged_columns(columns)}
        assert published.averaged == (averages if len(averages) > 1 else set())


def of(cell):
    """What decides a cell."""
    return {name: value for name, value in vars(cell).items() if name != "data"}


def test_tables_of_a_size_agree_on_the_runs_that_they_share():
    seen = {}
    for name in table_names():
        plan = planned(name)
        for row, cells in plan.rows.items():
            seeds = {cell.seed for cell in cells}
            assert seeds == ({0} if row == "frozen" else set(range(3 if name in ("main", "gnn") else 2)))
        for cell in plan.cells:
            assert of(seen.setdefault((cell.label, cell.task, cell.seed), cell)) == of(cell)
    gnn, main = ({(c.label, c.task, c.seed) for c in planned(name).cells} for name in ("gnn", "main"))
    assert gnn < main, "nothing is run twice"


@pytest.mark.parametrize("task", SIX)
def test_the_large_size_trains_the_p_adapter_as_the_papers_experiments_do(task):
    """Two files say so, this one for tables and that one for one run."""
    (cell,) = [c for c in planned("main", "paper", seeds=1).rows["pgnn"] if c.task == task]
    experiment = load_experiment(f"paper-{task}", [])
    given = experiment.recipe.model_dump(exclude_none=True)
    assert given.pop("epochs") == load_size("paper").preset(load_table("main")).epochs_of(TASKS[task])
    recipe = asdict(cell.recipe)
    assert {name: recipe[name] for name in given} == given
    assert cell.settings == {"gnn": "pgnn", **experiment.settings}
    assert (cell.side, cell.decoding) == (experiment.side, experiment.details())
    assert cell.answering == "rank" and experiment.answering in ("rank", None)


def test_epochs_become_steps():
    steps = {cell.task: cell.recipe.steps for cell in planned("main", "paper", seeds=1).rows["lora"]}
    published = load_size("paper").published
    assert steps["vqa2"] == 5 * (605_102 // 64) == 47_270
    assert steps["coco"] == 10 * (113_287 // 128) == 8_850
    for task in SIX:
        epochs, batch = (5, 64) if task in SIX[:3] else (10, 128)
        assert steps[task] == epochs * (published[task][0] // batch)


def test_rates_of_the_large_size_are_the_papers():
    plan = planned("main", "paper", seeds=1)
    assert not plan.unsearched or {method for method, _ in plan.unsearched} <= {"tempering", "placebo"}
    rates = {row: {cell.recipe.learning_rate for cell in plan.rows[row]} for row in ("full", "lora", "gcn")}
    assert rates == {"full": {2e-5}, "lora": {5e-4, 3e-4}, "gcn": {5e-4, 3e-4}}
    assert {cell.settings["reduction"] for cell in plan.rows["gcn"]} == {8}
    rows = [row for row in plan.rows.values() if "gnn" in row[0].settings]
    assert len(rows) == 6, "four networks and two controls"
    assert {cell.settings["join"] for row in rows for cell in row} == {"replace"}, "the paper's"


def test_the_small_size_has_what_the_committed_tables_have():
    """So that a sweep of it can be made again, whatever settings ship."""
    table, size = load_table("main"), load_size("scenes")
    for name in ("tables", "tables-mplug"):
        swept = chosen_settings(RESULTS / name / "sweep" / "settings.yaml")
        adapters = [method for method in swept.methods if isinstance(METHODS[method], GraphAdapter)]
        assert adapters == ["gcn", "pgnn", "appnp", "gcnii", "tempering", "placebo"]
        for method in adapters:
            for task in table.tasks:
                of_size = METHODS[method].settings(size.chosen(), TASKS[task].like)
                assert of_size == METHODS[method].settings(swept, task)


def test_without_a_file_the_rates_are_those_of_the_size():
    for cell in planned("gnn").rows["pgnn"]:
        chosen = load_size("scenes").chosen().choice("pgnn", TASKS[cell.task].like)
        assert cell.recipe.learning_rate == chosen.learning_rate


def test_settings_of_a_file_go_before_all_others(tmp_path):
    mine = Settings(methods={"gcn": {"vqa2": Choice(learning_rate=0.5)}})
    write_settings(tmp_path / "mine.yaml", mine)
    for size in ("scenes", "paper"):
        found, before = load_size(size).chosen(tmp_path / "mine.yaml"), load_size(size).chosen()
        assert found.choice("gcn", "vqa2").learning_rate == 0.5
        assert found.choice("gcn", "coco") == before.choice("gcn", "coco")
        assert found.choice("pgnn", "vqa2") == before.choice("pgnn", "vqa2")
        assert found.choice("appnp", "coco") == before.choice("appnp", "coco")
    assert load_size("paper").chosen().reduction == 8 != load_size("scenes").chosen().reduction


def test_what_a_file_leaves_open_stays(tmp_path):
    file = tmp_path / "rates.yaml"
    file.write_text("methods: {pgnn: {snli_ve: {learning_rate: 0.5}}}")
    before, found = (load_size("paper").chosen(one).choice("pgnn", "snli_ve") for one in (None, file))
    assert found.learning_rate == 0.5 != before.learning_rate
    assert (
        (found.join, found.arguments) == (before.join, before.arguments) == ("replace", {"p": 1.5, "mu": 10})
    )
    write_settings(file, Settings(methods={"pgnn": {"snli_ve": Choice(learning_rate=0.5, join="blend")}}))
    found = load_size("paper").chosen(file).choice("pgnn", "snli_ve")
    assert found.join == "blend", "said, if only the default"
    assert found.arguments == before.arguments


def test_what_a_file_leaves_open_is_what_the_row_would_have_had(tmp_path):
    """Of the method that it follows and of the task that a task is like; and on tasks that are like it."""
    file = tmp_path / "rates.yaml"

    def found(size, content, method, task):
        file.write_text(f"methods: {content}")
        return METHODS[method].settings(load_size(size).chosen(file), task)

    rate = "{learning_rate: 0.5}"
    for row in ("tempering", "placebo"):
        settings = found("paper", f"{{{row}: {{vqa2: {rate}}}}}", row, "vqa2")
        assert (settings["join"], settings["gnn_args"]) == ("replace", {"p": 1.25, "mu": 0.1})
        assert load_size("paper").chosen(file).choice(row, "vqa2").learning_rate == 0.5
    for row in ("pgnn", "gcnii", "appnp"):
        plain = METHODS[row].settings(load_size("scenes").chosen(), "vqa")
        assert found("scenes", f"{{{row}: {{vqa2: {rate}}}}}", row, "vqa2") == plain
    assert (
        found("scenes", f"{{residual: {{vqa2: {rate}}}}}", "residual", "vqa2")["gnn_args"]
        == (METHODS["residual"].settings(load_size("scenes").chosen(), "vqa")["gnn_args"])
    )
    both = f"{{tempering: {{vqa2: {rate}}}, pgnn: {{vqa2: {{learning_rate: 0.1, join: gated}}}}}}"
    assert found("paper", both, "tempering", "vqa2")["join"] == "gated", "as pGNN of the same file"
    two = f"{{pgnn: {{vqa2: {rate}, vqa: {{learning_rate: 0.1, join: gated}}}}}}"
    assert found("paper", two, "pgnn", "vqa2")["join"] == "gated", "as the task that it is like"
    assert load_size("paper").chosen(file).choice("pgnn", "vqa2").learning_rate == 0.5
    mine = found("paper", "{pgnn: {vqa: {learning_rate: 0.5, join: gated}}}", "pgnn", "vqa2")
    assert (mine["join"], mine["gnn_args"]) == ("gated", {"p": 1.25, "mu": 0.1})
    assert load_size("paper").chosen(file).choice("pgnn", "snli_ve").join == "replace"


def test_the_residual_alone_needs_nothing_of_pgnn():
    def alpha(arguments):
        choice = {"vqa": Choice(learning_rate=0.1, arguments=arguments)}
        return METHODS["residual"].settings(Settings(methods={"residual": choice}), "vqa")["gnn_args"][
            "alpha"
        ]

    assert alpha({"alpha": 0.3}) == 0.3, "its own, as a sweep writes it"
    assert alpha({"mu": 1, "p": 1.5}) == pytest.approx(4 / 7)
    assert alpha({}) == pytest.approx(0.2 / 1.7), "pGNN's defaults, p 1.5 and μ 0.1"


def test_only_tasks_of_the_size_can_be_asked_for():
    table, size = load_table("gnn"), load_size("scenes")
    for name in ("vqa", "easy_vqa"):
        with pytest.raises(UserError, match=f"{name} is no task of this size: choose from vqa2, vizwiz_vqa"):
            plan_table(size.preset(table), Request(tasks=[name]), Settings(), Path("data"))


def test_a_preset_counts_steps_or_epochs():
    with pytest.raises(ValueError, match="give steps or epochs, not both"):
        BudgetChange(steps=3, epochs=2)
    preset = Preset(about="", seeds={}, budget=BudgetChange(epochs=2), tasks={"vqa": BudgetChange(steps=7)})
    assert preset.epochs_of(TASKS["vqa"]) is None and preset.epochs_of(TASKS["ve"]) == 2
    assert preset.budget_of(TASKS["vqa"]).steps == 7


@pytest.mark.parametrize("load, what", [(load_table, "table"), (load_size, "size")])
def test_unknown_names(load, what):
    with pytest.raises(UserError, match=f"unknown {what} 'mian'.*: choose from .*, or give a YAML file"):
        load("mian")


@pytest.mark.parametrize(
    "content, said",
    [
        (
            "methods: {lorra: {vqa2: {learning_rate: 1}}}",
            r"given\.yaml: unknown method 'lorra' \(did you mean lora",
        ),
        (
            "methods: {lora: {vqa3: {learning_rate: 1}}}",
            r"given\.yaml: unknown task 'vqa3' \(did you mean vqa",
        ),
        ("methods: {lora: {vqa2: {learning_rat: 1}}}", r"unknown field methods\.lora\.vqa2\.learning_rat "),
        ("reduction: 4\nreduction: 8", "reduction stands twice"),
    ],
)
def test_names_that_would_change_nothing_are_refused(content, said, tmp_path):
    file = tmp_path / "given.yaml"
    file.write_text(content)
    with pytest.raises(UserError, match=said):
        load_size("scenes").chosen(file)


def test_a_size_names_methods_that_are_known(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("about: my own\nrates: {adapters: [0.1, 0.2], lorra: [0.1, 0.2]}\n")
    with pytest.raises(UserError, match=r"size .*own\.yaml: unknown method 'lorra'"):
        load_size(str(file))
    file.write_text("about: my own\nsettings: {methods: {pgn: {vqa2: {learning_rate: 1}}}}\n")
    with pytest.raises(UserError, match="unknown method 'pgn'"):
        load_size(str(file))
