"""The options of commands that run cells on data that the user has."""

from __future__ import annotations

import argparse
from pathlib import Path

from attngraph.errors import UserError
from experiments.base.arguments import path
from experiments.runs.answering import WAYS
from experiments.tasks.task import Task


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """``--data`` and ``--answering``."""
    parser.add_argument(
        "--data",
        type=path,
        metavar="FOLDER",
        help="Read the data from this folder and draw none. It holds a folder for each data set in official "
        "files, such as vqa2 and coco (`attngraph data layout NAME`), or is what `attngraph scenes` has "
        "written. Default: scenes are drawn into a folder of --out.",
    )
    parser.add_argument(
        "--answering",
        choices=WAYS,
        metavar="WAY",
        help="Make answers to questions and entailment in this way: generate (write a text), or rank (take "
        "the best of a list of answers); captions are always generated. Default: entailment on official "
        "files ranks its three words, everything else is generated.",
    )


def check_task_data(task: Task, data: Path | None) -> None:
    """Raise :class:`~attngraph.UserError` where a command on one task lacks its folder of data, or names one
    for examples that come with a package.
    """
    if task.packaged and data is not None:
        raise UserError(f"--data {data}: the examples of {task.name} come with a package: leave out --data")
    if not task.packaged and data is None:
        raise UserError(f"--data is missing: give the folder with the data of {task.name}")


def check_data_arguments(args: argparse.Namespace) -> None:
    """Raise :class:`~attngraph.UserError` where the options name no folder."""
    if args.data is not None and not args.data.is_dir():
        raise UserError(f"--data {args.data} is no folder: give the one that holds the data sets")
