"""What launchers on several machines share: workers that find nothing to do, their steps, what they leave."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from attngraph.errors import UserError
from experiments.launchers import shared
from experiments.launchers.board import Board
from experiments.launchers.job import Job
from experiments.launchers.shared import FOLDER, LOCK, FarJob, end_earlier, launched, longest_first
from experiments.training.cells import Cell
from experiments.training.execution import Execution
from experiments.training.lock import held, is_held
from experiments.training.recipe import Recipe
from tests.experiments.holding import holding

HOLD = """
import sys, time
from pathlib import Path
from experiments.training.lock import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def cell(label="a", steps=4, task="vqa"):
    return Cell(label, "gcn", {}, task, 0, Recipe(1e-3, steps) if steps else None, Path("data"))


@pytest.fixture
def here(monkeypatch):
    """The working folder is what it was afterwards; jobs do nothing but tell of three steps."""
    monkeypatch.chdir(Path.cwd())
    monkeypatch.setattr(shared, "prepare_process", lambda: None)
    monkeypatch.setattr(shared, "EVERY", 0.0)

    def outcome(job, on_step):
        for step in range(1, 4):
            on_step(step)
        return {"scores": {}}

    monkeypatch.setattr(shared, "outcome", outcome)


def test_a_worker_tells_how_far_it_is(tmp_path, here):
    run, one = Execution(tmp_path / "out"), cell()
    with launched([one], run) as jobs, Board([one]) as board:
        (job,) = jobs.jobs
        assert job.place == Path.cwd() and job() is None
        jobs.look(board)
        assert board._bar.n == 3
        assert not is_held(tmp_path / "out" / FOLDER / LOCK)
    assert not (tmp_path / "out" / FOLDER).exists()


def test_a_worker_holds_the_folder(tmp_path, here, monkeypatch):
    seen = []
    lock = tmp_path / "out" / FOLDER / LOCK
    monkeypatch.setattr(shared, "outcome", lambda *given: seen.append(is_held(lock)) or {})
    with launched([cell()], Execution(tmp_path / "out")) as jobs:
        assert jobs.jobs[0]() is None
    assert seen == [True]


def test_a_worker_that_comes_too_late_does_nothing(tmp_path, here):
    with launched([cell()], Execution(tmp_path / "out")) as jobs:
        pass
    assert "the command that began it has ended" in str(jobs.jobs[0]())


def test_a_worker_whose_command_ends_while_it_takes_the_lock_does_nothing(tmp_path, here, monkeypatch):
    """The same command, given again, may have found the lock free and run the cell itself."""
    monkeypatch.setattr(shared, "outcome", lambda *given: pytest.fail("the cell runs"))
    with launched([cell()], Execution(tmp_path / "out")) as jobs:

        def taken(file):
            jobs.folder.rename(tmp_path / "gone")
            return held(file)

        monkeypatch.setattr(shared, "held", taken)
        assert "the command that began it has ended" in str(jobs.jobs[0]())


def test_a_machine_that_does_not_see_the_folders_says_so_in_one_line(tmp_path, here):
    name, job = socket.gethostname(), Job(cell(), Execution(Path("out")), "cpu")
    blind = FarJob(job, tmp_path, tmp_path / "elsewhere" / FOLDER / "1", 0)
    said = str(blind())
    assert said == (
        f"{name} can't run it: it sees no {tmp_path / 'elsewhere'}: put --out on a file system that all "
        "machines share"
    )
    with launched([cell()], Execution(tmp_path / "out")) as jobs:
        lost = FarJob(job, tmp_path / "nowhere", jobs.folder, 0)
        assert str(lost()).startswith(
            f"{name} sees no {tmp_path / 'nowhere'} (No such file or directory): start"
        )


def test_a_machine_without_the_device_says_so(tmp_path, here):
    job = Job(cell(), Execution(tmp_path / "out"), "fpga:0")
    with launched([cell()], Execution(tmp_path / "out")) as jobs:
        said = str(FarJob(job, Path.cwd(), jobs.folder, 0)())
    assert (
        said.startswith(f"{socket.gethostname()}: --device fpga:0 is not available here") and "\n" not in said
    )


def test_errors_of_cells_come_back(tmp_path, here, monkeypatch):
    error = UserError("broken")
    monkeypatch.setattr(shared, "outcome", lambda *given: error)
    with launched([cell()], Execution(tmp_path / "out")) as jobs, Board([*jobs.cells.values()]) as board:
        jobs.finish(0, jobs.jobs[0](), board)
        assert list(board.failures.values()) == [error] and not jobs.left


def test_scores_that_come_late_are_waited_for(tmp_path, here, monkeypatch):
    run, one, looks = Execution(tmp_path / "out"), cell(), []
    monkeypatch.setattr(shared, "has_scores", lambda *given: looks.append(1) or len(looks) > 3)
    monkeypatch.setattr(shared, "read_scores", lambda *given: {"scores": {"vqa.accuracy": 0.5}})
    with launched([one], run) as jobs, Board([one]) as board:
        jobs.finish(0, None, board)
        assert len(looks) == 4 and not board.failures
    monkeypatch.undo()
    monkeypatch.setattr(shared, "LATE", 0.2)
    with launched([one], run) as jobs, Board([one]) as board:
        jobs.finish(0, None, board)
        assert "scores.json" in str(board.failures[one])


def test_most_training_comes_first():
    cells = [cell("short", 2), cell("none", 0), cell("long", 9), cell("as short", 2)]
    assert [one.label for one in longest_first(cells)] == ["long", "short", "as short", "none"]


@pytest.fixture
def worker(tmp_path):
    """A process that works for a command that was killed."""
    above = tmp_path / "out" / FOLDER
    (above / "12-x" / "steps").mkdir(parents=True)
    with holding(HOLD, above / LOCK, "held") as process:
        yield process


def test_workers_of_a_killed_command_are_waited_for(tmp_path, worker, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.setattr(shared, "WAIT", 0.3)
    with pytest.raises(UserError, match="out is in use by workers of a command that has ended: end them, or"):
        end_earlier(out)
    assert not (out / FOLDER / "12-x").exists(), "no worker begins from now on"
    monkeypatch.setattr(shared, "WAIT", 30)
    sleep, naps = time.sleep, []
    monkeypatch.setattr(shared.time, "sleep", lambda s: naps.append(s) or worker.kill() or sleep(s))
    end_earlier(out)
    assert naps and not (out / FOLDER).exists()


def test_jobs_of_slurm_that_nobody_can_cancel_are_named(tmp_path, worker, monkeypatch):
    (tmp_path / "out" / FOLDER / "12-x" / "slurm-jobs").write_text("77\n78")
    monkeypatch.setattr(shared, "WAIT", 0.0)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match=r"ended \(Slurm's jobs 77, 78\): end them"):
        end_earlier(tmp_path / "out")


def test_a_lock_that_several_hold(tmp_path):
    file = tmp_path / "lock"
    assert not is_held(file)
    with held(file), held(file):
        assert is_held(file)
    assert not is_held(file) and file.exists()


def test_a_lock_is_waited_for_while_another_process_looks(tmp_path):
    """Looking takes the lock for a moment; whoever comes in that moment holds it nevertheless."""
    fcntl = pytest.importorskip("fcntl")
    with open(tmp_path / "lock", "w") as look, ThreadPoolExecutor(1) as pool:
        fcntl.flock(look, fcntl.LOCK_EX)
        stack = ExitStack()
        entered = pool.submit(stack.enter_context, held(tmp_path / "lock"))
        time.sleep(0.2)
        assert not entered.done()
        fcntl.flock(look, fcntl.LOCK_UN)
        entered.result(timeout=30)
        with stack:
            assert is_held(tmp_path / "lock")
