"""Files of one's own that add tasks, methods, model families or schemes: ``attngraph --plugin FILE COMMAND
...``.

A plugin is a Python file that registers what it defines; the commands and their worker processes load it. It
is code, and runs with the user's rights.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from attngraph.errors import UserError

_loaded: dict[Path, None] = {}


def load_plugins(files: Sequence[Path]) -> None:
    """Run the files that were not run yet.

    Raises:
        UserError: a file is missing, is no Python file, or fails.
    """
    for file in files:
        file = Path(file).resolve()
        if file in _loaded:
            continue
        if not file.is_file():
            raise UserError(f"--plugin {file}: no such file")
        name = f"attngraph_plugin_{file.stem}"
        spec = importlib.util.spec_from_file_location(name, file)
        if spec is None:
            raise UserError(f"--plugin {file}: no Python file; give one whose name ends in .py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # so that what it defines can be sent to worker processes
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            del sys.modules[name]
            raise UserError(f"--plugin {file} fails: {type(error).__name__}: {error}") from error
        _loaded[file] = None


def plugin_files() -> tuple[Path, ...]:
    """The plugins that were loaded, for worker processes."""
    return tuple(_loaded)
