"""The search chooses on validation data, with one budget for every GNN; the runs themselves are replaced by a
formula."""

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from attngraph.errors import UserError
from experiments.base.files import write_json
from experiments.base.outputs import TRAINING_STATE
from experiments.commands import search
from experiments.commands.options import SearchOptions
from experiments.methods import METHODS
from experiments.methods.settings import Choice, chosen_settings
from experiments.models.weights import weights_digest
from experiments.runs.execution import Execution
from experiments.runs.experiment import Part, TextDecoding, Training
from experiments.tables import search as races
from experiments.tables.grid import load_preset
from experiments.tables.plan import Wanted
from experiments.tables.race import RATES, Trial
from experiments.tables.search import JOINT, OTHERS, SECOND, VALIDATION_EXAMPLES, Search
from tests.experiments.drawn import DRAWN as TASKS

GNNS = ("gcn", "appnp", "gcnii", "pgnn")
SEARCHED = [name for name in load_preset("full").counts if name in METHODS and METHODS[name].rates]
PRESET = load_preset("full")
STEPS = {name: PRESET.part(task)["recipe"]["steps"] for name, task in TASKS.items()}
BEST_RATE = {"gcn": 1e-2, "pgnn": 3e-2, "full": 1e-5}  # of all others 3e-3


# Rows of attribution with fewer seeds in the table.
SECOND_RANK = {"p2", "residual", "mean_degree", "rescaled", "pgnn_replace", "pgnn_gated", "gcn_gated"}

HEAD = "trial,method,task,seed,selection,weights"
RUNS = [("gcn", "vqa", 1), ("appnp", "vqa", 1), ("gcn", "ve", 1), ("gcn", "vqa", 2), ("gcn", "vqa", 0)]


def rate_of(cell) -> float:
    return cell.recipe.learning_rate if cell.recipe else 0.0


def score(cell) -> float:
    """``gated`` is best, and μ = 1 but with ``replace``; a method has one best rate, off which it loses with
    each step of the grid.
    """
    if cell.recipe is None:
        return 0.1
    best = BEST_RATE.get(cell.method, 3e-3)
    value = 0.5 - 0.05 * abs(RATES.index(rate_of(cell)) - RATES.index(best))
    if "join" in cell.settings:
        value += {"replace": 0.0, "gated": 0.02, "blend": 0.01}[cell.settings["join"]]
        mu = 0.1 if cell.settings["join"] == "replace" else 1.0
        value += 0.005 * (cell.settings["gnn_args"].get("mu") == mu)
    value += 0.002 * (cell.recipe.steps == 2 * STEPS[cell.task])
    if (cell.method, cell.task, cell.seed) == ("appnp", "caption", 1) and cell.settings["join"] == "blend":
        value += 0.1
    return value


def diverges(cell) -> bool:
    return cell.method == "appnp" and rate_of(cell) == 1e-2


def doubled(cell) -> bool:
    return cell.label.endswith("steps2x")


class World:
    """A folder for searches whose runs are a formula."""

    def __init__(self, out: Path, patch: pytest.MonkeyPatch):
        self.out, self.seen, self.stop_after = out, [], math.inf
        patch.setattr(races, "run_cells", self.run_cells)
        patch.setattr(search, "prepare", lambda *a: None)
        patch.setattr(races, "check_checkpoints", lambda *a: None)

    def run_cells(self, cells, execution, may_diverge):
        assert may_diverge and execution.out == self.out
        if len(self.seen) >= self.stop_after:
            raise KeyboardInterrupt
        self.seen.extend(cells)
        for cell in cells:
            write_json(cell.folder(self.out) / "config.json", self.config(cell))
        return {cell: self.result(cell) for cell in cells if not diverges(cell)}

    @staticmethod
    def config(cell) -> dict:
        return {"settings": {"weights": weights_digest(cell.model)}, "precision": f"of seed {cell.seed}"}

    @staticmethod
    def result(cell) -> dict:
        columns = [column.key for column in TASKS[cell.task].columns]
        return {
            "scores": {key: 0.1 if key == "caption.bleu4" else score(cell) for key in columns},
            "kinds": {"count": (score(cell), 3), "spatial": (0.5, 3)},
            "train_seconds": 1.0,
            "parameters": 7,
            "loss": 2.0 if cell.recipe else None,
        }

    def search(self, tasks: str | None = None) -> int:
        names = None if tasks is None else tuple(tasks.split(","))
        return search.run(SearchOptions(out=self.out, tasks=names))


def search_in(out: Path, **wanted) -> Search:
    """A search of the whole study."""
    return Search(PRESET, Wanted(**wanted), out / "data", Execution(out))


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The folder of a search, and the cells that it ran."""
    with pytest.MonkeyPatch.context() as patch:
        world = World(tmp_path_factory.mktemp("search"), patch)
        assert world.search() == 0
    return world


@pytest.fixture
def settings(found):
    return chosen_settings(found.out / "settings.yaml")


def of(found, method, task="vqa") -> list:
    return [cell for cell in found.seen if (cell.method, cell.task) == (method, task)]


def test_only_validation_data_are_scored(found):
    assert {cell.split for cell in found.seen} == {"validation"}
    assert {cell.eval_examples for cell in found.seen} == {VALIDATION_EXAMPLES}


def test_joins_arguments_and_rates_are_screened_together(found):
    for name in GNNS:
        method = METHODS[name]
        first = len(method.joins) * len(method.tried) * len(method.rates)
        screened = of(found, name)[:first]
        assert {cell.seed for cell in screened} == {0}
        tried = {(cell.settings["join"], str(cell.settings["gnn_args"]), rate_of(cell)) for cell in screened}
        assert len(tried) == first and {join for join, _, _ in tried} == set(method.joins)


def test_every_gnn_has_the_same_budget_and_no_trial_runs_twice(found):
    for task in TASKS:
        raced = [cell for cell in found.seen if cell.seed < 7]  # the rest is about the steps
        spent = Counter(cell.method for cell in raced if cell.task == task)
        trials, finalists, _ = JOINT
        assert all(trials - finalists < spent[name] <= trials for name in GNNS), spent
        others = set(SEARCHED) - set(GNNS) - SECOND_RANK
        assert all(3 + 2 * OTHERS[1] <= spent[name] <= OTHERS[0] for name in others), spent
        assert all(3 <= spent[name] <= SECOND[0] for name in SECOND_RANK), spent
    assert len({cell.folder(found.out) for cell in found.seen}) == len(found.seen)


def test_grids_are_extended_until_the_best_lies_inside(found, settings):
    """pGNN's best rate lies a step beyond those that the search begins with, that of full fine-tuning two
    steps."""
    for name in ("pgnn", "full"):
        for task in TASKS:
            rates = {rate_of(cell) for cell in of(found, name, task)}
            place = RATES.index(BEST_RATE[name])
            assert settings.methods[name][task].learning_rate == BEST_RATE[name]
            assert {RATES[place - 1], RATES[place + 1]} <= rates


def test_finalists_have_several_seeds_on_several_checkpoints(found):
    """A GNN with fewer settings spends more on seeds."""
    seeds = {name: {cell.seed for cell in of(found, name)} - {7, 8} for name in GNNS}
    assert {0, 1, 2} <= seeds["pgnn"] < seeds["gcn"]
    models = {cell.model for cell in of(found, "pgnn")}
    assert {None, "runs/checkpoints/seed1", "runs/checkpoints/seed2"} <= models


def test_the_best_settings_are_chosen(settings):
    assert set(settings.methods) == set(SEARCHED)
    assert all(set(choices) == set(TASKS) for choices in settings.methods.values())
    assert settings.methods["pgnn"]["vqa"] == Choice(
        learning_rate=3e-2, join="gated", arguments={"p": 1.5, "mu": 1.0}
    )
    assert settings.methods["gcn"]["ve"] == Choice(learning_rate=1e-2, join="gated")
    assert settings.methods["gcnii"]["ve"].join == "blend", "gated is APPNP's"


def test_a_further_seed_can_overturn_the_first(settings):
    joins = {task: settings.methods["appnp"][task].join for task in TASKS}
    assert joins == {task: "blend" if task == "caption" else "gated" for task in TASKS}


def test_rows_that_follow_pgnn_have_its_arguments_and_a_rate_of_their_own(settings, found):
    assert {cell.settings["gnn_args"]["mu"] for cell in of(found, "placebo")} == {1.0}
    choice = settings.methods["placebo"]["vqa"]
    assert choice == Choice(learning_rate=3e-3, join="gated", arguments={"p": 1.5, "mu": 1.0})
    assert {cell.settings["join"] for cell in of(found, "pgnn_replace")} == {"replace"}
    assert {cell.settings["gnn_args"]["mu"] for cell in of(found, "pgnn_replace")} == {0.1}, "best with it"


def test_the_winner_of_every_gnn_runs_with_twice_the_steps_on_seeds_that_chose_nothing(found, settings):
    again = [cell for cell in found.seen if doubled(cell)]
    new = {(name, task, seed) for name in GNNS for task in TASKS for seed in (7, 8)}
    assert {(cell.method, cell.task, cell.seed) for cell in again} == new
    assert {cell.model for cell in again} == {None, "runs/checkpoints/seed1"}
    once = [cell for cell in found.seen if cell.seed >= 7 and not doubled(cell)]
    assert {(cell.method, cell.task, cell.seed) for cell in once} == new
    assert max(cell.seed for cell in found.seen[: found.seen.index(once[0])]) < 7
    for cell in again:
        assert cell.recipe.steps == 2 * STEPS[cell.task]
        assert rate_of(cell) == settings.methods[cell.method][cell.task].learning_rate
    text = (found.out / "search.md").read_text()
    lines = text[text.index("Are the steps enough?") :].split("\n\n")[1].splitlines()[2:]
    lines, means = lines[: -len(TASKS)], lines[-len(TASKS) :]
    assert len(lines) == len(GNNS) * len(TASKS)
    assert all(line.split("|")[-3:-1] == [" +0.2 ", " 2 "] for line in lines), lines
    assert all(line.startswith("| Mean |") and "| +0.2 |" in line for line in means), means


def test_the_report_says_what_was_chosen_and_on_how_many_trials(found):
    text = (found.out / "search.md").read_text()
    for word in ("What was chosen", "| pGNN |", "Finalists", "Full fine-tuning", "| spatial |", "gated"):
        assert word in text
    assert "(edge)" not in text.split("**Validation scores")[0].replace('"edge"', "") or "APPNP" in text
    trials = pd.read_csv(found.out / "trials.csv")
    assert len(trials) == len(found.seen), "diverged runs too"
    assert trials.selection.isna().sum() == sum(map(diverges, found.seen)) > 0
    assert all(trials.precision == [f"of seed {seed}" for seed in trials.seed]), "what each run says"
    keys = [column.key for task in TASKS.values() for column in task.columns]
    assert set(keys) <= set(trials.columns)
    captions = trials[trials.task == "caption"]
    assert (captions["caption.bleu4"].dropna() == 0.1).all()
    scored = captions.dropna(subset=["selection"])
    assert (scored.selection == scored["caption.cider"]).all(), "captions are chosen by CIDEr"


def test_a_search_that_was_cut_off_runs_no_trial_again(found, tmp_path, monkeypatch):
    """Neither in its folder, nor where nothing but its trials.csv and run.json were kept."""
    world = World(tmp_path / "first", monkeypatch)
    world.stop_after = 300
    assert world.search() == 130
    ended = world.seen
    kept = tmp_path / "kept"
    kept.mkdir()
    for name in ("run.json", "trials.csv"):
        (kept / name).write_bytes((world.out / name).read_bytes())
    world = World(kept, monkeypatch)
    assert world.search() == 0
    labels = [(cell.label, cell.task, cell.seed) for cell in ended + world.seen]
    assert len(set(labels)) == len(labels) == len(found.seen)
    for name in ("settings.yaml", "search.md"):
        assert (kept / name).read_text() == (found.out / name).read_text()


def test_one_task_alone_is_searched_as_among_others(found, settings, tmp_path, monkeypatch, capsys):
    world = World(tmp_path, monkeypatch)
    assert world.search(tasks="caption") == 0
    advice = "settings.yaml, which has vqa, ve, easy_vqa too"
    assert advice in capsys.readouterr().err, "copied, the file would take these away"
    alone = chosen_settings(tmp_path / "settings.yaml")
    assert {
        name: {"caption": of_task["caption"]} for name, of_task in settings.methods.items()
    } == alone.methods
    runs = [(cell.label, cell.seed) for cell in found.seen if cell.task == "caption"]
    assert [(cell.label, cell.seed) for cell in world.seen] == runs
    with pytest.raises(UserError, match="other runs"):
        World(tmp_path, monkeypatch).search(tasks="caption,ve")
    with pytest.raises(UserError, match=r"unknown task 'captoin' \(did you mean caption"):
        World(tmp_path, monkeypatch).search(tasks="captoin")


@pytest.mark.parametrize("lines", [["trial,task", "a,b"], [], [HEAD, "a,gcn,vqa,x,1,w"], ["\x00"]])
def test_damaged_trials_are_named(lines, tmp_path, monkeypatch):
    world = World(tmp_path, monkeypatch)
    (tmp_path / "trials.csv").write_text("\n".join(lines))
    with pytest.raises(UserError, match="trials.csv cannot be read .*: restore it, or give another --out"):
        search_in(tmp_path).run()
    assert world.seen == []


def test_a_race_has_one_checkpoint_under_each_seed(tmp_path, monkeypatch):
    """A trial counts where its checkpoint is missing, not trained to its end or another one by now; only its
    own race runs no further trial of its seed with other weights.
    """
    world = World(tmp_path, monkeypatch)
    one, two = (tmp_path / "checkpoints" / name for name in ("seed1", "seed2"))
    choice = Choice(learning_rate=1e-3)
    same, other_method, other_task, other_seed, shipped = (Trial(*run[:2], choice, run[2]) for run in RUNS)

    def score_beside(line: str, *trials: Trial) -> None:
        (tmp_path / "trials.csv").write_text(f"{HEAD}\n{line}\n")
        search = search_in(tmp_path, checkpoints=one.parent)
        search._read()
        search.score(trials)

    before = "x,gcn,vqa,1,0.5,before"
    score_beside(before)
    for folder in (one, two):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(folder.name)
    (one / TRAINING_STATE).touch()
    score_beside(before)
    (one / TRAINING_STATE).unlink()
    score_beside(before, other_method, other_task, other_seed, shipped)
    score_beside(before.replace("before", weights_digest(one)), same)
    ran = len(world.seen)
    for line, trial in (
        (before, same),
        ("x,gcn,vqa,0,0.5,before", shipped),
        (f"{before}\ny,gcn,vqa,1,0.5,{weights_digest(one)}", other_seed),
    ):
        said = f"trials of gcn on vqa with seed {int(line[10])} would start from two checkpoints"
        with pytest.raises(UserError, match=said):
            score_beside(line, trial)
    assert len(world.seen) == ran == 5


def test_rates_that_cannot_be_extended_are_refused(tmp_path, monkeypatch):
    world = World(tmp_path, monkeypatch)
    monkeypatch.setitem(METHODS, "odd", replace(METHODS["decoder"], name="odd", rates=(1e-3, 2e-3)))
    with pytest.raises(UserError, match=r"method odd begins with the rate 0.002: give half powers of ten"):
        search_in(tmp_path).run()
    assert world.seen == []


def test_a_trial_is_a_cell_with_the_presets_budget():
    choice = Choice(learning_rate=3e-3, join="gated", arguments={"p": 1.5, "mu": 0.1})
    setup = search_in(Path("out"), model="some/model")
    cell = setup.cell(Trial("pgnn", "caption", choice, seed=2))
    expected = {"gnn": "pgnn", "gnn_args": {"p": 1.5, "mu": 0.1}, "join": "gated", "reduction": 4}
    assert cell.settings == expected
    assert (cell.recipe.learning_rate, cell.recipe.steps) == (3e-3, STEPS["caption"])
    assert cell.recipe.precision == PRESET.runs.recipe.precision == "float32"
    assert (cell.seed, cell.model, cell.data) == (2, "some/model", Path("out/data"))
    assert cell.label == "pgnn-gated-0.003-p1.5-mu0.1"
    assert setup.cell(Trial("frozen", "vqa")).recipe is None


def test_a_trial_trains_and_answers_as_the_preset_says():
    part = Part(
        recipe=Training(epochs=2, batch_size=16, learning_rate=1e-4),
        side=32,
        answering="rank",
        decoding=TextDecoding(num_beams=2),
    )
    grid = PRESET.model_copy(update={"runs": part, "by_task": {}})
    setup = Search(grid, Wanted(model="some/model"), Path("data"), Execution(Path("out")))
    choice = Choice(learning_rate=3e-3)
    cell = setup.cell(Trial("gcn", "caption", choice))
    assert cell.recipe.steps == 2 * (grid.scenes.captions[0] // 16)
    assert cell.recipe.learning_rate == 3e-3, "the trial's, whatever the preset says"
    assert setup.cell(Trial("gcn", "caption", choice, times=2)).recipe.steps == 2 * cell.recipe.steps
    assert (cell.side, cell.answering, cell.decoding) == (32, "rank", {"num_beams": 2})
    about = setup.about()["runs"]["caption"]
    assert (about["side"], about["answering"], about["recipe"]["epochs"]) == (32, "rank", 2)
