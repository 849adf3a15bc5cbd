"""The pre-trained checkpoints of a study, over which its seeds are dealt: the shipped one, and others in
folders ``seed1``, ``seed2``, ...
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from attngraph.errors import UserError
from experiments.runs.cells import Cell
from experiments.tables.grid import Grid

CHECKPOINTS = Path("runs/checkpoints")  # those beside the shipped one


def add_checkpoints_argument(parser: argparse.ArgumentParser) -> None:
    """The option of every command whose seeds are dealt over several checkpoints."""
    parser.add_argument(
        "--checkpoints",
        type=Path,
        metavar="FOLDER",
        help="Take pre-trained checkpoints beside the shipped one from seed1, seed2, ... in this folder, "
        "where the preset wants several. Default: runs/checkpoints.",
    )


def checkpoints_folder(given: Path | None, grid: Grid, model: str | None) -> Path:
    """The folder that ``--checkpoints`` names.

    Raises:
        UserError: it is no folder, or the option changes nothing.
    """
    if given is None:
        return CHECKPOINTS
    if model is not None or grid.checkpoints == 1:
        raise UserError(f"--checkpoints {given} changes nothing, since {_why_one(model)}: leave it out")
    if not given.is_dir():
        raise UserError(f"--checkpoints {given} is no folder: give the one that holds seed1, seed2, ...")
    return given


def check_only(only: int | None, grid: Grid, model: str | None) -> None:
    """Raise :class:`~attngraph.UserError` where ``--only-checkpoint`` names none, or changes nothing."""
    if only is None:
        return
    if model is not None or grid.checkpoints == 1:
        raise UserError(f"--only-checkpoint {only} changes nothing, since {_why_one(model)}: leave it out")
    if not 0 <= only < grid.checkpoints:
        raise UserError(f"--only-checkpoint must be from 0 to {grid.checkpoints - 1}, got {only}")


def _why_one(model: str | None) -> str:
    return "--model is for all seeds" if model is not None else "the preset has one checkpoint"


def checkpoint_of(seed: int, checkpoints: int, folder: Path) -> str | None:
    """The checkpoint that a seed's runs start from: seeds are dealt over them in turn.

    Args:
        seed: of a run.
        checkpoints: how many there are; the first is the shipped one (None), checkpoint k that of
            pre-training seed k.
        folder: that holds the others.
    """
    number = seed % checkpoints
    return str(folder / f"seed{number}") if number else None


def check_checkpoints(cells: Sequence[Cell]) -> None:
    """Raise :class:`~attngraph.UserError` where a checkpoint of cells is missing; it says how to make it."""
    for model in dict.fromkeys(cell.model for cell in cells if cell.checkpoint):
        place = Path(str(model))
        if not (place / "model.safetensors").is_file():
            seed = place.name.removeprefix("seed")
            raise UserError(
                f"{place} is missing, the checkpoint of pre-training seed {seed}: make it with attngraph "
                f"pretrain --seed {seed} --out {place}, or name its folder with --checkpoints"
            )
