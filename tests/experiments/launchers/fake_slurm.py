"""A Slurm of one machine, without rights, queues or limits: ``sbatch``, ``srun``, ``sacct``, ``scancel`` and
``scontrol requeue`` as scripts in a folder, which keep what they know in files.

As Slurm does, it runs the tasks of an array, so many at a time; runs a task again that asks for it, or whose
machine has failed (here: whose script was ended by SIGKILL, once for each task); and tells how tasks ended.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

COMMANDS = ("sbatch", "srun", "sacct", "scancel", "scontrol")


def install(folder: Path) -> Path:
    """Writes the commands; the folder that belongs on the PATH."""
    place = folder / "bin"
    place.mkdir(parents=True)
    (folder / "jobs").mkdir()
    for name in COMMANDS:
        script = place / name
        script.write_text(
            f"#!{sys.executable} -S\nimport runpy, sys\n"
            f"sys.argv[1:1] = [{name!r}, {str(folder / 'jobs')!r}]\n"
            f"runpy.run_path({__file__!r}, run_name='__main__')\n"
        )
        script.chmod(0o755)
    return place


def sbatch(jobs: Path, script: str) -> None:
    """Takes an array, or one job, and leaves a process that runs it."""
    text = Path(script).read_text()
    if "--partition=nowhere" in text:
        sys.exit("sbatch: error: invalid partition specified: nowhere")
    number = str(len(list(jobs.glob("*.sh"))) + 1)
    copy = jobs / f"{number}.sh"
    copy.write_text(text)
    array = re.search(r"--array=0-(\d+)%(\d+)", text)
    names = [f"{number}_{k}" for k in range(int(array[1]) + 1)] if array else [number]
    for name in names:
        say(jobs, name, "PENDING")
    code = f"import runpy; runpy.run_path({__file__!r})['control']({str(jobs)!r}, {number!r}, {names}, "
    code += f"{int(array[2]) if array else 1})"
    with open(jobs / "control.log", "a") as log:
        subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    print(f"Submitted batch job {number}")


def control(folder: str, number: str, names: list[str], most: int) -> None:
    """Runs the tasks of a job."""
    jobs, waiting, running = Path(folder), list(names), {}
    while waiting or running:
        while waiting and len(running) < most:
            name = waiting.pop(0)
            if state(jobs, name) == "CANCELLED":
                continue
            _, _, task = name.partition("_")
            more = {"SLURM_ARRAY_JOB_ID": number, "SLURM_ARRAY_TASK_ID": task} if task else {}
            running[name] = subprocess.Popen(
                ["bash", jobs / f"{number}.sh"],
                env={**os.environ, "SLURM_JOB_ID": name, **more},
                start_new_session=True,
            )
            (jobs / f"{name}.pid").write_text(str(running[name].pid))
            say(jobs, name, "RUNNING")
        for name, process in list(running.items()):
            if process.poll() is None:
                continue
            del running[name]
            again, failed = jobs / f"{name}.requeue", jobs / f"{name}.failed"
            if again.exists():
                again.unlink()
                waiting.append(name)
            elif process.returncode in (137, -9) and not failed.exists() and state(jobs, name) == "RUNNING":
                failed.touch()  # "its machine failed"
                waiting.append(name)
            elif state(jobs, name) == "RUNNING":
                say(jobs, name, "COMPLETED" if process.returncode == 0 else "FAILED")
        time.sleep(0.05)


def srun(jobs: Path, *words: str) -> None:
    """Runs a command with its output in files."""
    files, words = {}, list(words)
    while words[0].startswith("--"):
        option = words.pop(0)
        if option in ("--output", "--error"):
            files[option] = words.pop(0)
    task = os.environ.get("SLURM_ARRAY_TASK_ID", "")
    of = {
        "%A": os.environ.get("SLURM_ARRAY_JOB_ID", ""),
        "%a": task,
        "%t": "0",
        "%j": os.environ["SLURM_JOB_ID"],
    }
    for stream, option in ((1, "--output"), (2, "--error")):
        name = re.sub("%[Aajt]", lambda found: of[found[0]], files[option])
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), stream)
    os.execvp(words[0], words)


def sacct(jobs: Path, *words: str) -> None:
    print("JobID|State|NodeList")
    for file in sorted(jobs.glob("*.state")):
        print(f"{file.stem}|{file.read_text()}|here")


def scancel(jobs: Path, *names: str) -> None:
    for name in names:
        for file in (*jobs.glob(f"{name}.state"), *jobs.glob(f"{name}_*.state")):
            if file.read_text() not in ("PENDING", "RUNNING"):
                continue
            was = file.read_text()
            say(jobs, file.stem, "CANCELLED")
            if was == "RUNNING":
                end(jobs, file.stem)
    with open(jobs / "cancelled", "a") as log:
        log.write("\n".join((*names, "")))


def scontrol(jobs: Path, what: str, name: str) -> None:
    assert what == "requeue"
    (jobs / f"{name}.requeue").touch()


def end(jobs: Path, name: str) -> None:
    """Ends all processes of a task."""
    with suppress(ProcessLookupError):
        os.killpg(int((jobs / f"{name}.pid").read_text()), signal.SIGKILL)


def state(jobs: Path, name: str) -> str:
    return (jobs / f"{name}.state").read_text()


def say(jobs: Path, name: str, what: str) -> None:
    part = jobs / f"{name}.{os.getpid()}"
    part.write_text(what)
    part.replace(jobs / f"{name}.state")


if __name__ == "__main__":
    _, name, folder, *rest = sys.argv
    globals()[name](Path(folder), *rest)
