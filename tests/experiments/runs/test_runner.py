"""The cells of a table: what is finished is left alone, what fails is told at the end."""

from concurrent.futures import Future
from contextlib import contextmanager

import pytest

from attngraph.errors import UserError
from attngraph.experiments.runs import runner
from attngraph.experiments.runs.cells import run_cell
from attngraph.experiments.runs.engines import ENGINES, FOLDER
from attngraph.experiments.runs.execution import Execution
from attngraph.experiments.runs.experiment import Diverged, TextDecoding
from attngraph.experiments.runs.runner import EVAL_STEPS, longest_first, run_cells, weight
from tests.experiments.runs.small import cell, recipe_of, small_cell, small_family
from tests.experiments.runs.standins import untrained, write_data

TRAINED = cell("a", method="gcn", recipe=recipe_of(steps=40))
UNTRAINED = cell("gcn", method="majority", task="caption")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("runner") / "data")


@pytest.fixture
def here(monkeypatch):
    """``here(ended)``: the local engine runs ``ended(job)`` for each, now; the model is the small one."""
    monkeypatch.setattr(runner, "load_family", lambda *about: small_family())
    monkeypatch.setattr(runner, "begin_imports", lambda: None)

    def engine(ended):
        @contextmanager
        def run(jobs, execution):
            futures = [Future() for _ in jobs]
            for future, job in zip(futures, jobs):
                future.set_result(ended(job))
            yield futures

        monkeypatch.setitem(ENGINES, "local", run)

    return engine


def test_most_training_comes_first():
    short, long = TRAINED.model_copy(update={"recipe": recipe_of(steps=2)}), TRAINED
    assert longest_first([short, UNTRAINED, long]) == [long, short, UNTRAINED]


def test_cells_of_about_as_much_training_stay_in_the_tables_order():
    """Else all captions come last, trained on a fifth fewer examples though they take longest."""
    steps = (256, 320, 256, 320)
    cells = [
        TRAINED.model_copy(update={"seed": k, "recipe": recipe_of(steps=n)}) for k, n in enumerate(steps)
    ]
    assert longest_first(cells) == cells


def test_the_bar_counts_steps_of_running_cells_and_scoring(monkeypatch, tmp_path):
    """Steps that a cell was at count once, also where it begins again."""
    seen, steps = [], iter((10, 25, 5, 10_000))

    class Bar(runner.Progress):
        def update(self, n):
            super().update(n)
            seen.append(self.n)
            if (step := next(steps, None)) is not None:
                job.file("step").write_text(str(step))
            elif not future.done():
                future.set_result({"scores": {}})

    @contextmanager
    def run(jobs, execution):
        nonlocal job
        (job,) = jobs
        yield [future]

    job, future = None, Future()
    monkeypatch.setitem(ENGINES, "local", run)
    monkeypatch.setattr(runner, "Progress", Bar)
    monkeypatch.setattr(runner, "EVERY", 0.01)
    assert weight(TRAINED) == 40 + EVAL_STEPS and weight(UNTRAINED) == EVAL_STEPS
    assert runner._executed([TRAINED], Execution(tmp_path)) == {TRAINED: {"scores": {}}}
    assert seen == [0, 10, 25, 25, 40, 40 + EVAL_STEPS] and not (tmp_path / FOLDER).exists()


def test_failing_cells_are_told_and_finished_ones_are_not_run_again(data, tmp_path, capfd):
    """In worker processes: two cells with one fault, which is told once, and a cell that is fine."""
    wrong = {"decoding": TextDecoding(max_new_tokens=999)}
    bad = [untrained(label, data).model_copy(update=wrong) for label in ("bad", "worse")]
    good, run = untrained("good", data), Execution(tmp_path / "out", jobs=2)
    with pytest.raises(
        UserError, match="2 of 3 runs failed, the others are finished: [a-z]+ vqa seed 0: "
    ) as error:
        run_cells([*bad, good], run)
    assert str(error.value).count("seed 0") == 1
    assert "     good vqa       seed 0: accuracy" in capfd.readouterr().err
    (good.folder(run.out) / "states").mkdir()
    assert run_cells([good], run)[good]["examples"] == 4
    assert "1 runs, 1 of them finished already" in capfd.readouterr().err
    assert not (good.folder(run.out) / "states").exists(), "as a killed worker may leave them"


def test_a_model_that_writes_no_answers_and_batches_that_cannot_be_divided(data, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "load_family", lambda *about: type("Family", (), {"trains": False}))
    with pytest.raises(UserError, match="--model None does not generate text"):
        run_cells([untrained("a", data)], Execution(tmp_path))
    odd = TRAINED.model_copy(update={"recipe": recipe_of(batch_size=7, accumulation=2)})
    with pytest.raises(UserError, match="a batch of 7 examples cannot be divided"):
        run_cells([odd], Execution(tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("together", [False, True])
def test_a_diverged_cell_is_not_run_again_where_it_may_diverge(together, tmp_path, monkeypatch, here):
    wild = small_cell(tmp_path, monkeypatch, recipe_of(learning_rate=1e30, steps=4, batch_size=4))
    run, begun = Execution(tmp_path), []

    def ended(job):
        begun.append(job.cell)
        try:
            return run_cell(job.cell, run)
        except Diverged as error:
            return error

    here(ended)
    if together:
        monkeypatch.setattr(runner, "_executed", runner._run_together)
        plain = runner.run_cell
        monkeypatch.setattr(runner, "run_cell", lambda cell, *more: begun.append(cell) or plain(cell, *more))
    for _ in range(2):
        assert run_cells([wild], run, may_diverge=True) == {} and len(begun) == 1
    assert "is not finite" in (wild.folder(tmp_path) / "diverged.json").read_text()
    with pytest.raises(UserError, match="the loss is not finite at step 1"):
        run_cells([wild], run)
    assert len(begun) == 2, "a table's cell is tried again"
    tame = wild.model_copy(update={"label": "tame", "recipe": recipe_of(steps=4, batch_size=4)})
    assert list(run_cells([wild, tame], run, may_diverge=True)) == [tame], "the others are not lost"
    with pytest.raises(UserError, match="holds another experiment"):
        run_cells([wild.model_copy(update={"train_examples": 4})], run, may_diverge=True)


def test_settings_that_a_method_cannot_take_are_told_before_anything_is_drawn(data, tmp_path):
    wrong = {"method": "pgnn", "settings": {"gnn": "none"}, "recipe": recipe_of(steps=1)}
    with pytest.raises(UserError, match="^unknown gnn 'none'"):
        run_cells([untrained("a", data).model_copy(update=wrong)], Execution(tmp_path))
    assert list(tmp_path.iterdir()) == []
