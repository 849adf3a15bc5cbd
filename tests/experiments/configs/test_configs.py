"""Presets and settings: files that are right are read, all others end with one line and the remedy."""

import os
from dataclasses import fields
from pathlib import Path

import pytest

from attngraph.errors import UserError
from experiments.cli import main
from experiments.configs import presets
from experiments.configs.presets import PRESETS_FOLDER, load_preset, preset_names
from experiments.configs.settings import SETTINGS_FILE, Choice, Settings, chosen_settings, write_settings
from experiments.methods import METHODS
from experiments.scenes.write import Sizes
from experiments.tasks import TASKS
from experiments.tasks.task import Budget
from experiments.training.plan import Request, plan_table
from experiments.training.recipe import Recipe
from tests.experiments.drawn import DRAWN

RESULTS = Path(__file__).parents[3] / "experiments" / "results"
RIGHT = "about: mine\nseeds: {gcn: 1}\n"


def one_line(error) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", [file.stem for file in PRESETS_FOLDER.glob("*.yaml")])
def test_shipped_presets_are_read(name):
    preset = load_preset(name)
    assert name in preset_names() and preset.about
    assert set(preset.seeds) <= set(METHODS) and set(preset.tasks) <= set(TASKS)


def test_a_preset_says_whether_pictures_change_in_training(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(RIGHT + "budget: {augment: true}\ntasks: {ve: {augment: false}}\n")
    preset = load_preset(str(file))
    assert preset.budget_of(TASKS["vqa"]).augment and not preset.budget_of(TASKS["ve"]).augment
    assert not load_preset("full").budget_of(TASKS["vqa"]).augment
    request, settings = Request(["gcn"], ["vqa", "ve"], seeds=1), chosen_settings()
    cells = plan_table(preset, request, settings, tmp_path).cells
    assert [cell.recipe.augment for cell in cells] == [True, False]


def test_a_preset_can_change_all_of_a_recipe(tmp_path):
    """What a budget says apart, and the learning rate, which is a method's."""
    apart = {"learning_rate", "steps", "batch_size", "augment"}
    assert {*presets.RecipeChange.model_fields} == {field.name for field in fields(Recipe)} - apart
    file = tmp_path / "mine.yaml"
    file.write_text("about: mine\nseeds: {full: 1}\nrecipe: {checkpointing: true, clip: 2}\n")
    plan = plan_table(load_preset(str(file)), Request(tasks=["vqa"]), chosen_settings(), tmp_path)
    assert [(cell.recipe.checkpointing, cell.recipe.clip) for cell in plan.cells] == [(True, 2)]


def test_quick_is_the_first_preset():
    assert preset_names()[0] == "quick" and {"quick", "full", "smoke"} <= set(preset_names())


def test_shipped_settings_are_complete():
    settings = chosen_settings()
    searched = {name for name, method in METHODS.items() if getattr(method, "tried", ())}
    assert searched == {"gcn", "appnp", "gcnii", "pgnn"} <= set(settings.methods) <= set(METHODS)
    assert all(list(choices)[: len(DRAWN)] == list(DRAWN) for choices in settings.methods.values())
    assert all(task.name in DRAWN or task.like in DRAWN for task in TASKS.values()), "the others take these"


def test_every_row_of_the_study_was_searched_for_its_own_rate():
    """Else a row would silently train with the rate of the one that it follows."""
    rows = [name for name in load_preset("full").seeds if METHODS[name].rates]
    chosen = chosen_settings().methods
    assert {name for name in rows if list(chosen.get(name, ())) != list(DRAWN)} == set() and len(rows) == 15


def test_shipped_settings_are_what_the_searches_chose():
    """Captions and easy-VQA were searched again with more steps."""
    first, longer = (
        chosen_settings(RESULTS / name / "settings.yaml") for name in ("search", "search-longer")
    )
    for name, choices in chosen_settings().methods.items():
        for task, choice in choices.items():
            search = longer if task in ("caption", "easy_vqa") else first
            assert choice == search.choice(name, task), (name, task)


def test_rows_of_attribution_differ_from_pgnn_in_one_thing():
    chosen = chosen_settings().methods
    for name in ("tempering", "placebo", "p2", "residual", "mean_degree", "rescaled"):
        for task in DRAWN:
            own, leader = chosen[name][task], chosen["pgnn"][task]
            assert (own.join, own.arguments) == (leader.join, leader.arguments), (name, task)
    for name in ("pgnn_replace", "pgnn_gated", "gcn_gated"):
        assert {choice.join for choice in chosen[name].values()} == {METHODS[name].join}


def test_settings_are_written_as_they_are_read(tmp_path):
    arguments = {"p": 1.5, "steps": 2, "learn_p": False, "degree": "mean"}
    settings = Settings(
        reduction=8,
        methods={
            "pgnn": {
                "vqa": Choice(learning_rate=1e-05, join="gated", arguments=arguments),
                "caption": Choice(learning_rate=0.012),
            }
        },
    )
    write_settings(tmp_path / "settings.yaml", settings)
    again = chosen_settings(tmp_path / "settings.yaml")
    assert again == settings
    kinds = {name: type(value) for name, value in again.methods["pgnn"]["vqa"].arguments.items()}
    assert kinds == {"p": float, "steps": int, "learn_p": bool, "degree": str}
    write_settings(tmp_path / "settings.yaml", Settings())
    assert chosen_settings(tmp_path / "settings.yaml") == Settings(), "a new file is read anew"


def test_the_shipped_settings_file_is_in_the_written_form(tmp_path):
    write_settings(tmp_path / "settings.yaml", chosen_settings())
    shipped = [line for line in SETTINGS_FILE.read_text().splitlines() if not line.startswith("#")]
    assert (tmp_path / "settings.yaml").read_text().splitlines() == shipped


def test_a_preset_of_ones_own_derives_budgets(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        RIGHT + "budget: {steps: 7, eval_examples: 50}\ntasks:\n  vqa: {steps: 9}\n"
        "sizes: {questions: [9, 8, 7]}\n"
    )
    preset = load_preset(str(file))
    default = TASKS["vqa"].budget
    assert preset.budget_of(TASKS["vqa"]) == Budget(
        9, default.batch_size, default.train_examples, 50, default.eval_seconds
    )
    easy = preset.budget_of(TASKS["easy_vqa"])
    assert (easy.steps, easy.train_examples, easy.eval_examples) == (7, 2000, 50)
    file.write_text(RIGHT)
    assert load_preset(str(file)).budget_of(TASKS["caption"]) == TASKS["caption"].budget
    assert preset.drawn == Sizes(questions=(9, 8, 7))


@pytest.mark.parametrize(
    "text, said",
    [
        (RIGHT + "budgets: {steps: 3}\n", r"unknown field budgets \(did you mean budget\?\)"),
        (RIGHT + "budget: {step: 3}\n", r"unknown field budget.step \(did you mean steps\?\)"),
        (
            RIGHT + "tasks: {vqa: {eval_example: 3}}\n",
            r"unknown field tasks.vqa.eval_example \(did you mean eval_examples\?\)",
        ),
        (RIGHT + "xyzzy: 3\n", "unknown field xyzzy; "),
        ("about: mine\n", "field seeds is missing"),
        ("seeds: {gcn: 1}\n", "field about is missing"),
        ("about: mine\nseeds: {gcn: many}\n", "field seeds.gcn: input should be a valid integer"),
        ("about: mine\nseeds: {gcn: -1}\n", "field seeds.gcn: input should be greater than or equal to 0"),
        (RIGHT + "budget: {steps: 0}\n", "field budget.steps: input should be greater than 0"),
        (RIGHT + "budget: {steps: 10000000000}\n", "field budget.steps: input should be less than"),
        (
            RIGHT + "sizes: {captions: [1, 10000000000, 1]}\n",
            "field sizes.captions.1: input should be less than",
        ),
        (RIGHT + "budget: null\n", "field budget: "),
        ("about: mine\nseeds: null\n", "field seeds: "),
        (RIGHT + "sizes: {questions: [1, 2]}\n", "field sizes.questions.2"),
        ("", "it must hold fields with values"),
        ("null\n", "it must hold fields with values"),
        ("- a\n- b\n", "it must hold fields with values"),
        ("about: [\n", "cannot be read"),
    ],
)
def test_damaged_presets_are_named(text, said, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=said) as error:
        load_preset(str(file))
    line = one_line(error)
    assert line.startswith(str(file)) and line.endswith("see experiments/configs/presets for examples")


def test_presets_that_are_no_texts_are_named(tmp_path):
    (tmp_path / "mine.yaml").write_bytes(b"\xff\xfe\x00")
    os.mkfifo(tmp_path / "pipe.yaml")  # reading it would wait for ever
    for name, said in (("mine", "is no UTF-8 text"), ("pipe", "is no file; see experiments/configs/presets")):
        with pytest.raises(UserError, match=f"{name}.yaml: {said}") as error:
            load_preset(str(tmp_path / f"{name}.yaml"))
        one_line(error)


def test_where_presets_are_gone_or_damaged_the_others_work(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(presets, "PRESETS_FOLDER", tmp_path)
    with pytest.raises(UserError, match="unknown preset 'quick': install attngraph again, or give a YAML"):
        load_preset("quick")
    (tmp_path / "quick.yaml").write_text("seeds: [")
    (tmp_path / "smoke.yaml").write_text(RIGHT)
    out = ["--out", str(tmp_path / "out")]
    assert main(["ablation", "--preset", "smoke", "--dry-run", *out]) == 0
    assert main(["ablation", "--preset", "quick", "--dry-run", *out]) == 2
    assert "quick.yaml cannot be read" in capsys.readouterr().err


def test_a_preset_that_is_not_there():
    with pytest.raises(UserError, match="unknown preset 'huge': choose from quick, full, smoke") as error:
        load_preset("huge")
    one_line(error)
    with pytest.raises(UserError, match=r"unknown preset '/no/such.yaml'"):
        load_preset("/no/such.yaml")


@pytest.mark.parametrize(
    "text, said",
    [
        ("reductoin: 4\n", r"unknown field reductoin \(did you mean reduction\?\)"),
        ("reduction: 0\n", "field reduction: input should be greater than 0"),
        ("reduction: 1000000000\n", "field reduction: input should be less than"),
        ("methods: {gcn: null}\n", "field methods.gcn: "),
        ("methods: {gcn: {vqa: null}}\n", "field methods.gcn.vqa: "),
        ("methods: {gcn: {vqa: {}}}\n", "field methods.gcn.vqa.learning_rate is missing"),
        ("methods: {gcn: {vqa: {learning_rate: -1}}}\n", "gcn.vqa.learning_rate: input should be gr"),
        ("methods: {gcn: {vqa: {learning_rate: .inf}}}\n", "input should be a finite number"),
        ("methods: {gcn: {vqa: {learning_rate: 1, join: 3}}}\n", "vqa.join: input should be a valid string"),
        (
            "methods: {gcn: {vqa: {learning_rate: 1, join: glue}}}\n",
            "vqa.join: unknown join 'glue', choose from replace, gated, blend",
        ),
        (
            "methods: {gcn: {vqa: {learning_rate: 1, jion: blend}}}\n",
            r"unknown field methods.gcn.vqa.jion \(did you mean join\?\)",
        ),
        ("methods: {pgnn: {vqa: {learning_rate: 1, arguments: {p: .nan}}}}\n", "arguments.p.*: "),
        ("null\n", "it must hold fields with values"),
        ("", "it must hold fields with values"),
        ("{", "cannot be read"),
        (None, "no such file"),
    ],
)
def test_damaged_settings_are_named(text, said, tmp_path):
    file = tmp_path / "settings.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=said) as error:
        chosen_settings(file)
    line = one_line(error)
    assert line.startswith(str(file)) and "restore it, or run attngraph search" in line
