"""Where and how runs are executed."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import ConfigDict, Field, FiniteFloat

from attngraph.errors import UserError
from attngraph.experiments.base.config import Config, checked
from attngraph.experiments.base.lock import sole_use
from attngraph.experiments.base.options import RunOptions
from attngraph.experiments.runs.data import LIMIT_GB
from attngraph.experiments.runs.device import check_device, check_threads, processes
from attngraph.extras import require
from attngraph.names import did_you_mean

LOCAL, SLURM, RAY = "local", "slurm", "ray"
PACKAGES = {SLURM: "submitit", RAY: "ray"}  # what a launcher needs; an extra of its name brings it
CLUSTER_JOBS = 256  # cells at the same time on a cluster, where it has room for more
REMEDY = "see the docs of --on (`attngraph table --help`)"


class _Local(Config):
    """Settings of ``--on`` for all launchers."""

    jobs: Annotated[int, Field(ge=1)] | None = None
    threads: Annotated[int, Field(ge=1)] = 1  # a worker for each core, each with one thread, gets most done
    cache_gb: Annotated[FiniteFloat, Field(ge=0)] = LIMIT_GB


class _Ray(_Local):
    address: str = "auto"  # Ray's word for the cluster that runs on this machine
    cpus: Annotated[int, Field(ge=1)] | None = None
    gpus: Annotated[float, Field(gt=0, le=1)] = 1.0  # a cell runs on one GPU


class _Slurm(_Local):
    model_config = ConfigDict(extra="allow")  # options of sbatch


LAUNCHERS: dict[str, type[_Local]] = {LOCAL: _Local, SLURM: _Slurm, RAY: _Ray}


@dataclass(frozen=True)
class Execution:
    """Where and how runs are executed.

    Args:
        out: folder of the table.
        device: ``cpu``, ``cuda`` (runs are distributed over all GPUs), ``cuda:1``, ``mps``.
        jobs: number of runs at the same time.
        cache_gb: maximum size of the folder of cached image features, in 10^9 bytes.
        threads: CPU threads of a run. The last digits of its scores depend on them: they are set
            explicitly, saved with the run, and compared when runs are reused.
        launcher: one of :data:`LAUNCHERS`.
        cluster: for Slurm: options of ``sbatch``; for Ray: ``address`` of the cluster, ``cpus`` and ``gpus``
            of each run.
        trackers: trackers of the training curves, see :mod:`attngraph.experiments.runs.trackers`.
        download: whether missing models may be downloaded, before any run starts.
    """

    out: Path
    device: str = "cpu"
    jobs: int = 1
    cache_gb: float = LIMIT_GB
    threads: int = 1
    launcher: Literal["local", "slurm", "ray"] = "local"
    cluster: dict[str, Any] = field(default_factory=dict)
    trackers: tuple[str, ...] = ()
    download: bool = False

    @property
    def is_local(self) -> bool:
        """Whether runs are executed in processes of this machine."""
        return self.launcher == LOCAL

    def conditions(self) -> dict[str, int]:
        """Conditions that affect the last digits of scores, in addition to the settings and the machine."""
        return {"threads": self.threads, "processes": processes(self.device).num_processes}

    @contextmanager
    def alone(self) -> Iterator[None]:
        """No other command works in the folder while the block runs.

        Raises:
            UserError: another command works in the folder.
        """
        with sole_use(self.out) if processes(self.device).is_main_process else nullcontext():
            yield


def execution_of(options: RunOptions, out: Path) -> Execution:
    """The values of ``--on`` and ``--device``.

    Args:
        options: ``on`` contains a launcher (optional) and settings KEY=VALUE.
        out: folder of the table.

    Raises:
        UserError: a setting is unknown or out of range, the device is not available, or a requirement of the
            launcher is missing. Resources of other machines are not checked here.
    """
    launcher, given = _settings(options.on)
    asked = checked(given, LAUNCHERS[launcher], lambda name: f"--on {launcher} {name}".strip(), REMEDY)
    jobs = asked.jobs
    if launcher == LOCAL:
        check_threads(asked.threads)
        check_device(options.device)
        jobs = jobs or jobs_for(options.device, asked.threads)
    else:
        _check_launcher(launcher, options.device)
    cluster = asked.model_dump(exclude=set(_Local.model_fields), exclude_none=True)
    return Execution(
        out,
        options.device,
        jobs or CLUSTER_JOBS,
        asked.cache_gb,
        asked.threads,
        launcher,
        cluster,
        download=options.download,
    )


def _settings(words: Sequence[str]) -> tuple[str, dict[str, str]]:
    """The launcher and the settings given by words."""
    launcher, given = LOCAL, {}
    for place, word in enumerate(words):
        key, equals, value = (part.strip() for part in word.partition("="))
        key = key.removeprefix("--").replace("-", "_")
        if not equals and place == 0:
            if word not in LAUNCHERS:
                near = did_you_mean(word, LAUNCHERS)
                raise UserError(f"--on {word}: unknown launcher{near}, choose from {', '.join(LAUNCHERS)}")
            launcher = word
        elif not (key and value):
            raise UserError(f"--on {word}: use a name and a value, such as jobs=2")
        elif key in given:
            raise UserError(f"--on {key}={given[key]} and {word} contradict each other: remove one of them")
        else:
            given[key] = value
    return launcher, given


def _check_launcher(launcher: str, device: str) -> None:
    """Raise UserError if a launcher's package or program is missing, or if it does not support the device."""
    if device not in ("cpu", "cuda"):
        raise UserError(f"--on {launcher} needs --device cpu or cuda, got {device}")
    require(PACKAGES[launcher])
    if launcher == SLURM:
        try:
            subprocess.run(["squeue", "--me", "--noheader"], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            raise UserError(
                f"--on {SLURM}: Slurm does not answer on this machine (squeue): run the command on a machine "
                "with sbatch, or remove the option"
            ) from None
    if (count := processes(device).num_processes) > 1:
        raise UserError(
            f"--on {launcher} starts processes itself: run the command without the launcher of PyTorch that "
            f"has started {count}"
        )


def jobs_for(device: str, threads: int = 1) -> int:
    """Number of runs at the same time on this machine: on a CPU, as many as there are cores for their threads
    (at most 8); otherwise one per GPU.
    """
    if device == "cpu":
        return min(8, max(1, (os.cpu_count() or 1) // threads))
    return max(1, torch.cuda.device_count()) if device == "cuda" else 1
