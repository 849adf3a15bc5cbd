"""What ships with the package: models, by the names that ``--model`` takes, and files that say what is run.

A model's name is that of the shipped one also where a folder of this name lies in the working directory:
write ``./mini-blip`` for the folder.
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
    """The folder of a shipped model, None standing for the default; None for any other model. A ``Path`` is
    always a folder of one's own."""
    name = DEFAULT if name is None else name
    return CHECKPOINTS / name if name in SHIPPED else None


def unless_default(name: str | None) -> str | None:
    """The name; None, as runs record it, for the model that is taken where none is named."""
    return None if name == DEFAULT else name


def again(name: str) -> str:
    """What to do where a shipped model is missing or damaged."""
    where = (
        "reinstall the package"
        if name == DEFAULT
        else f"take experiments/checkpoints/{name} of the repository"
    )
    return f"{where}, or make it again with `attngraph pretrain{option(name)}`"


def option(name: str) -> str:
    """What a command line says more for this model; nothing for the default."""
    return "" if name == DEFAULT else f" --model {name}"


def names_of(what: str) -> list[str]:
    """The experiments, presets, tables or sizes that ship with the package, the usual one first."""
    files = (CONFIGS / f"{what}s").glob("*.yaml")
    return sorted((file.stem for file in files if file.is_file()), key=lambda name: (name not in FIRST, name))


def abouts(what: str) -> dict[str, str]:
    """All of them with what their files say of themselves; YAML is not read for it."""
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
