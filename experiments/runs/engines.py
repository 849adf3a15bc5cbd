"""Engines, which distribute the runs of a table to processes. All give the same scores.

An engine is a context manager that receives :class:`Job` objects and returns one
:class:`concurrent.futures.Future` for each, with the outcome of the run: its scores, or an error. A failed
run does not affect the others. When the block ends, everything started by the engine ends, too; runs continue
from their last saved state next time.

Jobs and the command share a folder ``.launch`` in the folder of results, on all machines: a lock for each
active run, and a file with its current step.
"""

from __future__ import annotations

import logging
import multiprocessing
import multiprocessing.connection
import os
import queue
import signal
import socket
import subprocess
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from filelock import FileLock, Timeout

from attngraph.errors import UserError
from attngraph.experiments.base.files import write_text
from attngraph.experiments.base.messages import first_line
from attngraph.experiments.base.progress import note
from attngraph.experiments.base.stopping import SIGNALS, end_with_parent
from attngraph.experiments.runs.cells import run_cell
from attngraph.experiments.runs.device import check_device, keep_freed_memory
from attngraph.experiments.runs.execution import LOCAL, RAY, SLURM, Execution
from attngraph.experiments.runs.experiment import Cell
from attngraph.experiments.runs.plugins import load_plugins

Outcome = dict[str, Any] | UserError  # the content of a cell's scores.json, or what went wrong
Engine = Callable[[Sequence["Job"], Execution], AbstractContextManager[list[Future[Outcome]]]]

FOLDER = ".launch"
EVERY = 1.0  # seconds between two looks at what runs elsewhere, and between two reports of a worker
WAIT = 120.0  # seconds in which a worker that an earlier command has left has ended


def prepare_process() -> None:
    """Settings of every process that executes runs."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # else it warns where a process is forked
    torch.set_flush_denormal(True)
    keep_freed_memory()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message="Java not found")  # said once, by the parent
    # Names that transformers has deprecated and PEFT calls too, and DDP's hint on speed.
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing.* is deprecated")
    warnings.filterwarnings("ignore", message=".*find_unused_parameters.*")


@dataclass(frozen=True, eq=False)  # as cells
class Job:
    """The task of a worker process.

    Args:
        cell: the run; its paths may be relative.
        run: where and how it is executed; its paths may be relative.
        plugins: files to load first.
        place: working folder of the command.
    """

    cell: Cell
    run: Execution
    plugins: tuple[Path, ...]
    place: Path

    def file(self, ending: str) -> Path:
        """A file of this run in the folder shared by all machines."""
        return self.run.out / FOLDER / f"{'-'.join(self.cell.folder(Path()).parts[1:])}.{ending}"

    def step(self) -> int:
        """The last reported step of the run."""
        with suppress(OSError, ValueError):
            return int(self.file("step").read_text())
        return 0

    def __call__(self, device: str | None = None) -> Outcome:
        """Execute the run, on this device if the command names several."""
        with suppress(OSError):
            os.chdir(self.place)
        if not self.file("lock").parent.is_dir():
            return UserError(
                f"{self.run.out.absolute()} does not exist on {socket.gethostname()}: start the command, and "
                "put --out, in a folder shared by all machines"
            )
        prepare_process()
        try:
            load_plugins(self.plugins)
            run = replace(self.run, device=device or self.run.device)
            check_device(run.device)
            with FileLock(self.file("lock")).acquire(timeout=WAIT):
                return run_cell(self.cell, run, self._counter())
        except UserError as error:
            return error
        except Timeout:  # one that has noticed nothing of the end of an earlier command
            return UserError("a worker of an earlier command still runs it: end that, or use another --out")
        except OSError as error:
            return UserError(f"{error}: check the free disk space and your permissions, then run again")
        except Exception as error:  # a fault of the code, such as a plugin's
            traceback.print_exc()
            place = traceback.extract_tb(error.__traceback__)[-1]
            return UserError(
                f"{type(error).__name__}: {first_line(error)} ({place.filename}, line {place.lineno}): "
                "correct the code there; its traceback is above, or in the job's log"
            )

    def _counter(self) -> Callable[[int], None]:
        written = 0.0

        def count(step: int) -> None:
            nonlocal written
            if time.monotonic() - written >= EVERY:
                written = time.monotonic()
                with suppress(OSError):  # a full disk shows where it matters
                    self.file("step").write_text(str(step))

        return count

    def checkpoint(self) -> Any:
        """The job that submitit resubmits before Slurm ends it: the same job, since its states are saved."""
        from submitit.helpers import DelayedSubmission

        # Slurm ends this process and its scontrol once it has been told; scontrol has to return first.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        return DelayedSubmission(self)


# ---- processes of this machine --------------------------------------------------------------------------


@contextmanager
def local(jobs: Sequence[Job], run: Execution) -> Iterator[list[Future[Outcome]]]:
    """A process for each run, so that peak memory is measured per run, and runs do not affect each other."""
    most = min(run.jobs, len(jobs))
    context, lock, is_over = _context(), threading.Lock(), threading.Event()
    running: set[Any] = set()
    slots: queue.SimpleQueue[int] = queue.SimpleQueue()
    for slot in range(most):
        slots.put(slot)

    def in_process(job: Job) -> Outcome:
        slot = slots.get()
        try:
            reading, writing = context.Pipe(duplex=False)
            # No daemon: it may start loaders.
            device = f"cuda:{slot % torch.cuda.device_count()}" if run.device == "cuda" else run.device
            process = context.Process(target=_work, args=(job, device, writing))
            with lock:  # multiprocessing asks about processes of all threads when one starts
                if is_over.is_set():
                    return UserError("the command has ended")
                process.start()
                running.add(process)
            writing.close()
            outcome = None
            with suppress(EOFError, OSError):  # it died, perhaps in the middle of a message
                outcome = reading.recv()
            multiprocessing.connection.wait([process.sentinel])
            with lock:
                process.join()
                running.discard(process)
            if outcome is not None:
                return outcome
            again = "run the same command again to continue"
            if process.exitcode < 0:  # killed by a signal
                why, remedy = "out of memory?", f"{again}, perhaps with --on jobs=1"
            else:
                why, remedy = "the error is above", f"correct that, then {again}"
            return UserError(f"worker died (exit code {process.exitcode}; {why}): {remedy}")
        finally:
            slots.put(slot)

    pool = ThreadPoolExecutor(most)
    try:
        yield [pool.submit(in_process, job) for job in jobs]
    finally:
        with lock:
            is_over.set()
            for process in running:
                process.kill()
        pool.shutdown(cancel_futures=True)


def _context() -> Any:
    """Start method of workers: from a process with all imports, if the system supports it; else a new
    process.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def begin_imports() -> None:
    """Let the process from which workers start import all modules, while this process prepares the data."""
    if _context().get_start_method() == "forkserver":
        from multiprocessing import forkserver

        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is this process's
        forkserver.ensure_running()
        signal.signal(signal.SIGINT, before)


def _work(job: Job, device: str, writing: Any) -> None:
    """Main function of a worker process."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    with suppress(BrokenPipeError):  # the parent has ended, and this process is about to
        writing.send(job(device))


# ---- jobs of Slurm ---------------------------------------------------------------------------------------

SLURM_JOBS = "slurm-jobs"  # names the jobs of a command in FOLDER, for the next one if it is killed
TIME = "24:00:00"  # of a job, unless --on time=... says otherwise
AGAIN = 20  # times that a job may ask to be run again
MOST = 1000  # jobs of an array; Slurm's own limit is 1,001 where nobody has changed it
GPUS = {"gres", "gpus", "gpus_per_node", "gpus_per_task"}  # options of sbatch that give a job its GPU
QUEUE = 10.0  # seconds between two looks at Slurm's queue
LATE = 30.0  # seconds after which a result of a job that has left the queue counts as lost


@contextmanager
def slurm(jobs: Sequence[Job], run: Execution) -> Iterator[list[Future[Outcome]]]:
    """Arrays of jobs, through submitit. A job that Slurm ends (after a machine failure, preemption or a time
    limit) is run again and continues its run.
    """
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    folder, stop = run.out.absolute() / FOLDER, threading.Event()
    executor = _submitter(folder / "slurm", run)
    left: dict[Any, Future[Outcome]] = {}  # submitit's jobs
    watch = threading.Thread(target=_watch, args=(left, folder / "slurm", stop))
    try:
        for start in range(0, len(jobs), MOST):
            with executor.batch():
                sent = [executor.submit(job) for job in jobs[start : start + MOST]]
            left |= {job: Future() for job in sent}
            names = dict.fromkeys(job.job_id.partition("_")[0] for job in left)
            write_text(folder / SLURM_JOBS, " ".join(names))
        note(f"Slurm jobs: {' '.join(names)}")
        futures = list(left.values())
        watch.start()
        yield futures
    except (FailedJobError, FailedSubmissionError) as error:
        said = [line for line in str(error).splitlines() if line.strip()]
        why = next((line for line in said if "error" in line.lower()), first_line(error))
        raise UserError(f"--on {SLURM}: sbatch rejected the jobs ({why.strip()}): change --on") from None
    finally:
        stop.set()
        if watch.ident is not None:
            watch.join()
        _cancel([job.job_id for job in left])
        (folder / SLURM_JOBS).unlink(missing_ok=True)


def _submitter(folder: Path, run: Execution) -> Any:
    """The executor that submits jobs. The user's options are passed to sbatch unchanged."""
    import submitit

    logging.getLogger("submitit").setLevel(logging.ERROR)
    options = {"job_name": "attngraph", "time": TIME, "cpus_per_task": run.threads, **run.cluster}
    if run.device == "cuda" and not GPUS & options.keys():
        options["gpus_per_node"] = 1
    executor = submitit.SlurmExecutor(folder, max_num_timeout=AGAIN)
    executor.update_parameters(
        time=1,  # so every request to be run again is counted
        array_parallelism=run.jobs,
        srun_args=[f"--cpus-per-task={options['cpus_per_task']}"],  # which it does not inherit
        additional_parameters=options,
    )
    return executor


def _watch(left: dict[Any, Future[Outcome]], folder: Path, stop: threading.Event) -> None:
    """Set the results of jobs that have ended, until no job is left. A job has ended when its result exists,
    or when it has left the queue without one. (``sacct`` would need an accounting database.)
    """
    queued, looked = {job.job_id for job in left}, time.monotonic()
    gone: dict[Any, float] = {}  # jobs that have left the queue, and since when
    while left and not stop.wait(EVERY):
        if time.monotonic() - looked >= QUEUE:
            queued, looked = _queued(queued), time.monotonic()
        there = set(os.listdir(folder))
        for job in list(left):
            if job.paths.result_pickle.name in there:
                left.pop(job).set_result(_result(job))
            elif job.job_id in queued:
                gone.pop(job, None)
            elif time.monotonic() - gone.setdefault(job, time.monotonic()) > LATE:
                left.pop(job).set_result(_result(job, "left the queue without a result"))


def _queued(before: set[str]) -> set[str]:
    """The user's pending and running jobs; the previous ones if Slurm does not answer."""
    words = ["squeue", "--me", "--array", "--noheader", "--format=%i"]
    asked = subprocess.run(words, check=False, capture_output=True, text=True)
    return set(asked.stdout.split()) if asked.returncode == 0 else before


def _result(job: Any, why: str = "") -> Outcome:
    """The outcome of a job; an error if it failed, or ended without a result for a known reason."""
    if not why:
        try:
            return job.result()
        except Exception as error:  # of many kinds
            why = first_line(error)
    last = (job.stderr() or "").strip().rpartition("\n")[2]
    said = f"{why}; last output: {last}" if last else why
    return UserError(f"Slurm job {job.job_id} failed ({said}): run the same command again to continue")


def cancel_earlier(out: Path) -> None:
    """Cancel the jobs that a killed command has left in Slurm's queue."""
    file = out / FOLDER / SLURM_JOBS
    if file.is_file():
        names = file.read_text().split()
        note(f"cancelling Slurm jobs {', '.join(names)} of an earlier command")
        _cancel(names)
        file.unlink()


def _cancel(names: Sequence[str]) -> None:
    if names:
        with suppress(OSError):  # no Slurm here
            subprocess.run(["scancel", *names], check=False, capture_output=True)


# ---- tasks of Ray ----------------------------------------------------------------------------------------

RETRIES = 3  # of a cell whose worker or machine is lost


@contextmanager
def ray(jobs: Sequence[Job], run: Execution) -> Iterator[list[Future[Outcome]]]:
    """Tasks of a Ray cluster of one or several machines, started by ``ray start``. Ray runs as many tasks as
    resources permit, and repeats a task whose worker or machine is lost.
    """
    each = {"num_cpus": run.cluster.get("cpus", run.threads)}
    each["num_gpus"] = run.cluster.get("gpus", 1) if run.device == "cuda" else 0
    library = _joined(run.cluster.get("address", "auto"))
    machines = [node["Resources"] for node in library.nodes() if node["Alive"]]
    if not any(
        has.get("CPU", 0) >= each["num_cpus"] and has.get("GPU", 0) >= each["num_gpus"] for has in machines
    ):
        raise UserError(
            f"no machine of the Ray cluster has the resources for a run, {each['num_cpus']:g} cores and "
            f"{each['num_gpus']:g} GPUs: change --on cpus=..., gpus=... or --device"
        )
    function = library.remote(max_calls=1, max_retries=RETRIES, **each)(_task)  # a process for each cell
    tasks = [function.remote(job) for job in jobs]
    try:
        yield [task.future() for task in tasks]
    finally:
        for task in tasks:
            library.cancel(task, force=True)


def _task(job: Job) -> Outcome:
    return job()


def _joined(address: str) -> Any:
    """Ray, connected to a cluster until the process ends.

    Raises:
        UserError: no cluster answers.
    """
    import ray as library  # an extra

    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    host, _, port = address.rpartition(":")
    try:
        if port.isdigit() and "/" not in host:  # Ray itself would try for many minutes
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        library.init(address=address, log_to_driver=False, logging_level="ERROR", ignore_reinit_error=True)
    except Exception as error:  # of many kinds
        raise UserError(
            f"--on address={address}: no Ray cluster answers ({first_line(error)}): run `ray start` on "
            "each machine, with the same versions of Python and Ray, and set RAY_AUTH_MODE=token if the "
            "cluster requires a token"
        ) from None
    for number, handler in handlers.items():  # Ray has its own for SIGTERM
        signal.signal(number, handler)
    return library


ENGINES: dict[str, Engine] = {LOCAL: local, SLURM: slurm, RAY: ray}
