"""``attngraph doctor``: prints what is installed, what it runs on, and what is wrong with it."""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Iterable
from importlib import metadata
from typing import TextIO

from experiments import installation


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``attngraph doctor`` has no options of its own."""


def run(args: argparse.Namespace) -> int:
    """Prints the report; 1 if there is a problem, else 0."""
    return report(sys.stdout)


def report(file: TextIO, distributions: Iterable[metadata.Distribution] | None = None) -> int:
    """Writes the report to a file; 1 if there is a problem, else 0.

    Args:
        file: where to write.
        distributions: where to look for a clash; the installed ones by default.
    """
    lines, problems = ["versions"], []
    lines.append(f"  {'python':<16}{platform.python_version()}  ({sys.executable})")
    version = installation.version_of("attngraph") or "not installed, used from its folder"
    lines.append(f"  {'attngraph':<16}{version}  ({installation.HOME})")
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        problems.append("attngraph is tested with Python 3.11 to 3.13: make a virtual environment of one")
    for name in installation.REQUIRED:
        lines.append(f"  {name:<16}{installation.version_of(name) or 'MISSING'}")
    for name, use in installation.OPTIONAL.items():
        lines.append(f"  {name:<16}{installation.version_of(name) or '-'}  (optional, for {use})")
    problems += installation.package_problems()

    lines += ["devices", *(f"  {device}" for device in installation.devices())]
    lines.append(f"java      {installation.java()}")

    damaged = installation.damaged_files()
    lines.append(f"files     checkpoint, presets and settings are {'NOT ' * bool(damaged)}usable")
    problems += damaged

    origin, is_ours = installation.adapters_origin()
    lines.append(f"adapters  {origin}{'' if is_ours else '  NOT OURS'}")
    clash = installation.check_adapters_clash(distributions)
    if clash:
        problems.append(clash)
    elif not is_ours:
        problems.append(
            f"`import adapters` leads to {origin} and not to {installation.HOME / 'adapters'}: "
            "start Python elsewhere, or take that folder off PYTHONPATH"
        )

    lines += ["", "no problems found" if not problems else f"{len(problems)} problem(s)"]
    print("\n".join(lines + [f"  - {problem}" for problem in problems]), file=file)
    return 1 if problems else 0
