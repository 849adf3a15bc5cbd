"""Which module of the packages imports which: every import statement counts, also those inside functions and
under ``TYPE_CHECKING``. What is loaded by a name in a string (``importlib.import_module``) does not.

``from package import name`` counts as an import of the submodule ``package.name`` if there is one, else of
the package's ``__init__``. Importing a submodule does not count as an import of the packages around it.
"""

from __future__ import annotations

import ast
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

FOLDERS = ("adapters", "analysis", "experiments")
PACKAGES = ("attngraph", *FOLDERS)
FLOORS = (
    {"attngraph"},
    {"attngraph.adapters", "attngraph.analysis"},
    {"attngraph.experiments", "attngraph.experiments.base", "attngraph.experiments.scenes"},
    {"attngraph.experiments.data", "attngraph.experiments.models", "attngraph.experiments.metrics"},
    {"attngraph.experiments.tasks", "attngraph.experiments.methods"},
    {"attngraph.experiments.runs"},
    {"attngraph.experiments.tables", "attngraph.experiments.inspect", "attngraph.experiments.lmms_eval"},
    {"attngraph.experiments.studies"},
    {"attngraph.experiments.commands"},
    {"attngraph.experiments.cli"},
    {"attngraph.__main__"},
)
"""The packages, and the rooms of ``experiments``, from the ground up: each imports those of lower floors."""


class Import(NamedTuple):
    """An import statement."""

    source: str  # the module it stands in
    target: str  # the module it imports
    file: Path
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.target}"


def modules_of(root: Path, packages: Iterable[str]) -> dict[str, Path]:
    """``{module: file}`` of the packages in a folder; those next to ``attngraph`` are in it."""
    modules = {}
    for file in sorted(file for package in packages for file in (root / package).rglob("*.py")):
        parts = file.relative_to(root).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        modules[".".join(parts if parts[0] == "attngraph" else ("attngraph", *parts))] = file
    return modules


def imports_of(module: str, file: Path, root: Path, modules: dict[str, Path]) -> Iterator[Import]:
    """A module's imports of modules in the dictionary and of anything else in the packages around it."""
    first_party = {"attngraph", "tests", *FOLDERS}

    def resolve(name: str) -> str:
        """The module that an absolute name is or lies in."""
        while name not in modules and "." in name:
            name = name.rpartition(".")[0]
        return name

    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), str(file))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{_base(node, module, file)}.{alias.name}" for alias in node.names]
        else:
            continue
        for target in dict.fromkeys(map(resolve, names)):
            if target.partition(".")[0] in first_party:
                yield Import(module, target, file.relative_to(root), node.lineno)


def _base(node: ast.ImportFrom, module: str, file: Path) -> str:
    """What ``from ... import`` names, with relative names made absolute."""
    if not node.level:
        return node.module or ""
    package = module.split(".") if file.name == "__init__.py" else module.split(".")[:-1]
    return ".".join([*package[: len(package) - node.level + 1], *([node.module] if node.module else [])])


def all_imports(root: Path, packages: Iterable[str]) -> list[Import]:
    """The imports of all modules of the packages in a folder."""
    modules = modules_of(root, packages)
    return [found for name, file in modules.items() for found in imports_of(name, file, root, modules)]


def arrows_up(imports: Iterable[Import]) -> list[str]:
    """Imports of a room by another one that does not stand on a higher floor."""
    floor = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}

    def room(module: str) -> str:
        parts = module.split(".")[: 3 if module.startswith("attngraph.experiments.") else 2]
        inside = parts[1:2] and parts[1] in (*FOLDERS, "__main__")
        return ".".join(parts) if inside else parts[0]

    wrong = []
    for each in imports:
        here, there = room(each.source), room(each.target)
        if here != there and floor.get(there, len(floor)) >= floor.get(here, -1):
            wrong.append(str(each))
    return wrong


def circles(imports: Iterable[Import]) -> list[str]:
    """For each module on a circle that no earlier one has named, the shortest circle through it."""
    edges: dict[str, dict[str, Import]] = {}
    for each in imports:
        edges.setdefault(each.source, {}).setdefault(each.target, each)
    named: set[str] = set()
    messages = []
    for module in sorted(edges):
        circle = [] if module in named else _shortest_circle(module, edges)
        if circle:
            named.update(each.source for each in circle)
            messages.append("a circle:\n" + "\n".join(f"    {each}" for each in circle))
    return messages


def _shortest_circle(start: str, edges: dict[str, dict[str, Import]]) -> list[Import]:
    """The imports along the shortest way from a module back to itself; empty if there is none."""
    queue, way = deque([start]), {start: []}
    while queue:
        module = queue.popleft()
        for target, each in sorted(edges.get(module, {}).items()):
            if target == start:
                return [*way[module], each]
            if target not in way:
                way[target] = [*way[module], each]
                queue.append(target)
    return []


def long_files(root: Path, packages: Iterable[str], lines: int = 600) -> list[str]:
    """Files with more lines than that."""
    files = modules_of(root, packages).values()
    return [str(file.relative_to(root)) for file in files if file.read_text("utf-8").count("\n") > lines]
