"""Where and how cells run: the options of every command that runs them."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from attngraph.errors import UserError
from experiments.arguments import add_model_arguments
from experiments.training.device import check_device, check_threads, processes
from experiments.training.features import LIMIT_GB
from experiments.training.launch import Launch, add_launch_arguments, launch_of
from experiments.training.lock import sole_use
from experiments.training.stopping import exit_code, on_signals, raise_stopped

LAUNCH = Launch()  # in processes of this machine
THREADS = 1  # a worker for each core, each with one thread, gets most done
CLUSTER_JOBS = 256  # cells at the same time on a cluster, where it has room for more


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
        launch: by which launcher.
        trackers: that show the curves of each run, see :mod:`experiments.training.trackers`.
    """

    out: Path
    device: str = "cpu"
    jobs: int | None = None
    cache_gb: float = LIMIT_GB
    threads: int = THREADS
    launch: Launch = LAUNCH
    trackers: tuple[str, ...] = ()

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
    add_launch_arguments(parser)


def execution_of(args: argparse.Namespace, out: Path) -> Execution:
    """What the options of :func:`add_run_arguments` ask for.

    Raises:
        UserError: a number is out of range, the device is not there, or options do not go together. What
            other machines have is for them to say.
    """
    launch = launch_of(args)
    if launch.is_local or args.threads < 1:
        check_threads(args.threads)
    if not args.cache_gb >= 0:
        raise UserError(f"--cache-gb must be at least 0, got {args.cache_gb:g}")
    jobs = jobs_for(args.device, args.jobs, args.threads, launch.is_local)
    if launch.is_local:
        check_device(args.device)
    elif (count := processes(args.device).num_processes) > 1:
        raise UserError(
            f"--launcher {launch.name} starts processes itself: give the command without the launcher of "
            f"PyTorch that has started {count}"
        )
    return Execution(out, args.device, jobs, args.cache_gb, args.threads, launch)


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

    Ctrl-C, SIGTERM and SIGHUP end it with one line. The processes of ``torchrun`` leave signals alone: one of
    them may wait for another inside PyTorch, where no handler runs.

    Raises:
        UserError: another command works in the folder.
    """
    state = processes(run.device)
    try:
        with ExitStack() as stack:
            if state.num_processes == 1:
                stack.enter_context(on_signals(raise_stopped))
            if state.is_main_process:
                stack.enter_context(sole_use(run.out))
            return work()
    except KeyboardInterrupt as stop:
        print(
            f"\nstopped; finished cells are in {run.out}, the same command goes on from there",
            file=sys.stderr,
        )
        return exit_code(stop)
