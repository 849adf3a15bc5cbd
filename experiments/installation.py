"""What is installed, what it runs on, and what is wrong with it: the checks of ``attngraph doctor``.

attngraph brings a top-level package ``adapters``, and so does AdapterHub's distribution of that name.
Installed together they write into one folder, and whichever came last wins file by file. So imports can't
tell whether there is a clash: the metadata of the installed distributions can.

Nothing but the standard library is imported at the top, so that the checks run whatever is missing.
"""

from __future__ import annotations

import base64
import contextlib
import csv
import hashlib
import importlib
import importlib.util
import io
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
    "filelock", "pydantic", "pyyaml", "networkx", "numpy", "pandas", "pyarrow", "matplotlib", "pillow",
    "scipy", "scikit-learn", "openTSNE", "tqdm", "pycocoevalcap", "easy-vqa", "tensorboard",
)
# fmt: on
#: What is optional -> what it is for.
OPTIONAL = {
    "torch-scatter": "reductions of PyG layers, compiled; nothing here needs it",
    "umap-learn": "tsne --method umap",
    "spacy": "heterophily --tagger",
    "datasets": "data sets of the Hugging Face hub",
}
PRESETS = ("quick", "full", "smoke")  # presets that ship with the package
CHECKSUMS = "SHA256SUMS"  # beside the shipped checkpoints, as `sha256sum` writes it
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
    """Files under adapters/ that are gone or differ from what was installed (none if editable).

    RECORD is read here, since ``dist.files`` leaves out files that are gone from Python 3.12 on.
    """
    changed = []
    for name, digest, *_ in csv.reader((dist.read_text("RECORD") or "").splitlines()):
        if not name.startswith("adapters/") or not digest.startswith("sha256="):
            continue
        path = Path(str(dist.locate_file(name)))
        content = hashlib.sha256(path.read_bytes()).digest() if path.is_file() else b""
        if base64.urlsafe_b64encode(content).rstrip(b"=").decode() != digest.removeprefix("sha256="):
            changed.append(name)
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


def damaged_files() -> list[str]:
    """A line for each shipped file that is gone, changed or unusable; where packages to read some of them are
    missing, these are left out.
    """
    return [*_checkpoint_problems(HOME / "experiments" / "checkpoints"), *_configuration_problems()]


def _checkpoint_problems(folder: Path) -> list[str]:
    """Lines about the shipped checkpoints: by their checksums, then by loading them."""
    again = "install attngraph again"
    try:
        lines = (folder / CHECKSUMS).read_text(encoding="utf-8").splitlines()
        listed = [(digest, folder / name) for digest, name in (line.split(maxsplit=1) for line in lines)]
        if not listed:
            raise ValueError("no checksums in it")
    except (OSError, ValueError) as error:
        return [f"{folder / CHECKSUMS} cannot be read ({_first_line(error)}): {again}"]
    problems = []
    for digest, file in listed:
        if not file.is_file():
            problems.append(f"{file} is missing: {again}")
        elif hashlib.sha256(file.read_bytes()).hexdigest() != digest:
            problems.append(f"{file} is not as it was shipped: {again}, unless you put it there")
    if problems:
        return problems
    for name in dict.fromkeys(file.parent.name for _, file in listed):
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # no progress bar
                importlib.import_module("experiments.models").load_family(name)
        except ImportError:
            return []
        except Exception as error:
            problems.append(f"the shipped {name} cannot be loaded ({_first_line(error)}): {again}")
    return problems


def _configuration_problems() -> list[str]:
    """Lines about presets and chosen settings of which no table can be made."""
    try:
        presets = importlib.import_module("experiments.configs.presets")
        settings = importlib.import_module("experiments.configs.settings")
        plan = importlib.import_module("experiments.training.plan")
    except ImportError:
        return []
    try:
        chosen = settings.chosen_settings()
    except Exception as error:
        return [str(error)]
    problems = []
    present = presets.preset_names()
    for name in dict.fromkeys([*PRESETS, *present]):
        if name not in present:
            problems.append(f"preset {name} is missing: install attngraph again")
            continue
        try:
            plan.plan_table(presets.load_preset(name), plan.Request(), chosen, Path("data"))
        except Exception as error:
            problems.append(f"preset {name} cannot be used ({_first_line(error)}): install attngraph again")
    return problems


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
