"""Where and how cells run."""

from __future__ import annotations

import importlib.util
import math
import os
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from attngraph.errors import UserError
from experiments.base.arguments import did_you_mean
from experiments.base.lock import sole_use
from experiments.base.options import RunOptions
from experiments.base.stopping import exit_code
from experiments.runs.data import LIMIT_GB
from experiments.runs.device import check_device, check_threads, processes

LOCAL, SLURM, RAY = "local", "slurm", "ray"
LAUNCHERS = (LOCAL, SLURM, RAY)
PACKAGES = {SLURM: "submitit", RAY: "ray"}  # what a launcher needs; an extra of its name brings it
THREADS = 1  # a worker for each core, each with one thread, gets most done
OURS = ("jobs", "threads", "cache_gb")  # settings of --on, whatever the launcher
CLUSTER_JOBS = 256  # cells at the same time on a cluster, where it has room for more
TAKEN = ("array", "output", "error", "signal", "open_mode", "nodes", "ntasks")  # of sbatch: set for each cell


@dataclass(frozen=True)
class Execution:
    """Where and how cells run.

    Args:
        out: folder of the table.
        device: ``cpu``, ``cuda`` (cells are spread over all GPUs), ``cuda:1``, ``mps``.
        jobs: cells at the same time; None as :func:`jobs_for` says.
        cache_gb: size of the folder of cached image states, in 10^9 bytes.
        threads: CPU threads that compute a cell. The last digits of its scores depend on them; so they follow
            from nothing else, are saved with the cell, and tell runs apart.
        launcher: one of :data:`LAUNCHERS`.
        cluster: of Slurm: options of ``sbatch``; of Ray: ``address`` of the cluster (without it this
            machine's), ``cpus`` and ``gpus`` for each cell.
        trackers: that show the curves of each run, see :mod:`experiments.runs.trackers`.
    """

    out: Path
    device: str = "cpu"
    jobs: int | None = None
    cache_gb: float = LIMIT_GB
    threads: int = THREADS
    launcher: str = LOCAL
    cluster: dict[str, str] = field(default_factory=dict)
    trackers: tuple[str, ...] = ()

    @property
    def is_local(self) -> bool:
        """Whether cells run in processes of this machine."""
        return self.launcher == LOCAL

    def conditions(self) -> dict[str, int]:
        """What the last digits of scores depend on, beside the settings and the machine."""
        return {"threads": self.threads, "processes": processes(self.device).num_processes}


def execution_of(options: RunOptions, out: Path) -> Execution:
    """What ``--on`` and ``--device`` ask for.

    Args:
        options: ``on`` holds a launcher, which may be left out, and settings KEY=VALUE.
        out: folder of the table.

    Raises:
        UserError: a setting is unknown or out of range, the device is not there, or what a launcher needs is
            missing. What other machines have is for them to say.
    """
    launcher, given = _settings(options.on)
    threads = int(_number("threads", given.pop("threads", THREADS), least=1))
    cache_gb = _number("cache_gb", given.pop("cache_gb", LIMIT_GB))
    asked = int(_number("jobs", given.pop("jobs"), least=1)) if "jobs" in given else None
    if launcher == LOCAL:
        if given:
            near = did_you_mean(next(iter(given)), OURS)
            raise UserError(
                f"--on {next(iter(given))}: {LOCAL} has no such setting{near}, use {', '.join(OURS)}, or "
                f"begin with {SLURM} or {RAY}"
            )
        check_threads(threads)
        check_device(options.device)
    else:
        _check_launcher(launcher, options.device)
        for key, value in given.items():
            if launcher == SLURM and key in TAKEN:
                raise UserError(f"--on {key}={value}: the launcher sets {key} itself; leave it out")
            if launcher == RAY:
                _check_ray(key, value, options.device)
    jobs = jobs_for(options.device, asked, threads, launcher == LOCAL)
    return Execution(out, options.device, jobs, cache_gb, threads, launcher, given)


def _settings(words: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """The launcher and the settings that words name."""
    launcher, given = LOCAL, {}
    for place, word in enumerate(words):
        key, equals, value = (part.strip() for part in word.partition("="))
        key = key.removeprefix("--").replace("-", "_")
        if not equals and place == 0:
            if word not in LAUNCHERS:
                near = did_you_mean(word, LAUNCHERS)
                raise UserError(f"--on {word}: unknown launcher{near}, choose from {', '.join(LAUNCHERS)}")
            launcher = word
        elif not (value and re.fullmatch("[a-z][a-z_]*", key)):
            raise UserError(f"--on {word}: give a name and a value, such as jobs=2")
        elif key in given:
            raise UserError(f"--on {key}={given[key]} and {word} contradict each other: leave one out")
        else:
            given[key] = value
    return launcher, given


def _number(name: str, value: Any, least: float = 0) -> float:
    """A setting's number; a whole one where the least is 1."""
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not (least <= number < math.inf) or (least and not number.is_integer()):
        raise UserError(f"--on {name}={value}: give a {'whole ' * bool(least)}number from {least:g} on")
    return number


def _check_launcher(launcher: str, device: str) -> None:
    """Raise UserError where a launcher's package or program is missing, or it does not take the device."""
    if device not in ("cpu", "cuda"):
        raise UserError(f"--on {launcher} takes --device cpu or cuda, got {device}")
    if importlib.util.find_spec(PACKAGES[launcher]) is None:
        raise UserError(
            f"--on {launcher} needs the package {PACKAGES[launcher]}: run `pip install "
            f"'attngraph[{launcher}]'`"
        )
    missing = [name for name in ("sbatch", "srun", "squeue", "scancel") if shutil.which(name) is None]
    if launcher == SLURM and missing:
        raise UserError(
            f"--on {SLURM}: this machine has no Slurm (no {missing[0]} on the PATH): run the command where "
            "sbatch works, or leave the option out"
        )
    if (count := processes(device).num_processes) > 1:
        raise UserError(
            f"--on {launcher} starts processes itself: give the command without the launcher of PyTorch that "
            f"has started {count}"
        )


def _check_ray(key: str, value: str, device: str) -> None:
    """Raise UserError where an option of Ray's is unknown or out of range."""
    if key == "address":
        return
    if key not in ("cpus", "gpus"):
        raise UserError(f"--on {key}={value}: {RAY} takes address, cpus and gpus")
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if key == "cpus" and not (number >= 1 and number.is_integer()):
        raise UserError(f"--on cpus={value}: give a whole number of cores, at least 1")
    if key == "gpus" and not 0 < number <= 1:
        raise UserError(
            f"--on gpus={value}: give a share above 0 and at most 1: a cell runs on one GPU; several "
            "train one cell under torchrun"
        )
    if key == "gpus" and device != "cuda":
        raise UserError(f"--on gpus={value} changes nothing with --device {device}: leave it out")


def jobs_for(device: str, asked: int | None, threads: int = THREADS, here: bool = True) -> int:
    """Cells that run at the same time: as asked; else as many as have their threads on cores of their own (at
    most 8) on a CPU, one per GPU otherwise; on a cluster as many as it has room for, within reason.
    """
    if asked is not None:
        return asked
    if not here:
        return CLUSTER_JOBS
    if device == "cpu":
        return min(8, max(1, (os.cpu_count() or 1) // threads))
    return max(1, torch.cuda.device_count()) if device == "cuda" else 1


def in_folder(run: Execution, work: Callable[[], int]) -> int:
    """A command's work on its folder, where no other command works meanwhile; returns the exit code.

    Raises:
        UserError: another command works in the folder.
    """
    try:
        with sole_use(run.out) if processes(run.device).is_main_process else nullcontext():
            return work()
    except KeyboardInterrupt as stop:
        print(
            f"\nstopped; finished cells are in {run.out}, the same command goes on from there",
            file=sys.stderr,
        )
        return exit_code(stop)
