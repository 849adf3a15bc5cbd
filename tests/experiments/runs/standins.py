"""Cells for engines, small data, and a plugin that puts in place of every run what its label says."""

from __future__ import annotations

from pathlib import Path

from attngraph.experiments.data.drawn import Sizes, write_scenes
from attngraph.experiments.runs.engines import FOLDER, Job
from attngraph.experiments.runs.execution import Execution
from attngraph.experiments.runs.experiment import Cell
from tests.experiments.runs.small import cell

STAND_IN = """
import os, signal, time
from attngraph.errors import UserError
from attngraph.experiments.runs import engines

def run_cell(cell, run, on_step):
    folder = cell.folder(run.out)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "began", "a") as file:
        file.write(f"{os.getpid()}\\n")
    is_first = len((folder / "began").read_text().split()) == 1
    on_step(3)
    if cell.label == "refused":
        raise UserError("no such model")
    if cell.label == "dies" or cell.label == "dies-once" and is_first:
        print("out of luck", file=__import__("sys").stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    if cell.label == "preempted" and is_first:
        os.kill(os.getpid(), signal.SIGUSR2)
        time.sleep(60)
    if cell.label.startswith("sleeps"):
        time.sleep(600)
    return {"scores": {"vqa.accuracy": 0.5}, "process": os.getpid(), "place": os.getcwd()}

engines.run_cell = run_cell
"""


def write_data(folder: Path) -> Path:
    write_scenes(folder, 0, Sizes((24, 8, 12), (24, 8, 12), (8, 4, 4)))
    return folder


def untrained(label: str, data: Path, **more) -> Cell:
    return cell(label, method="majority", data=data, eval_examples=4, **more)


def jobs_of(run: Execution, *labels: str) -> list[Job]:
    """What an engine is given for stand-ins of these labels."""
    (run.out / FOLDER).mkdir(parents=True, exist_ok=True)
    plugin = run.out / "stand_in.py"
    plugin.write_text(STAND_IN)
    return [Job(untrained(label, Path("data")), run, (plugin,), run.out) for label in labels]


def begun(job: Job) -> list[int]:
    """The processes that have begun a stand-in."""
    file = job.cell.folder(job.run.out) / "began"
    return [int(process) for process in file.read_text().split()] if file.exists() else []
