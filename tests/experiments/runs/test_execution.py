"""What ``--on`` and ``--device`` ask for."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest

from attngraph.errors import UserError
from attngraph.experiments.base.options import RunOptions
from attngraph.experiments.runs import execution
from attngraph.experiments.runs.execution import CLUSTER_JOBS, Execution, execution_of, jobs_for


def asked(*on, device="cpu"):
    return execution_of(RunOptions(on=on, device=device), Path("out"))


def test_how_many_cells_run_at_once(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert jobs_for("cpu") == 8 and jobs_for("cpu", threads=16) == 4
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert jobs_for("cpu") == 2 and jobs_for("mps") == 1 and jobs_for("cpu", threads=8) == 1
    monkeypatch.setattr(execution.torch.cuda, "device_count", lambda: 4)
    assert jobs_for("cuda") == 4 and jobs_for("cuda:1") == 1


def test_threads_are_one_unless_asked_otherwise(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert asked() == Execution(Path("out"), "cpu", 4) and asked().threads == 1
    assert asked("jobs=1").conditions() == asked().conditions() == {"threads": 1, "processes": 1}
    assert asked("local", "threads=2", "jobs=3") == Execution(Path("out"), "cpu", 3, threads=2)


@pytest.fixture
def clusters(monkeypatch):
    """A machine with Slurm, Ray and one core."""
    monkeypatch.setattr("attngraph.extras.find_spec", lambda name: True)
    monkeypatch.setattr(execution.subprocess, "run", lambda words, **how: None)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)


def test_what_a_cluster_has_is_not_asked_of_this_machine(clusters):
    ray = asked("ray", "threads=4", "gpus=0.5", device="cuda")
    assert (ray.jobs, ray.threads, ray.launcher) == (CLUSTER_JOBS, 4, "ray")
    assert ray.cluster == {"gpus": 0.5, "address": "auto"}
    slurm = asked("slurm", "jobs=7", "partition=gpu", "mail-type=END", " time = 2-00 ", "cache_gb=0")
    assert slurm.cluster == {"partition": "gpu", "mail_type": "END", "time": "2-00"}
    assert (slurm.jobs, slurm.cache_gb) == (7, 0)


@pytest.mark.parametrize(
    "words, device, said",
    [
        ("lokal", "cpu", "--on lokal: unknown launcher .did you mean local"),
        ("mem=1GB", "cpu", "--on local mem: unknown field mem"),
        ("ray cpus=1.5", "cpu", "--on ray cpus: field cpus: input should be a valid integer"),
        ("ray gpus=nan", "cuda", "--on ray gpus: field gpus: input should be"),
        ("ray address=", "cpu", "--on address=: use a name and a value"),
        ("ray", "mps", "needs --device cpu or cuda, got mps"),
        ("threads=0", "cpu", "field threads: input should be greater than or equal to 1"),
        ("threads=1000000", "cpu", "--on threads must be at least 1 and at most 1"),
        ("cache_gb=nan", "cpu", "field cache_gb: input should be"),
        ("jobs=1 jobs=2", "cpu", "--on jobs=1 and jobs=2 contradict each other"),
        ("jobs=1", "meta", "--device meta is not available here .*: use cpu"),
    ],
)
def test_settings_that_do_not_fit_are_one_line(words, device, said, clusters):
    with pytest.raises(UserError, match=said) as error:
        asked(*words.split(), device=device)
    assert "\n" not in str(error.value)


def test_what_a_launcher_lacks_is_told_before_any_work(clusters, monkeypatch):
    refused = subprocess.CalledProcessError(1, "squeue")
    for error in (FileNotFoundError(), refused):
        monkeypatch.setattr(execution.subprocess, "run", lambda words, error=error, **how: _raise(error))
        with pytest.raises(UserError, match="--on slurm: Slurm does not answer on this machine"):
            asked("slurm")
    monkeypatch.setattr(execution, "processes", lambda device: argparse.Namespace(num_processes=2))
    with pytest.raises(UserError, match="--on ray starts processes itself"):
        asked("ray")
    monkeypatch.setattr("attngraph.extras.find_spec", lambda name: None)
    for name, package in (("ray", "ray"), ("slurm", "submitit")):
        monkeypatch.delitem(sys.modules, package, raising=False)  # which another test may have imported
        with pytest.raises(UserError, match=rf"{package} is missing: .*'attngraph\[{name}\]'"):
            asked(name)


def _raise(error):
    raise error
