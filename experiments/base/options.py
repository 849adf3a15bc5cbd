"""Options shared by several commands: the model, how runs are executed, a table's runs, input of analyses.

Types and texts only: names are checked when a command runs, so that ``--help`` imports nothing.
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
#: Words that users may mistake for options -> the field of an experiment for --set.
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
    """A name without the prefix ``hub:``, and whether it had the prefix, which permits downloads.

    Raises:
        UserError: there is only the prefix.
    """
    if name is None or not name.startswith(HUB):
        return name, False
    if name == HUB:
        from attngraph.errors import UserError  # --help imports no package

        raise UserError(f"{HUB} without a name: use {HUB}OWNER/NAME")
    return name.removeprefix(HUB), True


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The model; ``download``: whether it may be downloaded."""

    model: str | None = option(
        f"Transformers model: {DEFAULT} (included in the package), mini-mplug (in the repository), a folder, "
        f"a name of the Hugging Face hub ({HUB}NAME downloads missing files), or an original BLIP file. "
        f"Default: {DEFAULT}, or the model of the run."
    )
    download: bool = field(default=False, init=False)

    def __post_init__(self):
        model, download = from_hub(self.model)
        object.__setattr__(self, "model", model)
        object.__setattr__(self, "download", download)


@dataclass(frozen=True, kw_only=True)
class DeviceOptions(ModelOptions):
    """The model and the device."""

    device: str = option("Device: cpu, cuda (for runs of a table: all GPUs), cuda:1 or mps.", "cpu")


@dataclass(frozen=True, kw_only=True)
class RunOptions(DeviceOptions):
    """Where and how runs are executed, see :func:`attngraph.experiments.runs.execution.execution_of`."""

    on: tuple[Word, ...] = option(
        "Where and how runs are executed. First local (processes on this machine), slurm (a job array) or "
        "ray (tasks of a Ray cluster); then settings: jobs=N in parallel, threads=N per run (the last "
        "digits of scores depend on it), cache_gb=GB for image features (0 for none), and settings of the "
        "launcher: for sbatch such as partition=gpu time=12:00:00, for Ray address=ADDRESS, cpus=N and "
        "gpus=FRACTION. Default: local, one job per core or GPU, threads=1, cache_gb=32.",
        (),
        "WORD",
    )


@dataclass(frozen=True, kw_only=True)
class GridOptions(RunOptions):
    """Which runs of a table are executed: options of all commands with several runs."""

    tasks: Names | None = option(
        "Tasks to run, separated by commas. Default: all of the table or preset; if it does not list "
        "any, those with data in --data or, without --data, those with synthetic data or data in a package."
    )
    changes: tuple[str, ...] = option(
        "Value that replaces the file's, such as runs.recipe.steps=100 or runs.answering=rank; values are "
        "YAML (repeatable).",
        fields={word: f"runs.{field}" for word, field in FIELDS.items()},
        **SET,
    )
    data: Path | None = option(
        "Folder of the data: one written by `attngraph scenes`, or one with a subfolder for each dataset "
        "in official files, such as vqa2 and coco (`attngraph data layout NAME`). Default: scenes are "
        "generated in a folder of --out."
    )

    def __post_init__(self):
        super().__post_init__()
        ignored = [change for change in self.changes if change.partition("=")[0].split(".")[0] == "scenes"]
        if ignored and self.data is not None:
            from attngraph.errors import UserError  # --help imports no package

            raise UserError(f"--set {ignored[0]} has no effect with --data {self.data}: remove one of them")


@dataclass(frozen=True, kw_only=True)
class RowsOptions(GridOptions):
    """Which runs of a table with known rows are executed."""

    rows: Names | None = option("Rows to run, separated by commas. Default: all rows of the file.")
    dry_run: bool = option(
        "List the runs, which of them already have scores, and the cost of the others; run nothing.", False
    )


@dataclass(frozen=True, kw_only=True)
class LookOptions(DeviceOptions):
    """Input of the analysis commands, see :mod:`attngraph.experiments.inspect.source`."""

    adapter: Path | None = option(
        "Graph adapters to load into the model: the folder of a run, or a folder saved by PEFT."
    )
    images: tuple[Path, ...] = option("Image files or folders.", (), "PATH")
    texts: Path | None = option(
        "File with one text per line: one for each image or one for all. Default: BLIP generates captions "
        "of the images, without adapters.",
        metavar="FILE",
    )
    data: Path | None = option(
        "Folder of data in official files, as written by `attngraph scenes`. Default: scenes generated for "
        "the run."
    )
    task: str | None = option("Task with the prompts and answers, such as vqa2. Default: caption.")
    split: Split | None = option("Split of the data: train, validation or test. Default: validation.")
    examples: Positive = option("Maximum number of examples.", 64)
    batch: Positive = option("Number of examples in a forward pass.", 16)
    layers: tuple[str, ...] = option(
        "Attention layers: names or patterns such as '*crossattention*'. Default: all.", ()
    )
    heads: tuple[int, ...] = option("Heads. Default: all.", ())
    out: Path = option("Folder of the results.", Path("runs"))
    seed: Seed = option("Seed of scenes, choices and random numbers.", 0)
