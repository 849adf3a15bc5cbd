"""What ``--on`` and ``--device`` ask for."""

import argparse
import os
from pathlib import Path

import pytest

from attngraph.errors import UserError
from experiments.base.options import RunOptions
from experiments.runs import execution
from experiments.runs.execution import CLUSTER_JOBS, Execution, execution_of, jobs_for


def asked(*on, device="cpu"):
    return execution_of(RunOptions(on=on, device=device), Path("out"))


def test_how_many_cells_run_at_once(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert jobs_for("cpu", None) == 8 and jobs_for("cpu", 3) == 3 and jobs_for("cpu", None, threads=16) == 4
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert jobs_for("cpu", None) == 2 and jobs_for("mps", None) == 1 and jobs_for("cpu", None, threads=8) == 1
    monkeypatch.setattr(execution.torch.cuda, "device_count", lambda: 4)
    assert jobs_for("cuda", None) == 4 and jobs_for("cuda:1", None) == 1


def test_threads_are_one_unless_asked_otherwise(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert asked() == Execution(Path("out"), "cpu", 4) and asked().threads == 1
    assert asked("jobs=1").conditions() == asked().conditions() == {"threads": 1, "processes": 1}
    assert asked("local", "threads=2") == Execution(Path("out"), "cpu", 2, threads=2)


@pytest.fixture
def clusters(monkeypatch):
    """A machine with Slurm, Ray and one core."""
    monkeypatch.setattr(execution.importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(execution.shutil, "which", lambda name: name)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)


def test_what_a_cluster_has_is_not_asked_of_this_machine(clusters):
    ray = asked("ray", "threads=4", "gpus=0.5", device="cuda")
    cluster = {"gpus": "0.5"}
    assert ray == Execution(Path("out"), "cuda", CLUSTER_JOBS, threads=4, launcher="ray", cluster=cluster)
    slurm = asked("slurm", "jobs=7", "partition=gpu", "mail-type=END", " time = 2-00 ", "cache_gb=0")
    assert slurm.cluster == {"partition": "gpu", "mail_type": "END", "time": "2-00"}
    assert (slurm.jobs, slurm.cache_gb) == (7, 0)


@pytest.mark.parametrize(
    "words, device, said",
    [
        ("lokal", "cpu", "--on lokal: unknown launcher .did you mean local"),
        ("mem=1GB", "cpu", "--on mem: local has no such setting, use jobs, threads, cache_gb, or begin with"),
        ("ray mem=1GB", "cpu", "--on mem=1GB: ray takes address, cpus and gpus"),
        ("ray cpus=1.5", "cpu", "--on cpus=1.5: give a whole number"),
        ("ray gpus=nan", "cuda", "gpus=nan: give a share above 0 and at most 1"),
        ("ray gpus=1", "cpu", "gpus=1 changes nothing with --device cpu"),
        ("ray address=", "cpu", "--on address=: give a name and a value"),
        ("ray", "mps", "takes --device cpu or cuda, got mps"),
        ("slurm", "cuda:1", "takes --device cpu or cuda, got cuda:1"),
        ("slurm Mem=1", "cpu", "--on Mem=1: give a name and a value"),
        ("slurm array=0-9", "cpu", "the launcher sets array itself"),
        ("threads=0", "cpu", "--on threads=0: give a whole number from 1 on"),
        ("threads=1000000", "cpu", "--on threads must be at least 1 and at most 1"),
        ("cache_gb=nan", "cpu", "--on cache_gb=nan: give a number from 0 on"),
        ("jobs=1 jobs=2", "cpu", "--on jobs=1 and jobs=2 contradict each other"),
        ("jobs=1.5", "cpu", "--on jobs=1.5: give a whole number from 1 on"),
        ("jobs=1", "meta", "--device meta is not available here .*: use cpu"),
        ("jobs=1", "toaster", "--device toaster is not available here .*: use cpu"),
        ("jobs=1", "cpu:1", "--device cpu:1: a machine has one cpu"),
    ],
)
def test_settings_that_do_not_fit_are_one_line(words, device, said, clusters):
    with pytest.raises(UserError, match=said) as error:
        asked(*words.split(), device=device)
    assert "\n" not in str(error.value)


def test_what_a_launcher_lacks_is_told_before_any_work(monkeypatch):
    monkeypatch.setattr(execution.shutil, "which", lambda name: None)
    monkeypatch.setattr(execution.importlib.util, "find_spec", lambda name: True)
    with pytest.raises(UserError, match="--on slurm: this machine has no Slurm .no sbatch on the PATH"):
        asked("slurm")
    monkeypatch.setattr(execution.importlib.util, "find_spec", lambda name: None)
    for name, package in (("ray", "ray"), ("slurm", "submitit")):
        with pytest.raises(UserError, match=rf"needs the package {package}: .*'attngraph\[{name}\]'"):
            asked(name)


def test_torchrun_and_another_launcher_are_one_too_many(clusters, monkeypatch):
    monkeypatch.setattr(execution, "processes", lambda device: argparse.Namespace(num_processes=2))
    with pytest.raises(UserError, match="--on ray starts processes itself"):
        asked("ray")
