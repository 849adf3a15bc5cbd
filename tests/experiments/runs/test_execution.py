"""The options of commands that run cells."""

import argparse
import os
from pathlib import Path

import pytest

from attngraph.errors import UserError
from experiments.runs import execution
from experiments.runs.execution import CLUSTER_JOBS, Execution, add_run_arguments, execution_of, jobs_for


def asked(*words):
    parser = argparse.ArgumentParser()
    add_run_arguments(parser)
    return execution_of(parser.parse_args(words), Path("out"))


def test_how_many_cells_run_at_once(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert jobs_for("cpu", None) == 8 and jobs_for("cpu", 3) == 3 and jobs_for("cpu", None, threads=16) == 4
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert jobs_for("cpu", None) == 2 and jobs_for("mps", None) == 1 and jobs_for("cpu", None, threads=8) == 1
    monkeypatch.setattr(execution.torch.cuda, "device_count", lambda: 4)
    assert jobs_for("cuda", None) == 4 and jobs_for("cuda:1", None) == 1
    with pytest.raises(UserError, match="--jobs must be at least 1, got 0"):
        jobs_for("cpu", 0)


def test_threads_are_one_unless_asked_otherwise(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert asked() == Execution(Path("out"), "cpu", 4) and asked().threads == 1
    assert asked("--jobs", "1").conditions() == asked().conditions() == {"threads": 1, "processes": 1}
    assert asked("--threads", "2") == Execution(Path("out"), "cpu", 2, threads=2)


@pytest.fixture
def clusters(monkeypatch):
    """A machine with Slurm, Ray and one core."""
    monkeypatch.setattr(execution.importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(execution.shutil, "which", lambda name: name)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)


def test_what_a_cluster_has_is_not_asked_of_this_machine(clusters):
    ray = asked("--launcher", "ray", "--device", "cuda", "--threads", "4", "--cluster", "gpus=0.5")
    cluster = {"gpus": "0.5"}
    assert ray == Execution(Path("out"), "cuda", CLUSTER_JOBS, threads=4, launcher="ray", cluster=cluster)
    words = ["--cluster", "partition=gpu", "--cluster", "--mail-type=END"[2:], "--cluster", " time = 2-00 "]
    slurm = asked("--launcher", "slurm", "--jobs", "7", *words)
    assert slurm.cluster == {"partition": "gpu", "mail_type": "END", "time": "2-00"} and slurm.jobs == 7


@pytest.mark.parametrize(
    "words, said",
    [
        ("--cluster mem=1GB", "--cluster mem=1GB changes nothing with --launcher local: .*slurm or ray"),
        ("--launcher ray --cluster mem=1GB", "--cluster mem=1GB: ray takes address, cpus and gpus"),
        ("--launcher ray --cluster cpus=0", "--cluster cpus=0: give a whole number"),
        ("--launcher ray --cluster cpus=1.5", "--cluster cpus=1.5: give a whole number"),
        ("--launcher ray --device cuda --cluster gpus=2", "gpus=2: give a share above 0 and at most 1"),
        ("--launcher ray --device cuda --cluster gpus=nan", "gpus=nan: give a share"),
        ("--launcher ray --cluster gpus=1", "gpus=1 changes nothing with --device cpu"),
        ("--launcher ray --cluster address=", "--cluster address=: give a name and a value"),
        ("--launcher ray --threads 0", "--threads must be at least 1"),
        ("--launcher ray --device mps", "takes --device cpu or cuda, got mps"),
        ("--launcher slurm --device cuda:1", "takes --device cpu or cuda, got cuda:1"),
        ("--launcher slurm --cluster mem", "--cluster mem: give a name and a value"),
        ("--launcher slurm --cluster Mem=1", "--cluster Mem=1: give a name and a value"),
        ("--launcher slurm --cluster --array=0-9", "the launcher sets array itself"),
    ],
)
def test_options_that_do_not_go_together_are_one_line(words, said, clusters):
    with pytest.raises(UserError, match=said):
        asked(*words.replace("--cluster --", "--cluster=--").split())


def test_what_a_launcher_lacks_is_told_before_any_work(monkeypatch):
    monkeypatch.setattr(execution.shutil, "which", lambda name: None)
    monkeypatch.setattr(execution.importlib.util, "find_spec", lambda name: True)
    with pytest.raises(UserError, match="--launcher slurm: this machine has no Slurm .no sbatch on the PATH"):
        asked("--launcher", "slurm")
    monkeypatch.setattr(execution.importlib.util, "find_spec", lambda name: None)
    for name, package in (("ray", "ray"), ("slurm", "submitit")):
        with pytest.raises(UserError, match=rf"needs the package {package}: .*'attngraph\[{name}\]'"):
            asked("--launcher", name)


def test_torchrun_and_another_launcher_are_one_too_many(clusters, monkeypatch):
    monkeypatch.setattr(execution, "processes", lambda device: argparse.Namespace(num_processes=2))
    with pytest.raises(UserError, match="--launcher ray starts processes itself"):
        asked("--launcher", "ray")


@pytest.mark.parametrize(
    "words, said",
    [
        (["--threads", "0"], "--threads must be at least 1 and at most 4, this machine's cores; got 0"),
        (["--threads", "1000000"], "--threads must be at least 1 and at most 4"),
        (["--cache-gb", "-1"], "--cache-gb must be at least 0, got -1"),
        (["--cache-gb", "nan"], "--cache-gb must be at least 0, got nan"),
        (["--jobs", "0"], "--jobs must be at least 1"),
        (["--device", "meta"], "--device meta is not available here .*: use cpu"),
        (["--device", "toaster"], "--device toaster is not available here .*: use cpu"),
        (["--device", "cpu:1"], "--device cpu:1: a machine has one cpu"),
    ],
)
def test_wrong_options_end_with_one_line(words, said, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    with pytest.raises(UserError, match=said) as error:
        asked(*words)
    assert "\n" not in str(error.value)
