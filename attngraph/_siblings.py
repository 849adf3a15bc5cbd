"""The folders ``adapters``, ``analysis`` and ``experiments`` of a checkout as packages of ``attngraph``.

A wheel has them inside of ``attngraph``. In the repository they are next to it, where :class:`Siblings` finds
``attngraph.adapters`` and the others. Where the repository itself is on Python's path, ``import adapters``
reaches our folder under its bare name: it then gives the modules of ``attngraph.adapters``, with a warning
(:func:`use_full_name`), so that nothing exists twice. Any other module of that name is left alone.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import InspectLoader
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
FOLDERS = ("adapters", "analysis", "experiments")


class Siblings:
    """Finds ``attngraph.FOLDER`` next to ``attngraph``, unless it is inside of it.

    Asked first: an editable install of another checkout knows these names too.
    """

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, folder = name.partition(".")
        if package != "attngraph" or folder not in FOLDERS or (HERE / folder).is_dir():
            return None
        file = ROOT / folder / "__init__.py"
        return spec_from_file_location(name, file) if file.is_file() else None


class BareNames:
    """Finds ``FOLDER.module`` where ``FOLDER`` is ours: the module ``attngraph.FOLDER.module``."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        folder, _, module = name.partition(".")
        if not module or folder not in FOLDERS:
            return None
        if sys.modules.get(folder) is not sys.modules.get(f"attngraph.{folder}"):
            return None
        found = find_spec(f"attngraph.{name}")
        return None if found is None else ModuleSpec(name, SameModule(), origin=found.origin)


class SameModule(InspectLoader):
    """Puts the module of the full name in the place of that of the bare one."""

    def exec_module(self, module: ModuleType) -> None:
        sys.modules[module.__name__] = import_module(f"attngraph.{module.__name__}")

    def get_source(self, fullname: str) -> str | None:
        return None

    def get_code(self, fullname: str) -> CodeType | None:
        """For ``python -m``."""
        found = find_spec(f"attngraph.{fullname}")
        assert found is not None and isinstance(found.loader, InspectLoader)
        return found.loader.get_code(found.name)


def install() -> None:
    """Makes the folders next to ``attngraph`` importable as its packages."""
    if Siblings not in sys.meta_path:
        sys.meta_path.insert(0, Siblings)


def use_full_name(folder: str) -> None:
    """Called by a folder's ``__init__.py`` when it is imported by its bare name."""
    warnings.warn(f"`import {folder}` is `import attngraph.{folder}` now", DeprecationWarning, stacklevel=3)
    if BareNames not in sys.meta_path:
        sys.meta_path.insert(0, BareNames)
    sys.modules[folder] = import_module(f"attngraph.{folder}")
