"""Worker processes of this machine: one cell each; what goes wrong in one leaves the others alone."""

import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest

from attngraph.errors import UserError
from experiments.launchers import local
from experiments.launchers.board import Board
from experiments.launchers.job import Job
from experiments.training.cells import is_finished
from experiments.training.execution import Execution
from experiments.training.runner import run_cells
from tests.experiments.launchers.cells import untrained

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


def test_one_failing_cell_does_not_end_the_others(data, tmp_path, monkeypatch, capfd):
    """A model that is missing, a worker that dies, a cell that is fine."""
    plugin = tmp_path / "killer.py"
    plugin.write_text(KILLER)
    monkeypatch.setattr(local, "plugin_files", lambda: (plugin,))
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


def test_cells_are_spread_over_all_gpus(monkeypatch):
    monkeypatch.setattr(local.torch.cuda, "device_count", lambda: 4)
    assert [local.placed("cuda", slot) for slot in range(5)] == [f"cuda:{k}" for k in (0, 1, 2, 3, 0)]
    assert local.placed("cuda:1", 3) == "cuda:1" and local.placed("cpu", 1) == "cpu"


def test_workers_leave_ctrl_c_to_the_parent(monkeypatch):
    handled = []
    monkeypatch.setattr(signal, "signal", lambda number, what: handled.append((number, what)))
    monkeypatch.setattr(local, "prepare_process", lambda: None)
    monkeypatch.setattr(local, "outcome", lambda job, on_step: on_step(1) or on_step(2) or {"done": True})
    sent = []
    work = Job(untrained("a", Path("data")), Execution(Path("out")), "cpu")
    local._work(work, None, SimpleNamespace(send=sent.append))
    assert handled == [(signal.SIGINT, signal.SIG_IGN)] and sent == [1, 1, {"done": True}]


def test_a_worker_that_dies_in_the_middle_of_a_message(data):
    reading, writing = local.multiprocessing.Pipe(duplex=False)
    worker = local._Worker(SimpleNamespace(sentinel=0, exitcode=-9), untrained("a", data), 0, reading)
    writing.send(2)
    writing.send(1)
    assert worker.receive() == 3 and worker.receive() == 0
    os.write(writing.fileno(), (1000).to_bytes(4, "big") + b"half")
    writing.close()
    assert worker.receive() == 0 and worker.ends == [0]
    assert "its worker died (exit code -9" in str(worker.outcome())


def test_whatever_ends_a_launch_ends_its_workers(data, tmp_path, monkeypatch):
    """An error of the board stands for Ctrl-C."""
    started = []
    start = local._started
    monkeypatch.setattr(local, "_started", lambda *given: started.append(start(*given)) or started[-1])

    class Stopped(Board):
        def finish(self, cell, outcome):
            raise KeyboardInterrupt

    cells = [untrained(label, data) for label in ("one", "two", "three")]
    with pytest.raises(KeyboardInterrupt), Stopped(cells) as board:
        local.launch(cells, Execution(tmp_path / "out", jobs=2), board)
    assert len(started) == 2 and not any(worker.process.is_alive() for worker in started)
