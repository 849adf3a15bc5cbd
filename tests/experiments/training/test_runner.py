"""The cells of a table: what is finished is left alone, what fails is told at the end."""

import json

import pytest

from attngraph.errors import UserError
from experiments.launchers import LAUNCHERS
from experiments.training import runner
from experiments.training.execution import Execution
from experiments.training.launch import NAMES
from experiments.training.recipe import Diverged
from experiments.training.runner import run_cells
from tests.experiments.launchers.cells import untrained, write_data


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("runner") / "data")


def test_every_launcher_can_be_asked_for():
    assert tuple(LAUNCHERS) == NAMES


def test_diverged_cells_may_be_left_out(data, tmp_path, monkeypatch):
    cells = [untrained(label, data) for label in ("one", "two", "three")]
    failures = {cells[0]: Diverged("nan"), cells[1]: UserError("other")}
    monkeypatch.setitem(LAUNCHERS, "local", lambda cells, run, board: board.failures.update(failures))
    monkeypatch.setattr(runner, "read_scores", lambda cell, out: {"row": cell.label})
    run = Execution(tmp_path, jobs=1)
    with pytest.raises(
        UserError, match="1 of 3 cells failed, the others are finished: two vqa seed 0: other$"
    ):
        run_cells(cells, run, may_diverge=True)
    with pytest.raises(UserError, match="2 of 3 cells failed"):
        run_cells(cells, run)
    del failures[cells[1]]
    assert run_cells(cells, run, may_diverge=True) == {cell: {"row": cell.label} for cell in cells[1:]}


def test_threads_follow_from_nothing_but_the_option(data, tmp_path, monkeypatch):
    """Neither from the number of cells, nor from how many are left, nor from ``--jobs``."""
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    one, two = untrained("one", data), untrained("two", data)
    for run, cells in (
        (Execution(tmp_path / "a", jobs=1), [one]),
        (Execution(tmp_path / "b", jobs=2), [one, two]),
    ):
        run_cells(cells, run)
        for cell in cells:
            assert json.loads((cell.folder(run.out) / "config.json").read_text())["threads"] == 1


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
