"""The options that several commands share: the model, how runs are run, a table's runs, what is looked at.

Types and texts only: names are checked where a command runs, so that ``--help`` imports nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from attngraph.experiments.base.arguments import option
from attngraph.experiments.base.shipped import DEFAULT
from attngraph.experiments.base.types import Names, Positive, Seed, Word

HUB = "hub:"  # before a name: it may be fetched
SET = {"default": (), "metavar": "NAME=VALUE", "flag": "--set", "nargs": None}  # an option of --set
#: Words that one might take for options -> the field of an experiment that --set sets.
FIELDS = {
    "lr": "recipe.learning_rate",
    "learning-rate": "recipe.learning_rate",
    "steps": "recipe.steps",
    "epochs": "recipe.epochs",
    "batch-size": "recipe.batch_size",
    "weight-decay": "recipe.weight_decay",
    "precision": "recipe.precision",
}
Split = Literal["train", "validation", "test"]


def from_hub(name: str | None) -> tuple[str | None, bool]:
    """A name without ``hub:``, and whether it was there: only then is anything fetched.

    Raises:
        UserError: there is no name.
    """
    if name is None or not name.startswith(HUB):
        return name, False
    if name == HUB:
        from attngraph.errors import UserError  # --help imports no package

        raise UserError(f"{HUB} names nothing: give {HUB}OWNER/NAME")
    return name.removeprefix(HUB), True


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The model; ``download`` says whether it may be fetched."""

    model: str | None = option(
        f"Take this transformers model: {DEFAULT}, which comes with the package, mini-mplug, which is in the "
        f"repository, a folder, a name of the Hugging Face hub ({HUB}NAME fetches what is not on this "
        f"machine yet), or BLIP's own file. Default: {DEFAULT}, or the run's own."
    )
    download: bool = field(default=False, init=False)

    def __post_init__(self):
        model, download = from_hub(self.model)
        object.__setattr__(self, "model", model)
        object.__setattr__(self, "download", download)


@dataclass(frozen=True, kw_only=True)
class DeviceOptions(ModelOptions):
    """The model and the device."""

    device: str = option(
        "Compute on this device: cpu, cuda (runs of a table: all GPUs), cuda:1 or mps.", "cpu"
    )


@dataclass(frozen=True, kw_only=True)
class RunOptions(DeviceOptions):
    """Where and how runs are run, see :func:`attngraph.experiments.runs.execution.execution_of`."""

    on: tuple[Word, ...] = option(
        "Say where and how runs are run: first local (processes of this machine), slurm (an array of jobs) "
        "or ray (tasks of a Ray cluster); then settings: jobs=N at the same time, threads=N of each run (the "
        "last digits of scores depend on them), cache_gb=GB for image states (0 for none), and those of the "
        "launcher: of sbatch, such as partition=gpu time=12:00:00, or of Ray, address=ADDRESS, cpus=N and "
        "gpus=SHARE. Default: local, as many jobs as there are cores or GPUs for, threads=1, cache_gb=32.",
        (),
        "WORD",
    )


@dataclass(frozen=True, kw_only=True)
class GridOptions(RunOptions):
    """What is run of a table: the same for all commands that run several."""

    tasks: Names | None = option(
        "Run only these tasks, separated by commas. Default: all of the table or preset; where that names "
        "none, those whose data are in --data, or without it those whose data are drawn or come with a "
        "package."
    )
    changes: tuple[str, ...] = option(
        "Put this value in the place of the file's, such as runs.recipe.steps=100 or runs.answering=rank; "
        "values are YAML (repeatable).",
        fields={word: f"runs.{field}" for word, field in FIELDS.items()},
        **SET,
    )
    data: Path | None = option(
        "Read the data from this folder and draw none. It holds a folder for each data set in official "
        "files, such as vqa2 and coco (`attngraph data layout NAME`), or is what `attngraph scenes` has "
        "written. Default: scenes are drawn into a folder of --out."
    )


@dataclass(frozen=True, kw_only=True)
class RowsOptions(GridOptions):
    """What is run of a table whose rows are known."""

    rows: Names | None = option("Run only these rows, separated by commas. Default: all that the file names.")
    dry_run: bool = option(
        "List the runs, which of them have scores already, and what the others cost; run nothing.", False
    )


@dataclass(frozen=True, kw_only=True)
class LookOptions(DeviceOptions):
    """What the analysis commands look at, see :mod:`attngraph.experiments.inspect.source`."""

    adapter: Path | None = option(
        "Put these graph adapters into the model: a run's folder of a table, or a folder that PEFT saved."
    )
    images: tuple[Path, ...] = option("Look at these image files or folders.", (), "PATH")
    texts: Path | None = option(
        "Read a text per line from this file, one for each image or one for all. Without it, BLIP describes "
        "the images itself, without its adapters.",
        metavar="FILE",
    )
    data: Path | None = option(
        "Take data in official files, as `attngraph scenes` lays them out. Default: scenes that are drawn "
        "for the run."
    )
    task: str | None = option("Take prompts and answers of this task, such as vqa2. Default: caption.")
    split: Split | None = option(
        "Take this split of the data: train, validation or test. Default: validation."
    )
    examples: Positive = option("Look at this many examples at most.", 64)
    batch: Positive = option("Put this many examples into a forward pass.", 16)
    layers: tuple[str, ...] = option(
        "Look at these attention layers: names or patterns such as '*crossattention*'. Default: all.", ()
    )
    heads: tuple[int, ...] = option("Look at these heads. Default: all.", ())
    out: Path = option("Write the results into this folder.", Path("runs"))
    seed: Seed = option("Set the seed of scenes, choices and random numbers.", 0)
