"""Slurm: the whole way from cells to scores through submitit and commands that act as Slurm's do."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from attngraph.errors import UserError
from experiments.launchers import slurm
from experiments.launchers.board import Board
from experiments.training.cells import Cell, is_finished
from experiments.training.launch import TAKEN
from experiments.training.lock import sole_use
from experiments.training.runner import run_cells
from tests.experiments.launchers import fake_slurm
from tests.experiments.launchers.cells import disturbed, execution, made, small_cells, steps

pytest.importorskip("submitit")
ROOT = Path(__file__).parents[3]
runs = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    """The folder of a Slurm."""
    monkeypatch.setenv("PATH", f"{fake_slurm.install(tmp_path / 'slurm')}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    yield tmp_path / "slurm" / "jobs"
    subprocess.run(["scancel", *(str(k) for k in range(1, 9))], check=True)


def states(jobs, settled=False):
    """Task -> its state; when none runs any longer, if that is asked for."""
    until = time.monotonic() + 60
    while settled and "RUNNING" in states(jobs).values() and time.monotonic() < until:
        time.sleep(0.05)
    return {file.stem: file.read_text() for file in sorted(jobs.glob("*.state"))}


def sbatch_lines(tmp_path, **more):
    executor = slurm._executor(tmp_path / "logs", execution(tmp_path / "out", "slurm", **more))
    return executor._make_submission_file_text("command", "id").splitlines()


def test_what_sbatch_is_told(tmp_path, jobs):
    lines = sbatch_lines(
        tmp_path, cpus=4, slurm=(("partition", "gpu"), ("time", "2-00"), ("licenses", "a:1"), ("mem", "32GB"))
    )
    options = "cpus-per-task=4 partition=gpu time=2880 licenses=a:1 mem=32GB job-name=attngraph"
    for line in options.split():
        assert f"#SBATCH --{line}" in lines
    assert not any("gpus" in line for line in lines)
    assert "#SBATCH --time=1440" in sbatch_lines(tmp_path)


def test_what_submitit_takes_beside_sbatch_is_the_launchers(jobs):
    """Whatever is no option of sbatch is refused, not passed on as a text of another kind."""
    import submitit

    lines = submitit.SlurmExecutor._valid_parameters() - {"job_name", *TAKEN}
    sbatch = "account comment constraint cpus_per_gpu dependency exclude exclusive gpus_per_task gres "
    sbatch += "mail_type mail_user mem mem_per_cpu mem_per_gpu nodelist partition qos time wckey"
    assert lines == set(sbatch.split())


def test_a_gpu_for_each_cell_unless_the_user_says_which(tmp_path, jobs):
    for slurm_options, line in (
        ((), "gpus-per-node=1"),
        ((("gres", "gpu:a100:1"),), "gres=gpu:a100:1"),
        ((("gpus", "a100:1"),), "gpus=a100:1"),
    ):
        run = replace(execution(tmp_path, "slurm", slurm=slurm_options), device="cuda")
        executor = slurm._executor(tmp_path / "logs", run)
        lines = executor._make_submission_file_text("command", "id").splitlines()
        assert [one for one in lines if one.startswith("#SBATCH --g")] == [f"#SBATCH --{line}"]


def test_a_machine_without_slurm_is_one_line(tmp_path, monkeypatch, data):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="this machine has no Slurm"):
        run_cells(small_cells(data), execution(tmp_path / "out", "slurm"))
    assert not (tmp_path / "out" / ".launch").exists()


def test_jobs_that_sbatch_refuses_are_one_line(tmp_path, jobs, data):
    run = execution(tmp_path / "out", "slurm", slurm=(("partition", "nowhere"),))
    with pytest.raises(UserError, match=r"sbatch refused .*invalid partition specified: nowhere") as error:
        run_cells(small_cells(data), run)
    assert "\n" not in str(error.value) and not (tmp_path / "out" / ".launch").exists()


class TestRuns:
    pytestmark = runs

    def test_the_same_scores_and_errors_as_here(self, tmp_path, jobs, data, expected):
        cells, run = small_cells(data), execution(tmp_path / "out", "slurm")
        bad = Cell("bad", "majority", {}, "vqa", 0, None, data, model="no such model")
        with sole_use(run.out), pytest.raises(UserError, match="1 of 4 cells failed.*no such model") as error:
            run_cells([*cells, bad], run)
        assert "Traceback" not in str(error.value)
        assert made(cells, run.out) == expected
        assert states(jobs, settled=True) == {f"1_{k}": "COMPLETED" for k in range(4)}
        assert not (run.out / ".launch").exists() and not (jobs / "cancelled").exists()

    @pytest.mark.parametrize("how", ["killed", "told"])
    def test_a_job_that_slurm_runs_again_goes_on(self, how, tmp_path, jobs, data, expected, monkeypatch):
        """Its machine fails; or Slurm tells it that it is about to end it."""
        number = {"killed": signal.SIGKILL, "told": signal.SIGUSR2}[how]
        notes = disturbed(monkeypatch, tmp_path / "notes", how=f"os.kill(os.getpid(), {int(number)})")
        run, cells = execution(tmp_path / "out", "slurm"), small_cells(data)
        run_cells(cells, run)
        assert made(cells, run.out) == expected
        first, second = steps(notes)
        assert first == [1, 2, 3, 4, 5] and second[0] in (5, 6) and second[-1] == 8

    def test_a_job_that_dies_is_told_with_its_last_words(self, tmp_path, jobs, data, monkeypatch):
        disturbed(
            monkeypatch,
            tmp_path / "notes",
            how="print('out of luck', file=__import__('sys').stderr); os._exit(3)",
        )
        run, cells = execution(tmp_path / "out", "slurm"), small_cells(data)
        monkeypatch.setattr(slurm, "EVERY", 0.5)
        with pytest.raises(UserError, match=r"1 of 3 .*Slurm's job 1_1 .*state FAILED") as error:
            run_cells(cells, run)
        assert "out of luck" in str(error.value)
        assert [is_finished(cell, run) for cell in cells] == [True, False, True]

    def test_whatever_ends_the_command_cancels_its_jobs(self, tmp_path, jobs, data):
        class Stopped(Board):
            def finish(self, cell, outcome):
                raise KeyboardInterrupt

        run, cells = execution(tmp_path / "out", "slurm", jobs=1), small_cells(data)[::-1]
        with pytest.raises(KeyboardInterrupt), Stopped(cells) as board:
            slurm.launch(cells, run, board)
        assert states(jobs, settled=True) == {"1_0": "COMPLETED", "1_1": "CANCELLED", "1_2": "CANCELLED"}

    def test_jobs_that_a_killed_command_has_left_are_cancelled_first(self, tmp_path, jobs, data, expected):
        out, said = tmp_path / "out", tmp_path / "said"
        code = (
            "import sys; from pathlib import Path\n"
            "from tests.experiments.launchers.cells import *\n"
            "from experiments.training.lock import sole_use\n"
            "from experiments.training.runner import run_cells\n"
            "out, data = map(Path, sys.argv[1:])\n"
            "with sole_use(out): run_cells(small_cells(data), execution(out, 'slurm'))\n"
        )
        with open(said, "w") as log:
            command = subprocess.Popen([sys.executable, "-c", code, out, data], stderr=log)
        until = time.monotonic() + 300
        while "RUNNING" not in states(jobs).values():
            assert time.monotonic() < until and command.poll() is None, said.read_text()
            time.sleep(0.05)
        command.kill()
        command.wait()
        assert "CANCELLED" not in states(jobs).values(), "a killed command can't cancel"
        run, cells = execution(out, "local"), small_cells(data)
        with sole_use(out):
            run_cells(cells, run)
        assert made(cells, out) == expected
        assert (jobs / "cancelled").read_text().split() == ["1"]
        assert not (out / ".launch").exists()
