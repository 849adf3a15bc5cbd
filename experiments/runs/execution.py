"""Where and how cells run: the options of every command that runs them."""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch

from attngraph.errors import UserError
from experiments.base.arguments import add_model_arguments
from experiments.base.lock import sole_use
from experiments.base.stopping import exit_code
from experiments.runs.data import LIMIT_GB
from experiments.runs.device import check_device, check_threads, processes

LOCAL, SLURM, RAY = "local", "slurm", "ray"
LAUNCHERS = (LOCAL, SLURM, RAY)
PACKAGES = {SLURM: "submitit", RAY: "ray"}  # what a launcher needs; an extra of its name brings it
THREADS = 1  # a worker for each core, each with one thread, gets most done
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


def add_run_arguments(parser: argparse.ArgumentParser, several: bool = True) -> None:
    """The options of every command that runs cells.

    Args:
        parser: gets them.
        several: whether it may run several at the same time.
    """
    add = parser.add_argument
    parser.set_defaults(jobs=None if several else 1)
    add_model_arguments(parser, "Adapt this transformers model")
    add(
        "--device",
        default="cpu",
        metavar="NAME",
        help="Compute on this device: cpu, cuda (all GPUs), cuda:1 or mps.",
    )
    if several:
        add(
            "--jobs",
            type=int,
            metavar="N",
            help="Do this many runs at the same time. Default: as many as there are cores or GPUs for.",
        )
    add(
        "--threads",
        type=int,
        default=THREADS,
        metavar="N",
        help="Use this many CPU threads for each run; the last digits of scores depend on them.",
    )
    add(
        "--cache-gb",
        type=float,
        default=LIMIT_GB,
        metavar="GB",
        help="Cache image states in a folder of at most this many GB; 0 for none.",
    )
    add(
        "--launcher",
        choices=LAUNCHERS,
        default=LOCAL,
        metavar="NAME",
        help=f"Run cells in this way: {LOCAL} (processes of this machine), {SLURM} (an array of jobs) or "
        f"{RAY} (tasks of a Ray cluster).",
    )
    add(
        "--cluster",
        action="append",
        metavar="KEY=VALUE",
        help=f"Set an option of sbatch, such as partition=gpu, time=12:00:00 or "
        f"cpus-per-task=5, with {SLURM}; address=ADDRESS of a cluster to join (auto: this machine's), or "
        f"cpus=N and gpus=SHARE of each cell, with {RAY} (repeatable).",
    )


def execution_of(args: argparse.Namespace, out: Path) -> Execution:
    """What the options of :func:`add_run_arguments` ask for.

    Raises:
        UserError: a number is out of range, the device is not there, options do not go together, or what a
            launcher needs is missing. What other machines have is for them to say.
    """
    cluster = _cluster_of(args.launcher, args.cluster or (), args.device)
    is_local = args.launcher == LOCAL
    if is_local or args.threads < 1:
        check_threads(args.threads)
    if not args.cache_gb >= 0:
        raise UserError(f"--cache-gb must be at least 0, got {args.cache_gb:g}")
    jobs = jobs_for(args.device, args.jobs, args.threads, is_local)
    if is_local:
        check_device(args.device)
    elif (count := processes(args.device).num_processes) > 1:
        raise UserError(
            f"--launcher {args.launcher} starts processes itself: give the command without the launcher of "
            f"PyTorch that has started {count}"
        )
    return Execution(out, args.device, jobs, args.cache_gb, args.threads, args.launcher, cluster)


def _cluster_of(launcher: str, given: Sequence[str], device: str) -> dict[str, str]:
    """The options of a cluster, by name."""
    if launcher == LOCAL:
        if given:
            raise UserError(
                f"--cluster {given[0]} changes nothing with --launcher {LOCAL}: leave it out, or give "
                f"--launcher {SLURM} or {RAY}"
            )
        return {}
    if device not in ("cpu", "cuda"):
        raise UserError(f"--launcher {launcher} takes --device cpu or cuda, got {device}")
    package = PACKAGES[launcher]
    if importlib.util.find_spec(package) is None:
        raise UserError(
            f"--launcher {launcher} needs the package {package}: run `pip install 'attngraph[{launcher}]'`"
        )
    missing = [name for name in ("sbatch", "srun", "squeue", "scancel") if shutil.which(name) is None]
    if launcher == SLURM and missing:
        raise UserError(
            f"--launcher {SLURM}: this machine has no Slurm (no {missing[0]} on the PATH): run the command "
            "where sbatch works, or leave the option out"
        )
    options = {}
    for one in given:
        key, _, value = (part.strip() for part in one.partition("="))
        key = key.removeprefix("--").replace("-", "_")
        if not (value and re.fullmatch("[a-z][a-z_]*", key)):
            raise UserError(f"--cluster {one}: give a name and a value, such as partition=gpu")
        if launcher == SLURM and key in TAKEN:
            raise UserError(f"--cluster {one}: the launcher sets {key} itself; leave it out")
        if launcher == RAY:
            _check_ray(key, value, device)
        options[key] = value
    return options


def _check_ray(key: str, value: str, device: str) -> None:
    """Raise UserError where an option of Ray's is unknown or out of range."""
    if key == "address":
        return
    if key not in ("cpus", "gpus"):
        raise UserError(f"--cluster {key}={value}: {RAY} takes address, cpus and gpus")
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if key == "cpus" and not (number >= 1 and number.is_integer()):
        raise UserError(f"--cluster cpus={value}: give a whole number of cores, at least 1")
    if key == "gpus" and not 0 < number <= 1:
        raise UserError(
            f"--cluster gpus={value}: give a share above 0 and at most 1: a cell runs on one GPU; several "
            "train one cell under torchrun"
        )
    if key == "gpus" and device != "cuda":
        raise UserError(f"--cluster gpus={value} changes nothing with --device {device}: leave it out")


def jobs_for(device: str, asked: int | None, threads: int = THREADS, here: bool = True) -> int:
    """Cells that run at the same time: as asked; else as many as have their threads on cores of their own (at
    most 8) on a CPU, one per GPU otherwise; on a cluster as many as it has room for, within reason.

    Raises:
        UserError: less than one was asked for.
    """
    if asked is not None:
        if asked < 1:
            raise UserError(f"--jobs must be at least 1, got {asked}")
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
