"""Content of the package: models, with their names for ``--model``, and YAML files of experiments and tables.

A model's name refers to the shipped model even if the working directory contains a folder of this name: use
``./mini-blip`` for the folder.
"""

from __future__ import annotations

import re
from pathlib import Path

CHECKPOINTS = Path(__file__).parents[1] / "checkpoints"
CONFIGS = Path(__file__).parents[1] / "configs"
FIRST = ("quick", "main", "scenes")  # named first, and taken where none is named
DEFAULT = "mini-blip"
SHIPPED = {DEFAULT: "mini-BLIP", "mini-mplug": "mini-mPLUG"}  # name -> title


def shipped_folder(name: str | Path | None) -> Path | None:
    """The folder of a shipped model (``None``: the default model); None for any other model. A ``Path`` is
    always a user's folder."""
    name = DEFAULT if name is None else name
    return CHECKPOINTS / name if name in SHIPPED else None


def unless_default(name: str | None) -> str | None:
    """The name; None, as in records of runs, for the default model."""
    return None if name == DEFAULT else name


def again(name: str) -> str:
    """Remedy for a missing or damaged shipped model."""
    where = (
        "reinstall the package"
        if name == DEFAULT
        else f"use experiments/checkpoints/{name} of the repository"
    )
    return f"{where}, or train it again with `attngraph pretrain{option(name)}`"


def option(name: str) -> str:
    """The additional option for this model on a command line; empty for the default."""
    return "" if name == DEFAULT else f" --model {name}"


def names_of(what: str) -> list[str]:
    """The experiments, presets, tables or sizes that ship with the package, the default first."""
    files = (CONFIGS / f"{what}s").glob("*.yaml")
    return sorted((file.stem for file in files if file.is_file()), key=lambda name: (name not in FIRST, name))


def abouts(what: str) -> dict[str, str]:
    """All of them with the field ``about`` of their files, read without parsing YAML."""
    found = {}
    for name in names_of(what):
        text = (CONFIGS / f"{what}s" / f"{name}.yaml").read_text(encoding="utf-8", errors="replace")
        about = re.search("^about: (.*)$", text, re.MULTILINE)
        found[name] = "" if about is None else about[1].strip()
    return found


def described(what: str) -> str:
    """:func:`abouts` in a line for ``--help``."""
    found = [f"{name}: {about}" if about else name for name, about in abouts(what).items()]
    return ("; " if ":" in "".join(found) else ", ").join(found).replace("%", "%%")
