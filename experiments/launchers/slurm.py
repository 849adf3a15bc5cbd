"""Cells as an array of Slurm's jobs, one each, through submitit.

The command submits, waits and reports. A job that Slurm runs again (its machine failed, it had to make room,
its time was over) continues its cell from the last saved state. Whatever ends the command cancels its jobs;
where it was killed, the same command cancels them first.
"""

from __future__ import annotations

import logging
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from attngraph.errors import UserError
from experiments.errors import first_line
from experiments.files import write_text
from experiments.launchers.board import Board
from experiments.launchers.shared import EVERY, SLURM_JOBS, FarJob, launched
from experiments.training.cells import Cell
from experiments.training.execution import Execution, jobs_for
from experiments.training.launch import minutes

TIME = "24:00:00"  # of a job, unless --slurm time=... says otherwise
TIMES = 10  # that a job may be begun again when its time is over
MOST = 1000  # jobs of an array; Slurm's own limit is 1,001 where nobody has changed it


def launch(cells: Sequence[Cell], run: Execution, board: Board) -> None:
    """Run cells as jobs. See :data:`experiments.launchers.LAUNCHERS`."""
    board.title(f"{len(cells)} cells for Slurm")
    with launched(cells, run) as jobs:
        executor = _executor(jobs.folder / "jobs", run)
        sent: dict[int, Any] = {}
        try:
            for start in range(0, len(cells), MOST):
                part = jobs.jobs[start : start + MOST]
                sent |= zip(range(start, start + len(part)), _submitted(executor, part))
                names = sorted({job.job_id.partition("_")[0] for job in sent.values()})
                write_text(jobs.folder / SLURM_JOBS, "\n".join(names))
            board.title(f"{len(cells)} cells, Slurm's jobs {', '.join(names)}")
            while jobs.left:
                for number in sorted(jobs.left):
                    if sent[number].done():
                        jobs.finish(number, _error(sent[number]), board)
                jobs.look(board)
                time.sleep(EVERY / 2)
        finally:
            left = [sent[number].job_id for number in sorted(jobs.left) if number in sent]
            if left:
                with suppress(OSError):
                    subprocess.run(["scancel", *left], check=False, capture_output=True)


class _Work:
    """What a job runs; submitit asks for its ``checkpoint`` when Slurm is about to end it."""

    def __call__(self, job: FarJob) -> UserError | None:
        return job()

    def checkpoint(self, job: FarJob) -> Any:
        """The same again: the cell's states are on the disk."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, job)


def _executor(folder: Any, run: Execution) -> Any:
    """What submits jobs.

    Raises:
        UserError: there is no Slurm here.
    """
    import submitit

    logging.getLogger("submitit").setLevel(logging.ERROR)
    given = {"time": TIME, **dict(run.launch.slurm)}
    known = submitit.SlurmExecutor._valid_parameters()
    options: dict[str, Any] = {key: value for key, value in given.items() if key in known}
    more = {key: value for key, value in given.items() if key not in known}
    options |= {"job_name": options.get("job_name", "attngraph"), "time": minutes(given["time"])}
    options |= {"cpus_per_task": run.launch.cpus or run.threads}
    options |= {"array_parallelism": jobs_for(run.device, run.jobs, run.threads, here=False)}
    if run.device == "cuda" and not {"gres", "gpus", "gpus_per_task"} & given.keys():
        options["gpus_per_node"] = 1
    if more:
        options["additional_parameters"] = more
    try:
        executor = submitit.SlurmExecutor(folder, max_num_timeout=TIMES)
    except RuntimeError:
        raise UserError(
            "--launcher slurm: this machine has no Slurm (no srun on the PATH): run the command where sbatch "
            "works, or leave the option out"
        ) from None
    executor.update_parameters(**options)
    return executor


def _submitted(executor: Any, jobs: list[FarJob]) -> list[Any]:
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    try:
        return executor.map_array(_Work(), jobs)
    except (FailedJobError, FailedSubmissionError, OSError) as error:
        said = [line for line in str(error).splitlines() if line.strip()]
        why = next((line for line in said if "error" in line.lower()), first_line(str(error)))
        raise UserError(f"--launcher slurm: sbatch refused the jobs ({why.strip()})") from None


def _error(job: Any) -> UserError | None:
    """What a job has ended with."""
    from submitit.core.utils import FailedJobError, UncompletedJobError

    try:
        return job.result()
    except (FailedJobError, UncompletedJobError):
        said = [line for line in (job.stderr() or "").splitlines() if line.strip()]
        why = f"; it said last: {said[-1]}" if said else ""
        return UserError(
            f"Slurm's job {job.job_id} ended without a result (state {job.state}{why}): run the same command "
            "again to go on"
        )
