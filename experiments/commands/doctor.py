"""Print installed versions and devices, and report missing packages.

Only the standard library is imported at the top, so that this runs even if all packages are missing.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from importlib import metadata

from attngraph._siblings import ROOT
from attngraph.experiments.commands.options import DoctorOptions
from attngraph.extras import EXTRA_OF

EXTRAS = {*EXTRA_OF.values()}


def run(options: DoctorOptions) -> int:
    """Prints the report; 1 if there is a problem, else 0."""
    text, problems = report()
    print(text)
    return 1 if problems else 0


def report() -> tuple[str, list[str]]:
    """The report, and the problems in it."""
    problems = []
    lines = ["versions", f"  {'python':<16}{platform.python_version()}  ({sys.executable})"]
    lines.append(f"  {'attngraph':<16}{version_of('attngraph') or 'MISSING'}  ({ROOT})")
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        problems.append("attngraph is tested with Python 3.11 to 3.13: use an environment with one of them")
    if version_of("attngraph") is None:
        problems.append(f"attngraph is not installed, but used from its folder: pip install -e {ROOT}")
    lacking: dict[str, list[str]] = {}  # extra -> its missing packages
    for (name, extra), wanted in required().items():
        version = version_of(name)
        if version is None and extra:
            lacking.setdefault(extra, []).append(name)
            continue
        lines.append(f"  {name:<16}{version or 'MISSING'}")
        if version is None or not _is_in(version, wanted):
            problems.append(f"{name} is {version or 'missing'}: pip install '{name}{wanted}'")
    lines += ["not installed"] * bool(lacking)
    for extra, names in lacking.items():
        lines.append(f"  {', '.join(names)}: pip install 'attngraph[{extra}]'")
    state, problem = kernels()
    problems += problem
    lines += ["devices", *(f"  {device}" for device in devices())]
    lines += [f"kernels   {state}", f"java      {java()}"]
    lines += ["", "no problems found" if not problems else f"{len(problems)} problem(s)"]
    return "\n".join(lines + [f"  - {problem}" for problem in problems]), problems


def version_of(distribution: str) -> str | None:
    """The installed version; ``None`` where it is missing."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def required() -> dict[tuple[str, str], str]:
    """The packages of attngraph and of its extras (``""`` for none) and their ranges of versions, from the
    metadata of attngraph, if installed. Extras for developers are omitted.
    """
    found = {}
    for line in metadata.requires("attngraph") or [] if version_of("attngraph") is not None else []:
        package, _, condition = line.partition(";")
        extra = re.search(r"extra == ['\"]([\w-]+)['\"]", condition)
        match = re.match(r"([\w.-]+)\s*\(?([^)]*)\)?", package)
        if match and (not condition or (extra and extra[1] in EXTRAS)):
            found[match[1], extra[1] if extra else ""] = match[2].strip()
    return found


def _is_in(version: str, wanted: str) -> bool:
    try:
        from packaging.specifiers import SpecifierSet
    except ImportError:  # comes with transformers, whose absence is reported anyway
        return True
    return SpecifierSet(wanted).contains(version, prereleases=True)


def devices() -> list[str]:
    """A line for each device that PyTorch sees."""
    try:
        import torch
    except Exception as error:  # compiled packages raise many kinds
        return [f"cpu    unknown without torch ({type(error).__name__})"]
    lines = [f"cpu    {os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads"]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        lines.append(f"cuda:{index} {properties.name}, {properties.total_memory / 2**30:.0f} GiB")
    if not torch.cuda.is_available():
        lines.append("cuda   none" + ("" if torch.version.cuda else " (torch is built without it)"))
    lines.append(f"mps    {'yes' if torch.backends.mps.is_available() else 'none'}")
    return lines


def kernels() -> tuple[str, list[str]]:
    """Whether the C kernels are used; and a problem, if they are requested but unavailable."""
    try:
        from attngraph.errors import UserError
        from attngraph.native.library import library, status
    except ImportError as error:
        return f"unknown ({error})", []
    try:
        library()
    except UserError as error:
        return status(), [str(error)]
    return status(), []


def java() -> str:
    """The version of Java, or a note on its use."""
    try:
        answer = subprocess.run(["java", "-version"], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return "not found (only needed by Java's PTBTokenizer for captions)"
    return next(iter((answer.stderr + answer.stdout).splitlines()), "java")
