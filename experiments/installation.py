"""What is installed, what it runs on, and what is wrong with it: the checks of ``attngraph doctor``.

attngraph brings a top-level package ``adapters``, and so does AdapterHub's distribution of that name.
Installed together they write into one folder, and whichever came last wins file by file. So imports can't
tell whether there is a clash: the metadata of the installed distributions can.

Nothing but the standard library is imported at the top, so that the checks run whatever is missing.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import importlib
import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

# fmt: off
REQUIRED = (  # as in setup.py
    "torch", "torchvision", "torch-geometric", "transformers", "peft", "accelerate", "safetensors",
    "pydantic", "pyyaml", "networkx", "numpy", "pandas", "matplotlib", "pillow", "scipy", "scikit-learn",
    "openTSNE", "tqdm", "pycocoevalcap", "easy-vqa",
)
# fmt: on
OPTIONAL = ("torch-scatter", "umap-learn")
# where it is not the name with underscores:
IMPORT_NAMES = {"pillow": "PIL", "scikit-learn": "sklearn", "pyyaml": "yaml"}

HOME = Path(__file__).resolve().parents[1]  # the folder that holds our ``adapters``


def check_adapters_clash(distributions: Iterable[metadata.Distribution] | None = None) -> str | None:
    """One line on a second distribution that brings a package ``adapters``, or on its traces; else ``None``.

    Args:
        distributions: what to look through; the installed ones by default.
    """
    installed = list(metadata.distributions() if distributions is None else distributions)
    ours = [dist for dist in installed if _name(dist) == "attngraph"]
    rivals = [dist for dist in installed if _name(dist) != "attngraph" and _brings_adapters(dist)]
    others = {f"{_name(dist)} {dist.version}" for dist in rivals}
    damaged = [path for dist in ours for path in _changed_files(dist)]
    again = "install attngraph again (pip install --force-reinstall --no-deps, from where it came)"
    if others:
        names = " and ".join(sorted(others))
        packages = " ".join(sorted(other.split()[0] for other in others))
        mixed = f", and {len(damaged)} of attngraph's files there are overwritten or gone" if damaged else ""
        return (
            f"{names} brings a package `adapters` too{mixed}: keep it in another virtual environment, or "
            f"`pip uninstall {packages}` and then {again}"
        )
    if damaged:
        return (
            f"{len(damaged)} of attngraph's files in the package `adapters` are overwritten or gone "
            f"({damaged[0]} is one), as after another package of that name was installed or removed: {again}"
        )
    return None


def _name(dist: metadata.Distribution) -> str:
    """Normalised name; "" for a folder with broken metadata."""
    try:
        return re.sub(r"[-_.]+", "-", dist.metadata["Name"]).lower()
    except Exception:
        return ""


def _brings_adapters(dist: metadata.Distribution) -> bool:
    if _name(dist) == "adapters":
        return True
    top_level = dist.read_text("top_level.txt")  # setuptools writes it, other build tools do not
    if top_level is not None:
        return "adapters" in top_level.split()
    record = dist.read_text("RECORD") or ""
    return record.startswith("adapters/") or "\nadapters/" in record


def _changed_files(dist: metadata.Distribution) -> list[str]:
    """Files under adapters/ that are gone or differ from what was installed (none if editable)."""
    changed = []
    for file in dist.files or []:
        if file.parts[0] != "adapters" or file.hash is None or file.hash.mode != "sha256":
            continue
        path = Path(str(dist.locate_file(file)))
        content = hashlib.sha256(path.read_bytes()).digest() if path.is_file() else b""
        if base64.urlsafe_b64encode(content).rstrip(b"=").decode() != file.hash.value:
            changed.append(str(file))
    return changed


def adapters_origin() -> tuple[str, bool]:
    """Where ``import adapters`` leads from here, and whether that is ours."""
    spec = importlib.util.find_spec("adapters")
    if spec is None or not spec.submodule_search_locations:
        return "not found", False
    folder = Path(next(iter(spec.submodule_search_locations))).resolve()
    return str(folder), folder == HOME / "adapters"


def version_of(distribution: str) -> str | None:
    """The installed version; ``None`` where it is missing."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def package_problems() -> list[str]:
    """A line for each required package that is missing, too old or broken."""
    problems = []
    needs = _needs()
    for name in REQUIRED:
        version, wanted = version_of(name), needs.get(name.lower(), "")
        if version is None:
            problems.append(f"{name} is missing: pip install '{name}{wanted}'")
        elif not _in_range(version, wanted):
            problems.append(f"{name} is {version}: pip install '{name}{wanted}'")
        elif error := _import_error(name):
            problems.append(f"{name} {version} does not import ({error}): install it again")
    return problems


def _needs() -> dict[str, str]:
    """Version ranges of the required packages, as far as attngraph is installed with its metadata."""
    try:
        requirements = metadata.requires("attngraph") or []
    except metadata.PackageNotFoundError:
        return {}
    matches = (re.match(r"([A-Za-z0-9._-]+)\s*\(?([^;)]*)\)?\s*$", line) for line in requirements)
    return {match[1].lower(): match[2].strip() for match in matches if match}


def _in_range(version: str, wanted: str) -> bool:
    try:
        from packaging.specifiers import SpecifierSet
    except ImportError:  # comes with transformers, whose absence is reported anyway
        return True
    return SpecifierSet(wanted).contains(version, prereleases=True)


def _import_error(distribution: str) -> str | None:
    """One line of the error that importing the package raises. Compiled packages raise many kinds."""
    try:
        importlib.import_module(IMPORT_NAMES.get(distribution, distribution.replace("-", "_")))
    except Exception as error:
        return _first_line(error)
    return None


def unreadable_files() -> list[str]:
    """A line for each shipped file that cannot be read; none where the packages to read them are missing."""
    problems = []
    again = "install attngraph again"
    for file in sorted((HOME / "experiments" / "configs").glob("**/*")):
        if parse := _PARSERS.get(file.suffix):
            try:
                parse(file.read_text(encoding="utf-8"))
            except ImportError:
                pass
            except Exception as error:
                problems.append(f"{file} cannot be read ({_first_line(error)}): {again}")
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # no progress bar
            importlib.import_module("experiments.models.mini_blip").load_model()
    except ImportError:
        pass
    except Exception as error:
        problems.append(f"the shipped checkpoint cannot be read ({_first_line(error)}): {again}")
    return problems


def _parse_yaml(text: str) -> object:
    return importlib.import_module("yaml").safe_load(text)


_PARSERS = {".json": json.loads, ".yaml": _parse_yaml, ".yml": _parse_yaml}


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def devices() -> list[str]:
    """A line for each device that PyTorch sees."""
    try:
        import torch
    except Exception:
        return ["cpu    unknown without torch"]
    lines = [f"cpu    {os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads"]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        lines.append(f"cuda:{index} {properties.name}, {properties.total_memory / 2**30:.0f} GiB")
    if not torch.cuda.is_available():
        lines.append("cuda   none" + ("" if torch.version.cuda else " (torch is built without it)"))
    lines.append(f"mps    {'yes' if torch.backends.mps.is_available() else 'none'}")
    return lines


def scatter_backend() -> str:
    """The backend that sparse message passing uses."""
    try:
        backend = importlib.import_module("attngraph.backends.scatter").BACKEND
    except Exception:  # torch or PyG is missing: reported with the packages
        backend = "pyg" if _import_error("torch-scatter") else "torch-scatter"
    if backend == "torch-scatter":
        return f"torch-scatter {version_of('torch-scatter') or ''}".rstrip()
    error = _import_error("torch-scatter")
    why = f"does not import: {error}" if version_of("torch-scatter") else "is not installed"
    return f"PyG's own (torch-scatter {why}; the numbers are the same, `make setup` compiles it)"


def java() -> str:
    """The version of Java, or what lacks without it."""
    program = shutil.which("java")
    missing = "not found (only needed by Java's PTBTokenizer for captions)"
    if program is None:
        return missing
    try:
        answer = subprocess.run(
            [program, "-version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return missing
    if answer.returncode != 0:
        return missing
    return next(iter((answer.stderr + answer.stdout).splitlines()), program)
