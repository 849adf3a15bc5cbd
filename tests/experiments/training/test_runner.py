"""The cells of a table: what is finished is left alone, what fails is told at the end."""

import json
from dataclasses import replace

import pytest

from attngraph.errors import UserError
from experiments.launchers import LAUNCHERS
from experiments.training import runner
from experiments.training.cells import run_cell
from experiments.training.execution import Execution
from experiments.training.launch import NAMES
from experiments.training.recipe import Diverged, Recipe
from experiments.training.runner import run_cells
from tests.experiments.launchers.cells import untrained, write_data
from tests.experiments.training.small import small_cell


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


def test_a_diverged_cell_is_not_run_again_where_it_may_diverge(tmp_path, monkeypatch, capsys):
    cell, run, begun = (
        small_cell(tmp_path, monkeypatch, Recipe(1e30, 4, batch_size=4)),
        Execution(tmp_path),
        [],
    )

    def launch(cells, run, board):
        begun.append(cells)
        for one in cells:
            try:
                run_cell(one, run)
            except Diverged as error:
                board.failures[one] = error

    monkeypatch.setitem(LAUNCHERS, "local", launch)
    assert run_cells([cell], run, may_diverge=True) == {} and len(begun) == 1
    assert "is not finite" in (cell.folder(tmp_path) / "diverged.json").read_text()
    assert run_cells([cell], run, may_diverge=True) == {} and len(begun) == 1
    said = capsys.readouterr().err
    assert "1 of 1 cells have diverged already; without the diverged.json" in said
    assert runner._run_together([cell], run, may_diverge=True) == {}
    with pytest.raises(UserError, match="1 of 1 cells failed, .*is not finite"):
        run_cells([cell], run)
    assert len(begun) == 2, "a table's cell is tried again"
    with pytest.raises(UserError, match="holds another experiment"):
        run_cells([replace(cell, train_examples=4)], run, may_diverge=True)


def test_a_cell_that_ends_after_all_has_not_diverged(tmp_path, monkeypatch):
    cell, run = small_cell(tmp_path, monkeypatch), Execution(tmp_path)
    first = run_cell(cell, run)
    folder = cell.folder(tmp_path)
    (folder / "diverged.json").write_text("{}")
    assert run_cells([cell], run, may_diverge=True) == {cell: first}, "it has scores"
    (folder / "scores.json").unlink()
    assert run_cells([cell], run, may_diverge=True) == {}
    assert run_cell(cell, run)["loss"] == first["loss"] and not (folder / "diverged.json").exists()


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
