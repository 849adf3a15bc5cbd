"""With what a run is made: the code, the packages and the machine."""

from __future__ import annotations

import hashlib
import platform
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import attngraph

CODE = ("attngraph", "adapters", "analysis", "experiments")
PACKAGES = ("torch", "transformers", "peft", "numpy", "pillow")
UNKNOWN = "unknown"


def made_with() -> dict[str, Any]:
    """Versions and machine, for ``config.json``."""
    own = {"attngraph": attngraph.__version__, "code": DIGEST, "python": platform.python_version()}
    return {
        "versions": own | {name: _version(name) for name in PACKAGES},
        "machine": f"{platform.system()} {platform.machine()}",
    }


def code_digest() -> str:
    """Tells one state of attngraph's own Python files from every other, wherever they are installed."""
    digest, count = hashlib.sha256(), 0
    for name in CODE:
        found = find_spec(name)
        for folder in map(Path, (found and found.submodule_search_locations) or []):
            files = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*.py")}
            for place, file in sorted(files.items()):
                if file.is_file():
                    digest.update(f"{name}/{place}\0".encode() + file.read_bytes() + b"\0")
                    count += 1
    return digest.hexdigest()[:12] if count else UNKNOWN


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return UNKNOWN


#: Of the code that is loaded now: worker processes are forked from one that has loaded it.
DIGEST = code_digest()
