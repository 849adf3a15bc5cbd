"""The cells of a table: what is finished is left alone, what fails is told at the end."""

from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from attngraph.errors import UserError
from experiments.runs import runner
from experiments.runs.cells import Cell, run_cell
from experiments.runs.engines import ENGINES, FOLDER
from experiments.runs.execution import Execution
from experiments.runs.experiment import Diverged, Recipe
from experiments.runs.runner import EVAL_STEPS, longest_first, run_cells, weight
from tests.experiments.runs.small import small_cell
from tests.experiments.runs.standins import untrained, write_data


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("runner") / "data")


TRAINED = Cell("a", "gcn", {}, "vqa", 0, Recipe(1e-3, 40), Path("data"))
UNTRAINED = Cell("gcn", "majority", {}, "caption", 0, None, Path("data"))


def engine(monkeypatch, ended):
    """The local engine is one that runs ``ended(job)`` for each, now."""

    @contextmanager
    def run(jobs, execution):
        futures = [Future() for _ in jobs]
        for future, job in zip(futures, jobs):
            future.set_result(ended(job))
        yield futures

    monkeypatch.setitem(ENGINES, "local", run)


def test_most_training_comes_first():
    short, long = replace(TRAINED, label="short", recipe=Recipe(1e-3, 2)), replace(TRAINED, label="long")
    assert longest_first([short, UNTRAINED, long, TRAINED]) == [long, TRAINED, short, UNTRAINED]


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


def test_one_failing_cell_is_told_and_the_others_are_not_run_again(data, tmp_path, capfd):
    """In worker processes: a model that is missing, and a cell that is fine."""
    bad, good = untrained("bad", data, model=str(tmp_path / "no such model")), untrained("good", data)
    run = Execution(tmp_path / "out", jobs=2)
    with pytest.raises(
        UserError, match="1 of 2 cells failed, the others are finished: bad vqa seed 0: --model"
    ):
        run_cells([bad, good], run)
    assert "     good vqa       seed 0: accuracy" in capfd.readouterr().err
    assert run_cells([good], run)[good]["examples"] == 4
    assert "1 of 1 cells are finished already" in capfd.readouterr().err


def test_a_diverged_cell_is_not_run_again_where_it_may_diverge(tmp_path, monkeypatch, capsys):
    cell = small_cell(tmp_path, monkeypatch, Recipe(1e30, 4, batch_size=4))
    run, begun = Execution(tmp_path), []

    def ended(job):
        begun.append(job.cell)
        try:
            return run_cell(job.cell, run)
        except Diverged as error:
            return error

    engine(monkeypatch, ended)
    assert run_cells([cell], run, may_diverge=True) == {} and len(begun) == 1
    assert "is not finite" in (cell.folder(tmp_path) / "diverged.json").read_text()
    assert run_cells([cell], run, may_diverge=True) == {} and len(begun) == 1
    said = capsys.readouterr().err
    assert "1 of 1 cells have diverged already; without the diverged.json" in said
    assert runner._run_together([cell], run, may_diverge=True) == {}
    with pytest.raises(UserError, match="1 of 1 cells failed, .*is not finite"):
        run_cells([cell], run)
    assert len(begun) == 2, "a table's cell is tried again"
    tame = replace(cell, label="tame", recipe=replace(cell.recipe, learning_rate=1e-2))
    assert list(run_cells([cell, tame], run, may_diverge=True)) == [tame], "the others are not lost"
    with pytest.raises(UserError, match="holds another experiment"):
        run_cells([replace(cell, train_examples=4)], run, may_diverge=True)


def test_diverged_cells_may_be_left_out_in_several_processes(data, tmp_path, monkeypatch):
    cells = [untrained(label, data) for label in ("one", "two")]

    def run_cell(cell, *args):
        if cell.label == "one":
            raise Diverged("nan")
        return {"scores": {}}

    monkeypatch.setattr(runner, "run_cell", run_cell)
    run = Execution(tmp_path)
    assert runner._run_together(cells, run, may_diverge=True) == {cells[1]: {"scores": {}}}
    with pytest.raises(Diverged, match="nan"):
        runner._run_together(cells, run)
