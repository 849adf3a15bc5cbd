"""The pre-trained checkpoints of a study, over which its seeds are dealt: the shipped one, and others in
folders ``seed1``, ``seed2``, ...
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from attngraph.errors import UserError
from experiments.base.outputs import TRAINING_STATE, is_pretrained
from experiments.runs.cells import Cell

CHECKPOINTS = Path("runs/checkpoints")  # those beside the shipped one


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
    """Raise :class:`~attngraph.UserError` where a checkpoint of cells is missing, or is still being trained;
    it says how to make it.
    """
    for model in dict.fromkeys(cell.model for cell in cells if cell.checkpoint):
        place = Path(str(model))
        if not is_pretrained(place) or not (place / "model.safetensors").is_file():
            seed = place.name.removeprefix("seed")
            begun = (place / TRAINING_STATE).exists()
            wrong, remedy = ("is not trained to its end", "go on") if begun else ("is missing", "make it")
            raise UserError(
                f"{place} {wrong}, the checkpoint of pre-training seed {seed}: {remedy} with attngraph "
                f"pretrain --seed {seed} --out {place}"
            )
