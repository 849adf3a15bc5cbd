"""The models that ship with the package, by the names that ``--model`` takes.

A name is that of the shipped model also where a folder of this name lies in the working directory: write
``./mini-blip`` for the folder.
"""

from __future__ import annotations

from pathlib import Path

CHECKPOINTS = Path(__file__).parents[1] / "checkpoints"
DEFAULT = "mini-blip"
SHIPPED = {DEFAULT: "mini-BLIP", "mini-mplug": "mini-mPLUG"}  # name -> title


def shipped_folder(name: str | Path | None) -> Path | None:
    """The folder of a shipped model, None standing for the default; None for any other model. A ``Path`` is
    always a folder of one's own."""
    name = DEFAULT if name is None else name
    return CHECKPOINTS / name if name in SHIPPED else None


def unless_default(name: str | None) -> str | None:
    """The name; None, as runs record it, for the model that is taken where none is named."""
    return None if name == DEFAULT else name


def again(name: str) -> str:
    """What to do where a shipped model is missing or damaged."""
    return f"reinstall the package, or make it again with `attngraph pretrain{option(name)}`"


def option(name: str) -> str:
    """What a command line says more for this model; nothing for the default."""
    return "" if name == DEFAULT else f" --model {name}"
