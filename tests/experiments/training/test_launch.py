"""The options for more than one machine: what goes together, what sbatch and Ray are told."""

import argparse
from pathlib import Path

import pytest

from attngraph.errors import UserError
from experiments.training import execution, launch
from experiments.training.execution import CLUSTER_JOBS, Execution, add_run_arguments, execution_of
from experiments.training.launch import Launch, minutes


def asked(*words):
    parser = argparse.ArgumentParser()
    add_run_arguments(parser)
    return execution_of(parser.parse_args(words), Path("out"))


@pytest.fixture
def installed(monkeypatch):
    monkeypatch.setattr(launch, "_is_installed", lambda name: True)


def test_nothing_said_means_processes_of_this_machine():
    assert (
        asked("--jobs", "1").launch == Launch()
        and asked("--jobs", "1", "--launcher", "local").launch == Launch()
    )


def test_what_a_cluster_has_is_not_asked_of_this_machine(installed, monkeypatch):
    monkeypatch.setattr(execution.os, "cpu_count", lambda: 1)
    run = asked("--launcher", "ray", "--device", "cuda", "--threads", "4", "--gpus-per-cell", "0.5")
    assert run == Execution(Path("out"), "cuda", CLUSTER_JOBS, threads=4, launch=Launch("ray", gpus=0.5))
    assert asked("--launcher", "slurm", "--jobs", "7").jobs == 7


def test_options_of_ray_and_slurm(installed):
    assert asked("--launcher", "ray", "--ray-address", "auto", "--cpus-per-cell", "3").launch == Launch(
        "ray", cpus=3, address="auto"
    )
    words = ["--slurm", "partition=gpu", "--slurm", "--mail-type=END"[2:], "--slurm", " time = 2-00 "]
    assert asked("--launcher", "slurm", *words).launch.slurm == (
        ("partition", "gpu"),
        ("mail_type", "END"),
        ("time", "2-00"),
    )


@pytest.mark.parametrize(
    "words, said",
    [
        (["--cpus-per-cell", "2"], "--cpus-per-cell 2 changes nothing with --launcher local: .*slurm or ray"),
        (["--gpus-per-cell", "1"], "--gpus-per-cell 1.0 changes nothing with --launcher local"),
        (["--ray-address", "auto"], "--ray-address auto changes nothing .*give --launcher ray$"),
        (["--slurm", "mem=1GB"], "--slurm mem=1GB changes nothing .*give --launcher slurm$"),
        (["--launcher", "slurm", "--gpus-per-cell", "0.5"], "changes nothing with --launcher slurm"),
        (["--launcher", "slurm", "--ray-address", "auto"], "--ray-address auto changes nothing"),
        (["--launcher", "ray", "--slurm", "mem=1GB"], "--slurm mem=1GB changes nothing with --launcher ray"),
        (["--launcher", "ray", "--ray-address", " "], "--ray-address is empty"),
        (
            ["--launcher", "ray", "--cpus-per-cell", "0"],
            "--cpus-per-cell must be at least --threads .1., got 0",
        ),
        (["--launcher", "ray", "--cpus-per-cell", "1", "--threads", "2"], "at least --threads .2., got 1"),
        (["--launcher", "ray", "--threads", "0"], "--threads must be at least 1"),
        (["--launcher", "ray", "--device", "mps"], "takes --device cpu or cuda, got mps"),
        (["--launcher", "slurm", "--device", "cuda:1"], "takes --device cpu or cuda, got cuda:1"),
        (["--launcher", "ray", "--gpus-per-cell", "1"], "--gpus-per-cell changes nothing with --device cpu"),
        *(
            (["--launcher", "ray", "--device", "cuda", f"--gpus-per-cell={share}"], "above 0 and at most 1")
            for share in ("0", "2", "nan", "-1")
        ),
        *(
            (["--launcher", "slurm", "--slurm", option], "(?s)--slurm .*: give an option of sbatch")
            for option in ("", "mem", "mem=", "=1", "a b=1", "Mem=1", "x\ny=1")
        ),
        (["--launcher", "slurm", "--slurm", "array=0-9"], "the launcher sets array itself"),
        (["--launcher", "slurm", "--slurm", "cpus-per-task=9"], "the launcher sets cpus_per_task itself"),
        (["--launcher", "slurm", "--slurm", "setup=rm"], "the launcher sets setup itself"),
        (["--launcher", "slurm", "--slurm", "time=soon"], "--slurm time=soon: give minutes"),
    ],
)
def test_options_that_do_not_go_together_are_one_line(words, said, installed):
    with pytest.raises(UserError, match=said):
        asked(*words)


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(launch, "_is_installed", lambda name: False)
    for name, package in (("ray", "ray"), ("slurm", "submitit")):
        with pytest.raises(UserError, match=rf"needs the package {package}: .*'attngraph\[{name}\]'"):
            asked("--launcher", name)


def test_torchrun_and_another_launcher_are_one_too_many(installed, monkeypatch):
    monkeypatch.setattr(execution, "processes", lambda device: argparse.Namespace(num_processes=2))
    with pytest.raises(UserError, match="--launcher ray starts processes itself"):
        asked("--launcher", "ray")


@pytest.mark.parametrize(
    "text, expected",
    [
        ("90", 90),
        ("90:00", 90),
        ("90:01", 91),
        ("12:00:00", 720),
        ("0:0:1", 1),
        ("2-00", 2880),
        ("1-12", 2160),
        ("1-12:30", 2190),
        ("1-12:30:30", 2191),
    ],
)
def test_times_as_slurm_writes_them(text, expected):
    """The forms of sbatch's manual: minutes, minutes:seconds, hours:minutes:seconds, days-hours and so on."""
    assert minutes(text) == expected


@pytest.mark.parametrize("text", ["", "x", "-1", "1:2:3:4", "0", "0:00", "1.5", "٣", "1-"])
def test_what_is_no_time(text):
    with pytest.raises(UserError, match="--slurm time="):
        minutes(text)
