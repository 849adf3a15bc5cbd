"""Which launcher runs the cells of a command, and what each cell is given: the options for more than one
machine.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import re
from dataclasses import dataclass

from attngraph.errors import UserError

LOCAL, SLURM, RAY = "local", "slurm", "ray"
NAMES = (LOCAL, SLURM, RAY)
PACKAGES = {SLURM: "submitit", RAY: "ray"}  # what a launcher needs; an extra of its name brings it
OWN_CLUSTER = "local"  # Ray's word for a cluster that ends with the command
#: Options of sbatch that the launcher sets itself, and submitit's own.
TAKEN = ("array", "output", "error", "cpus_per_task", "gpus_per_node", "ntasks", "ntasks_per_node", "nodes")
TAKEN += ("array_parallelism", "signal", "signal_delay_s", "setup", "teardown", "srun_args", "use_srun")
TAKEN += ("num_gpus", "stderr_to_stdout", "map_count", "additional_parameters", "open_mode")


@dataclass(frozen=True)
class Launch:
    """How cells come to the machines that run them.

    Args:
        name: one of :data:`NAMES`.
        cpus: cores that a cell is given; None for as many as it has threads.
        gpus: GPUs that a cell is given, at most one; a share where several fit on one; None for one where the
            device is ``cuda``.
        address: of Ray's cluster; :data:`OWN_CLUSTER` for one on this machine that ends with the command.
        slurm: options of ``sbatch``, as names and values.
    """

    name: str = LOCAL
    cpus: int | None = None
    gpus: float | None = None
    address: str = OWN_CLUSTER
    slurm: tuple[tuple[str, str], ...] = ()

    @property
    def is_local(self) -> bool:
        """Whether cells run in processes that the command starts itself."""
        return self.name == LOCAL


def add_launch_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of every command whose cells can run on several machines."""
    add = parser.add_argument
    add(
        "--launcher",
        choices=NAMES,
        default=LOCAL,
        metavar="NAME",
        help=f"Run cells in this way: {LOCAL} (processes of this machine), {SLURM} (an array of jobs) or "
        f"{RAY} (tasks of a Ray cluster).",
    )
    add(
        "--cpus-per-cell",
        type=int,
        metavar="N",
        help=f"Put each cell on this many cores, with {SLURM} or {RAY}. Default: as many as --threads.",
    )
    add(
        "--gpus-per-cell",
        type=float,
        metavar="SHARE",
        help=f"Put each cell on this share of a GPU, at most 1, with {RAY} and --device cuda. Default: 1.",
    )
    add(
        "--ray-address",
        metavar="ADDRESS",
        help=f"Join the Ray cluster at this address (auto: that of this machine), with {RAY}. Default: start "
        "one on this machine that ends with the command.",
    )
    add(
        "--slurm",
        action="append",
        metavar="KEY=VALUE",
        help=f"Set an option of sbatch, such as partition=gpu, time=12:00:00 or mem=32GB, with {SLURM} "
        "(repeatable).",
    )


def launch_of(args: argparse.Namespace) -> Launch:
    """What the options of :func:`add_launch_arguments` ask for.

    Raises:
        UserError: a value is out of range, goes with another launcher, or the launcher's package is missing.
    """
    name, far = args.launcher, (SLURM, RAY)
    _belongs("--cpus-per-cell", args.cpus_per_cell, name, far)
    _belongs("--gpus-per-cell", args.gpus_per_cell, name, (RAY,))
    _belongs("--ray-address", args.ray_address, name, (RAY,))
    _belongs("--slurm", args.slurm, name, (SLURM,))
    if args.cpus_per_cell is not None and args.cpus_per_cell < args.threads:
        raise UserError(
            f"--cpus-per-cell must be at least --threads ({args.threads}), got {args.cpus_per_cell}"
        )
    if args.gpus_per_cell is not None:
        if not 0 < args.gpus_per_cell <= 1:
            raise UserError(
                f"--gpus-per-cell must be above 0 and at most 1, got {args.gpus_per_cell:g}: a cell runs on "
                "one GPU; several train one cell under torchrun"
            )
        if not args.device.startswith("cuda"):
            raise UserError(f"--gpus-per-cell changes nothing with --device {args.device}: leave it out")
    if args.ray_address is not None and not args.ray_address.strip():
        raise UserError("--ray-address is empty: give auto, or the address that `ray start` printed")
    if name != LOCAL:
        if args.device not in ("cpu", "cuda"):
            raise UserError(f"--launcher {name} takes --device cpu or cuda, got {args.device}")
        _check_installed(name)
    return Launch(
        name,
        args.cpus_per_cell,
        args.gpus_per_cell,
        args.ray_address or OWN_CLUSTER,
        tuple(_option(given) for given in args.slurm or ()),
    )


def _belongs(option: str, value: object, name: str, launchers: tuple[str, ...]) -> None:
    if value is not None and name not in launchers:
        given = " ".join(map(str, value)) if isinstance(value, list) else value
        raise UserError(
            f"{option} {given} changes nothing with --launcher {name}: leave it out, or give --launcher "
            f"{' or '.join(launchers)}"
        )


def _check_installed(name: str) -> None:
    package = PACKAGES[name]
    if not _is_installed(package):
        raise UserError(
            f"--launcher {name} needs the package {package}: run `pip install 'attngraph[{name}]'`"
        )


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _option(given: str) -> tuple[str, str]:
    """An option of ``sbatch`` as name and value."""
    key, equals, value = (part.strip() for part in given.partition("="))
    key = key.removeprefix("--").replace("-", "_")
    if not (equals and value and re.fullmatch("[a-z][a-z_]*", key)):
        raise UserError(f"--slurm {given}: give an option of sbatch and its value, such as partition=gpu")
    if key in TAKEN:
        raise UserError(f"--slurm {given}: the launcher sets {key} itself; leave it out")
    if key == "time":
        minutes(value)
    return key, value


def minutes(time: str) -> int:
    """Slurm's way to write a time (``90``, ``90:00``, ``12:00:00``, ``2-00``, ``2-12:30``, ``2-12:30:00``) in
    minutes, rounded up.

    Raises:
        UserError: it is no time.
    """
    match = re.fullmatch(r"(?:(\d{1,3})-)?(\d{1,6})(?::(\d{1,2}))?(?::(\d{1,2}))?", time, re.ASCII)
    if match is None:
        raise UserError(
            f"--slurm time={time}: give minutes, or hours as in 12:00:00, or days as in 2-00:00:00"
        )
    days, *parts = match.groups()
    numbers = [int(part) for part in parts if part is not None]
    if days is not None:  # days-hours[:minutes[:seconds]]
        hours, mins, seconds = (*numbers, 0, 0)[:3]
    elif len(numbers) == 3:
        hours, mins, seconds = numbers
    else:  # minutes[:seconds]
        hours, (mins, seconds) = 0, (*numbers, 0)[:2]
    total = math.ceil(((int(days or 0) * 24 + hours) * 60) + mins + seconds / 60)
    if total < 1:
        raise UserError(f"--slurm time={time}: a cell needs more than no time")
    return total
