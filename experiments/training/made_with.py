"""With what a run is made: the code, the packages and the machine."""

from __future__ import annotations

import hashlib
import platform
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import attngraph

CODE = ("attngraph", "adapters", "analysis", "experiments")
PACKAGES = ("torch", "transformers", "peft", "numpy", "pillow")


def made_with() -> dict[str, Any]:
    """Versions and machine, for ``config.json``."""
    own = {"attngraph": attngraph.__version__, "code": code_digest(), "python": platform.python_version()}
    return {
        "versions": own | {name: version(name) for name in PACKAGES},
        "machine": f"{platform.system()} {platform.machine()}",
    }


@cache
def code_digest() -> str:
    """Tells one state of our Python files from every other, wherever they are installed."""
    digest = hashlib.sha256()
    for name in CODE:
        found = find_spec(name)
        for folder in (found and found.submodule_search_locations) or []:
            for file in sorted(Path(folder).rglob("*.py")):
                digest.update(f"{name}/{file.relative_to(folder).as_posix()}\0".encode())
                digest.update(file.read_bytes() + b"\0")
    return digest.hexdigest()[:12]
