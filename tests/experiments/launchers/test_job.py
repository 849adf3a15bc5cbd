"""What a process that runs a cell ends with: scores, or one error."""

from pathlib import Path

from attngraph.errors import UserError
from experiments.launchers import job
from experiments.launchers.job import Job, outcome
from experiments.training.cells import Cell
from experiments.training.execution import Execution
from experiments.training.recipe import Diverged

CELL = Cell("a", "majority", {}, "vqa", 0, None, Path("data"))
JOB = Job(CELL, Execution(Path("out")), "cpu")


def ended(monkeypatch, run_cell):
    monkeypatch.setattr(job, "run_cell", run_cell)
    return outcome(JOB, lambda step: None)


def fails(error):
    def run_cell(*args):
        raise error

    return run_cell


def test_a_full_disk_is_one_line(monkeypatch):
    said = str(ended(monkeypatch, fails(OSError(28, "No space left on device", "scores.json"))))
    assert said.startswith("[Errno 28] No space left on device: 'scores.json': check the room")
    assert "\n" not in said


def test_errors_of_the_user_keep_their_kind_and_others_their_traceback(monkeypatch):
    diverged = Diverged("nan")
    assert ended(monkeypatch, fails(diverged)) is diverged
    said = ended(monkeypatch, fails(ValueError("odd")))
    assert type(said) is UserError and "Traceback" in str(said) and "ValueError: odd" in str(said)


def test_a_cell_that_ends_gives_its_scores(monkeypatch):
    seen = []

    def run_cell(cell, run, device, on_step):
        seen.append((cell, run, device))
        on_step(1)
        return {"scores": {}}

    assert ended(monkeypatch, run_cell) == {"scores": {}} and seen == [(CELL, JOB.run, "cpu")]
