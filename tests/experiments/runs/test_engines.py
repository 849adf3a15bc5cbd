"""Engines: what goes wrong with one cell leaves the others alone, and nothing outlives the command.

The same tests for processes of this machine, a real Slurm of this machine and a real Ray. A plugin stands in
for the runs themselves; that workers really run cells is told by test_runner.
"""

import importlib
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import wait
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from filelock import FileLock

from attngraph.errors import UserError
from attngraph.experiments.base.files import is_running
from attngraph.experiments.runs import engines
from attngraph.experiments.runs.engines import ENGINES, FOLDER, SLURM_JOBS, Job, cancel_earlier
from attngraph.experiments.runs.execution import Execution
from attngraph.experiments.runs.experiment import Diverged
from attngraph.experiments.runs.runner import _outcome, run_cells
from tests.experiments.runs.standins import begun, jobs_of, untrained, write_data

ROOT = Path(__file__).parents[3]
SLURMS = ("slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel")
CONF = """
ClusterName=one
SlurmctldHost={host}
SlurmctldPort=16817
SlurmdPort=16818
AuthType=auth/none
CredType=cred/none
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
KillWait=2
SlurmdParameters=config_overrides
NodeName={host} CPUs=4 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES State=UP
"""


def asked_of(*words):
    """What a command prints."""
    return subprocess.run(words, check=False, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """A Slurm of one machine, as long as the module's tests run; its folder."""
    if not all(map(shutil.which, SLURMS)) or find_spec("submitit") is None:
        pytest.skip("needs Slurm (Debian: slurmctld, slurmd, slurm-client) and submitit")
    folder, host = tmp_path_factory.mktemp("slurm"), os.uname().nodename
    user = asked_of("id", "-un")
    (folder / "slurm.conf").write_text(CONF.format(folder=folder, host=host, user=user))
    (folder / "cgroup.conf").write_text("CgroupPlugin=disabled\n")
    with pytest.MonkeyPatch.context() as patch, open(folder / "said", "w") as said:
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        daemons = [
            subprocess.Popen([*words, "-D"], stderr=said) for words in (["slurmctld", "-i"], ["slurmd"])
        ]
        try:
            until = time.monotonic() + 60
            while (
                "idle" not in subprocess.run(["sinfo", "-h", "-o%T"], capture_output=True, text=True).stdout
            ):
                assert time.monotonic() < until, (folder / "said").read_text()
                time.sleep(0.2)
            yield folder
        finally:
            subprocess.run(["scancel", "--user", user], check=False)
            for daemon in reversed(daemons):
                daemon.terminate()
                daemon.wait(30)


@pytest.fixture(scope="module")
def ray():
    """A Ray cluster of this machine, as long as the module's tests run."""
    if find_spec("ray") is None:
        pytest.skip("needs the package ray")
    command = [sys.executable, "-m", "ray.scripts.scripts"]
    start = [*command, "start", "--head", "--port=6390", "--num-cpus=2", "--include-dashboard=false"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")  # Ray's 15 lets anything else come first
        patch.setenv("PYTHONPATH", os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", ""))))
        subprocess.run([*start, "--object-store-memory=80000000"], check=True, capture_output=True)
        try:
            yield
        finally:
            importlib.import_module("ray").shutdown()
            subprocess.run([*command, "stop"], check=False, capture_output=True)


@pytest.fixture(params=["local", *(pytest.param(name, marks=pytest.mark.slow) for name in ("slurm", "ray"))])
def name(request, monkeypatch):
    """Each engine that is there."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", ""))))
    if request.param == "local":
        return "local"
    request.getfixturevalue(request.param)
    monkeypatch.setattr(engines, "QUEUE", 1.0)
    monkeypatch.setattr(engines, "LATE", 10.0)
    monkeypatch.setattr(engines, "RETRIES", 1)
    return request.param


def waited_for(seen, seconds=120):
    until = time.monotonic() + seconds
    while not seen():
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.timeout(600)
def test_what_goes_wrong_with_one_cell_leaves_the_others_alone(name, tmp_path):
    run = Execution(tmp_path, jobs=2, launcher=name)
    refused, dies, one, two = jobs = jobs_of(run, "refused", "dies", "one", "two")
    with ENGINES[name](jobs, run) as futures:
        wait(futures, timeout=300)
        ended = {job: _outcome(future) for job, future in zip(jobs, futures)}
    assert str(ended[refused]) == "no such model"
    said = {"local": "worker died (exit code -9; out of", "slurm": "Slurm job ", "ray": "worker lost ("}
    assert said[name] in str(ended[dies]) and "\n" not in str(ended[dies])
    assert len(begun(dies)) == (2 if name == "ray" else 1)
    assert [ended[job]["scores"] for job in (one, two)] == [{"vqa.accuracy": 0.5}] * 2
    assert ended[one]["place"] == str(tmp_path) and ended[one]["process"] != ended[two]["process"]
    assert [job.step() for job in (one, two)] == [3, 3]


@pytest.mark.timeout(600)
def test_whatever_ends_the_command_ends_what_it_has_started(name, tmp_path):
    run = Execution(tmp_path, jobs=2, launcher=name)
    jobs = jobs_of(run, "sleeps", "sleeps-too", "sleeps-never")
    with pytest.raises(KeyboardInterrupt), ENGINES[name](jobs, run):
        waited_for(lambda: all(map(begun, jobs[:2])))
        raise KeyboardInterrupt
    waited_for(lambda: not any(is_running(process) for job in jobs for process in begun(job)))
    assert not begun(jobs[2]), "two at a time"
    assert not (tmp_path / FOLDER / SLURM_JOBS).exists()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name, label", [("slurm", "preempted"), ("ray", "dies-once")], indirect=["name"])
@pytest.mark.slow
def test_a_cell_whose_worker_is_lost_is_run_again(name, label, tmp_path, monkeypatch):
    run = Execution(tmp_path, launcher=name)
    if name == "slurm":  # scontrol is still there when Slurm ends the job's processes
        late = tmp_path / "bin" / "scontrol"
        late.parent.mkdir()
        late.write_text(f"#!/bin/sh\ntrap 'exit 1' TERM\n{shutil.which('scontrol')} \"$@\"\nsleep 1\n")
        late.chmod(0o755)
        monkeypatch.setenv("PATH", f"{late.parent}:{os.environ['PATH']}")
    (job,) = jobs_of(run, label)
    with ENGINES[name]([job], run) as (future,):
        if name == "slurm":  # it would wait for two minutes
            waited_for(lambda: "BeginTime" in asked_of("squeue", "--noheader", "--format=%r"))
            number = (tmp_path / FOLDER / SLURM_JOBS).read_text()
            asked_of("scontrol", "update", f"JobId={number}", "StartTime=now")
        assert isinstance(ended := future.result(timeout=300), dict), ended
        assert ended["process"] == begun(job)[1]


@pytest.mark.timeout(600)
@pytest.mark.slow
def test_slurm_runs_real_cells_and_cancels_what_a_killed_command_left(slurm, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    data, run = write_data(tmp_path / "data"), Execution(tmp_path / "out", launcher="slurm")
    left = asked_of("sbatch", "--parsable", "--output=/dev/null", "--wrap=sleep 600")
    (run.out / FOLDER).mkdir(parents=True)
    (run.out / FOLDER / SLURM_JOBS).write_text(left)
    cells = [untrained(label, data) for label in ("one", "two")]
    scores = run_cells(cells, run)
    assert [scores[cell]["examples"] for cell in cells] == [4, 4]
    assert not (run.out / FOLDER).exists()
    assert f"cancelling Slurm jobs {left} of an earlier command" in capfd.readouterr().err
    assert left not in asked_of("squeue", "--noheader", "--format=%i", "--states=PENDING,RUNNING").split()
    refused = Execution(tmp_path / "out", launcher="slurm", cluster={"partition": "nowhere"})
    with pytest.raises(UserError, match="sbatch rejected .*invalid partition specified: nowhere") as error:
        run_cells([untrained("three", data)], refused)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_ray_cluster_that_is_not_there_or_too_small_is_one_line(ray, tmp_path):
    for cluster, said in (
        ({"cpus": 999}, "no machine of the Ray cluster has the resources for a run, 999 cores"),
        ({"address": "127.0.0.1:1"}, "--on address=127.0.0.1:1: no Ray cluster answers"),
    ):
        run = Execution(tmp_path, launcher="ray", cluster=cluster)
        with pytest.raises(UserError, match=said) as error, ENGINES["ray"](jobs_of(run, "one"), run):
            pytest.fail("it runs")
        assert "\n" not in str(error.value)
        importlib.import_module("ray").shutdown()


@pytest.mark.skipif(find_spec("submitit") is None, reason="needs the package submitit")
def test_what_sbatch_is_told(tmp_path, monkeypatch):
    (tmp_path / "srun").touch(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def told(device="cpu", **cluster):
        run = Execution(tmp_path, device, threads=2, launcher="slurm", cluster=cluster)
        text = engines._submitter(tmp_path / "logs", run)._make_submission_file_text("command", "id")
        return {line.removeprefix("#SBATCH --") for line in text.splitlines()}

    assert {"cpus-per-task=2", "time=24:00:00", "job-name=attngraph"} <= told()
    assert {"partition=gpu", "time=2-00", "cpus-per-task=5"} <= told(
        partition="gpu", time="2-00", cpus_per_task="5"
    )
    assert "gpus-per-node=1" in told("cuda") and not any("gpus" in line for line in told())
    assert "gres=gpu:a100:1" in (asked := told("cuda", gres="gpu:a100:1")) and "gpus-per-node=1" not in asked


@pytest.fixture
def job(tmp_path, monkeypatch):
    """A job in this process, whose working folder is what it was afterwards."""
    monkeypatch.chdir(Path.cwd())
    monkeypatch.setattr(engines, "prepare_process", lambda: None)
    (tmp_path / FOLDER).mkdir()
    return Job(untrained("a", Path("data")), Execution(tmp_path, launcher="ray"), (), tmp_path)


def test_a_machine_that_does_not_see_the_folders_says_so(job, tmp_path):
    shutil.rmtree(tmp_path / FOLDER)
    assert str(job()).startswith(f"{tmp_path} does not exist on {os.uname().nodename}: start the command")


@pytest.mark.parametrize(
    "error, said",
    [
        (
            OSError(28, "No space left on device", "a"),
            "[Errno 28] No space left on device: 'a': check the free disk space",
        ),
        (Diverged("nan"), "nan"),
        (ValueError("odd"), f"ValueError: odd ({__file__}, line "),
    ],
)
def test_errors_of_a_cell_come_back(job, error, said, monkeypatch):
    def run_cell(*given):
        raise error

    monkeypatch.setattr(engines, "run_cell", run_cell)
    outcome = job()
    assert str(outcome).startswith(said) and isinstance(outcome, UserError)
    assert isinstance(outcome, Diverged) == isinstance(error, Diverged)


def test_a_cell_is_run_by_one_process_at_a_time(job, monkeypatch):
    """A worker of a killed command may live a little longer than the command's own lock."""
    monkeypatch.setattr(engines, "run_cell", lambda *given: {"scores": {}})
    monkeypatch.setattr(engines, "WAIT", 0.1)
    with FileLock(job.file("lock")):
        assert "a worker of an earlier command still runs it" in str(job())
    assert job() == {"scores": {}}


def test_a_worker_that_cannot_start_leaves_its_place_to_the_next(job, monkeypatch):
    """Else the next job would wait for ever."""

    class Full:
        def Pipe(self, duplex):
            raise OSError(24, "Too many open files")

    monkeypatch.setattr(engines, "_context", Full)
    with engines.local([job, job], replace(job.run, jobs=1)) as futures:
        assert ["Too many" in str(future.exception(60)) for future in futures] == [True, True]


def test_a_machine_without_slurm_goes_on(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    cancel_earlier(tmp_path)
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / SLURM_JOBS).write_text("77")
    cancel_earlier(tmp_path)
    assert not (tmp_path / FOLDER / SLURM_JOBS).exists()
