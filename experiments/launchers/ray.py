"""Cells as tasks of a Ray cluster: one on this machine that ends with the command, or one that ``ray start``
has made of several machines.

Ray runs a task again whose worker or machine is lost, on whatever machine has room; the cell continues from
its last saved state. Ray ends its own client where the cluster's head is lost, so that client is a process
beside the command, which tells of it in one line.
"""

from __future__ import annotations

import multiprocessing
import os
import secrets
import shutil
import signal
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from attngraph.errors import UserError
from experiments.errors import first_line
from experiments.launchers.board import Board
from experiments.launchers.shared import EVERY, FarJob, launched
from experiments.training.cells import Cell
from experiments.training.execution import Execution, jobs_for
from experiments.training.launch import OWN_CLUSTER, Launch

RETRIES = 3  # of a cell whose worker or machine is lost
HEAD_SECONDS = 20  # without the head, until it counts as lost
STORE = 80_000_000  # bytes that Ray keeps in shared memory on a cluster of our own: nothing is passed there
LONGEST_FOLDER = 30  # letters of a temporary folder: Ray puts sockets below it, whose names are short
#: What Ray reads from the environment, where the user has not set it.
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_gcs_rpc_server_reconnect_timeout_s": str(HEAD_SECONDS),
    "RAY_memory_monitor_refresh_ms": "0",  # it would kill and repeat without end; of a cluster of our own
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_worker_niceness": "0",  # Ray's 15 lets anything else come first
    "RAY_process_group_cleanup_enabled": "0",  # workers stay in the client's group, and end with it
}


def launch(cells: Sequence[Cell], run: Execution, board: Board) -> None:
    """Run cells as tasks. See :data:`experiments.launchers.LAUNCHERS`."""
    board.title(f"{len(cells)} cells, Ray starts")
    most = jobs_for(run.device, run.jobs, run.threads, here=False)
    with launched(cells, run) as jobs, _Client(jobs.jobs, run, most) as client:
        while jobs.left:
            message = client.receive()
            if isinstance(message, UserError):
                raise message
            if isinstance(message, str):
                board.title(f"{len(cells)} cells on {message}")
            elif message is not None:
                jobs.finish(*message, board)
            jobs.look(board)


class _Client:
    """The process that speaks with Ray. It sends the cluster in words once, then a cell's number and its
    error for every cell that ends, or one error for all.
    """

    def __init__(self, jobs: Sequence[FarJob], run: Execution, most: int):
        self.address, self.joined = run.launch.address, False
        self.folder = Path(tempfile.mkdtemp(prefix="ray-", dir=_short_folder()))
        context = multiprocessing.get_context("spawn")
        self.reading, writing = context.Pipe(duplex=False)
        self.process = context.Process(
            target=_client, args=(list(jobs), run.launch, _resources(run), most, self.folder, writing)
        )
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # the client leaves Ctrl-C to the command
        try:
            self.process.start()
        finally:
            signal.signal(signal.SIGINT, handler)
        writing.close()

    def __enter__(self) -> _Client:
        return self

    def receive(self) -> Any:
        """The next message; None where there is none for a while."""
        try:
            message = self.reading.recv() if self.reading.poll(EVERY) else None
            self.joined |= message is not None
            return message
        except (EOFError, OSError):
            self.process.join()
            if not self.joined:
                return _no_cluster(self.address, "it was tried in vain")
            return _lost(f"exit code {self.process.exitcode}")

    def __exit__(self, *error: Any) -> None:
        try:
            self.process.terminate()  # it ends the cluster of its own, and its tasks on others
            self.process.join(10)
        finally:
            self.process.kill()
            self.process.join()
            _end_group(self.process.pid)
            shutil.rmtree(self.folder, ignore_errors=True)


def _lost(why: str) -> UserError:
    return UserError(
        f"the head of the Ray cluster is lost ({first_line(why)}): what is finished stays; start the cluster "
        "again and give the same command, which goes on from there"
    )


def _no_cluster(address: str, why: str) -> UserError:
    return UserError(
        f"--ray-address {address}: no Ray cluster answers ({why}): run `ray start` on each machine, with the "
        "same versions of Python and Ray, and set RAY_AUTH_MODE=token where the cluster asks for a token"
    )


def _short_folder() -> str | None:
    folder = tempfile.gettempdir()
    return folder if len(folder) <= LONGEST_FOLDER else "/tmp"


def _resources(run: Execution) -> dict[str, float]:
    """What a cell is given, in Ray's words."""
    gpus = (run.launch.gpus or 1.0) if run.device == "cuda" else 0.0
    return {"num_cpus": run.launch.cpus or run.threads, "num_gpus": gpus}


def _client(
    jobs: list[FarJob], launch: Launch, each: dict[str, float], most: int, folder: Path, writing: Any
) -> None:
    """What the client process does."""
    os.setsid()  # one group for this process and all that it starts, which the command ends
    _end_group_with_parent()
    signal.signal(signal.SIGTERM, _stop)
    os.environ |= SETTINGS | os.environ
    said = os.open(folder / "said", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):  # Ray and its parts print much
        os.dup2(said, stream)
    with suppress(BrokenPipeError):
        try:
            _run(jobs, launch, each, most, folder, writing)
        except UserError as error:
            writing.send(error)


def _stop(*_: Any) -> None:
    raise SystemExit(1)  # Ray's own handler then ends the cluster, or leaves it


def _run(
    jobs: list[FarJob], launch: Launch, each: dict[str, float], most: int, folder: Path, writing: Any
) -> None:
    ray = _joined(launch, folder)
    writing.send(_about(ray, launch, each))
    run = ray.remote(max_calls=1, max_retries=RETRIES, **each)(_cell)  # a process for each cell
    waiting, running = list(reversed(jobs)), {}
    while waiting or running:
        while waiting and len(running) < most:
            job = waiting.pop()
            running[run.remote(job)] = job.number
        for done in ray.wait(list(running), timeout=EVERY)[0]:
            writing.send((running.pop(done), _error(ray, done)))


def _cell(job: FarJob) -> UserError | None:
    """A task."""
    return job()


def _joined(launch: Launch, folder: Path) -> Any:
    """Ray, joined to the cluster."""
    options: dict[str, Any] = {}
    if launch.address == OWN_CLUSTER:  # with a secret of its own: Ray's would stay in the user's home
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        options = dict(include_dashboard=False, object_store_memory=STORE, _temp_dir=str(folder))
    import ray  # reads its settings from the environment

    try:
        ray.init(address=launch.address, log_to_driver=False, logging_level="ERROR", **options)
    except Exception as error:  # of many kinds
        raise _no_cluster(launch.address, first_line(str(error))) from None
    return ray


def _about(ray: Any, launch: Launch, each: dict[str, float]) -> str:
    """The cluster in words.

    Raises:
        UserError: none of its machines can run a cell.
    """
    has = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus, gpus = (sum(one.get(kind, 0) for one in has) for kind in ("CPU", "GPU"))
    about = f"Ray, {len(has)} machine{'s' if len(has) > 1 else ''}, {cpus:g} cores, {gpus:g} GPUs"
    if not any(
        one.get("CPU", 0) >= each["num_cpus"] and one.get("GPU", 0) >= each["num_gpus"] for one in has
    ):
        raise UserError(
            f"no machine of the cluster ({about}) has what a cell is given, {each['num_cpus']:g} cores and "
            f"{each['num_gpus']:g} GPUs: change --cpus-per-cell, --gpus-per-cell or --device"
        )
    return about


def _error(ray: Any, done: Any) -> UserError | None:
    """What a task has ended with.

    Raises:
        UserError: the machine of this command is lost.
    """
    try:
        return ray.get(done)
    except ray.exceptions.LocalRayletDiedError as error:
        raise _lost(str(error)) from None
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError) as error:
        if not _is_alive(ray):
            raise _lost(str(error)) from None
        return UserError(
            f"its worker died {RETRIES + 1} times ({first_line(str(error))}; out of memory?): run the same "
            "command again to go on"
        )
    except ray.exceptions.RayError as error:
        return UserError(f"Ray could not run it: {str(error).strip().splitlines()[-1]}")


def _is_alive(ray: Any) -> bool:
    """Whether the cluster knows of the machine of this command."""
    own = ray.get_runtime_context().get_node_id()
    return any(node["NodeID"] == own and node["Alive"] for node in ray.nodes())


def _end_group_with_parent() -> None:
    """Ends this process and what it has started as soon as the command has ended, however."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        parent.join()
        os.killpg(0, signal.SIGKILL)

    if parent is not None:
        threading.Thread(target=wait, daemon=True).start()


def _end_group(group: int) -> None:
    """Ends what a client has left: Ray's agents outlive a cluster that was killed."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)
