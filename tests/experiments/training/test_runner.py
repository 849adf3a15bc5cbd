"""Worker processes: one cell each; what goes wrong in one leaves the others alone."""

import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest

from attngraph.errors import UserError
from experiments.scenes.write import Sizes, write_scenes
from experiments.training import runner
from experiments.training.cells import Cell, is_finished
from experiments.training.execution import Execution
from experiments.training.recipe import Diverged, Recipe
from experiments.training.runner import Pool, run_cells

KILLER = '''
import os, signal
from experiments.tasks import TASKS, Column, Task, register

class Killer(Task):
    """Ends the worker that reads its examples."""
    name, title, columns = "killer", "Killer", (Column("killer.accuracy", "acc"),)
    def examples(self, data, split):
        os.kill(os.getpid(), signal.SIGKILL)
    def score(self, predictions, examples):
        pass

register(Killer())
'''


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runner") / "data"
    write_scenes(folder, 0, Sizes((24, 8, 12), (24, 8, 12), (8, 4, 4)))
    return folder


def untrained(label, data, **more):
    return Cell(label, "majority", {}, more.pop("task", "vqa"), 0, None, data, eval_examples=4, **more)


def test_one_failing_cell_does_not_end_the_others(data, tmp_path, monkeypatch, capfd):
    """A model that is missing, a worker that dies, a cell that is fine."""
    plugin = tmp_path / "killer.py"
    plugin.write_text(KILLER)
    monkeypatch.setattr(runner, "plugin_files", lambda: (plugin,))
    bad = untrained("bad", data, model=str(tmp_path / "no such model"))
    dead = untrained("dead", data, task="killer")
    good = untrained("good", data)
    run = Execution(tmp_path / "out", jobs=2)
    with pytest.raises(UserError, match="2 of 3 cells failed, the others are finished: ") as error:
        run_cells([bad, dead, good], run)
    assert "bad vqa seed 0: --model" in str(error.value) and "no such model" in str(error.value)
    assert "dead killer seed 0: its worker died (exit code -9" in str(error.value)
    assert is_finished(good, run)
    capfd.readouterr()
    assert run_cells([good], run)[good]["examples"] == 4
    assert "1 of 1 cells are finished already" in capfd.readouterr().err


def test_diverged_cells_may_be_left_out(data, tmp_path, monkeypatch):
    cells = [untrained(label, data) for label in ("one", "two", "three")]
    failures = {cells[0]: Diverged("nan"), cells[1]: UserError("other")}
    monkeypatch.setattr(Pool, "work", lambda self: failures)
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


def test_cells_are_spread_over_all_gpus(monkeypatch):
    monkeypatch.setattr(runner.torch.cuda, "device_count", lambda: 4)
    assert [runner._placed("cuda", slot) for slot in range(5)] == [f"cuda:{k}" for k in (0, 1, 2, 3, 0)]
    assert runner._placed("cuda:1", 3) == "cuda:1" and runner._placed("cpu", 1) == "cpu"


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


def test_the_bar_counts_steps_and_scoring():
    trained = Cell("a", "gcn", {}, "vqa", 0, Recipe(1e-3, 40), Path("data"))
    assert runner._weight(trained) - runner._weight(untrained("b", Path("data"))) == 40


def test_the_line_of_a_cell():
    line = runner._line(
        untrained("gcn", Path("data"), task="caption"), {"caption.bleu4": 0.25, "caption.cider": 1.5}
    )
    assert line == "      gcn caption   seed 0: bleu4 25.0 cider 150.0"


def test_workers_leave_ctrl_c_to_the_parent(monkeypatch):
    handled = []
    monkeypatch.setattr(signal, "signal", lambda number, what: handled.append((number, what)))
    monkeypatch.setattr(runner, "_prepare_process", lambda: None)
    monkeypatch.setattr(runner, "run_cell", lambda *args: {"done": True})
    sent = []
    cell = untrained("a", Path("data"))
    job = runner._Job(cell, Execution(Path("out")), "cpu", (), None)
    runner._work(job, type("Pipe", (), {"send": lambda self, what: sent.append(what)})())
    assert handled == [(signal.SIGINT, signal.SIG_IGN)] and sent == [runner._weight(cell), {"done": True}]


def test_a_full_disk_is_one_line(monkeypatch):
    def run_cell(*args):
        raise OSError(28, "No space left on device", "scores.json")

    monkeypatch.setattr(runner, "run_cell", run_cell)
    job = runner._Job(untrained("a", Path("data")), Execution(Path("out")), "cpu", (), None)
    said = str(runner._outcome(job, lambda more: None))
    assert (
        said.startswith("[Errno 28] No space left on device: 'scores.json': check the room")
        and "\n" not in said
    )


def test_a_worker_that_dies_in_the_middle_of_a_message(data):
    reading, writing = runner.multiprocessing.Pipe(duplex=False)
    worker = runner._Worker(SimpleNamespace(sentinel=0, exitcode=-9), untrained("a", data), 0, reading)
    writing.send(2)
    writing.send(1)
    assert worker.receive() == 3 and worker.receive() == 0
    os.write(writing.fileno(), (1000).to_bytes(4, "big") + b"half")
    writing.close()
    assert worker.receive() == 0 and worker.ends == [0]
    with pytest.raises(UserError, match="its worker died .exit code -9"):
        worker.result()
