"""User files that add tasks, methods, model families or schemes: ``attngraph --plugin FILE COMMAND ...``.

A plugin is a Python file that registers its definitions; the commands and their worker processes load it. It
is code, and runs with the user's permissions. An ``adapter_config.json`` of PEFT is also a plugin: its
configuration becomes a method with the name of its folder.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from peft import PeftConfig

from attngraph.adapters.scheme import SCHEMES, Scheme
from attngraph.errors import UserError
from attngraph.experiments.base.messages import first_line
from attngraph.experiments.methods.method import METHODS, Method, known_methods, register
from attngraph.experiments.methods.peft import method_of_config
from attngraph.experiments.models.family import FAMILIES, ModelFamily
from attngraph.experiments.runs.experiment import AT_RATE
from attngraph.experiments.tasks.task import TASKS, Task

_loaded: dict[Path, None] = {}


def load_plugins(files: Sequence[Path]) -> None:
    """Run the files that have not been run yet.

    Raises:
        UserError: a file is missing, is neither a Python file nor a configuration of PEFT, fails, or
            registers objects other than tasks, methods, model families and schemes.
    """
    for file in files:
        given, file = file, Path(file).absolute()
        if not file.is_file():
            what = "is not a file" if file.exists() else "does not exist"
            raise UserError(f"--plugin {given} {what}: use a Python file")
        file = file.resolve()
        if file in _loaded:
            continue
        if file.suffix == ".json":
            _register_config(file)
            _loaded[file] = None
            continue
        name = module_name(file)
        spec = importlib.util.spec_from_file_location(name, file)
        if spec is None or spec.loader is None:
            raise UserError(f"--plugin {given} is not a Python file: use a file whose name ends in .py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # so that what it defines can be sent to worker processes
        try:
            spec.loader.exec_module(module)
            _check_registered()
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            del sys.modules[name]
            place = f"--plugin {given}{_line(error, file)}"
            raise UserError(
                f"{place}: {type(error).__name__}: {first_line(error)}; correct the file"
            ) from error
        _loaded[file] = None


def _register_config(file: Path) -> None:
    """Register the configuration in an ``adapter_config.json`` as a method with the name of its folder."""
    name = file.parent.name
    try:
        config = PeftConfig.from_pretrained(str(file.parent))
    except Exception as error:  # whatever is wrong with the file means the same to the user
        raise UserError(f"--plugin {file} is not a configuration of PEFT ({first_line(error)})") from error
    method = method_of_config(name, config)
    if AT_RATE in name or (name in known_methods() and METHODS.get(name) != method):
        raise UserError(f"--plugin {file}: {name} is the name of another method: rename the folder")
    register(method)


def _check_registered() -> None:
    for registry, kind in ((TASKS, Task), (METHODS, Method)):
        for name, held in registry.items():
            if not isinstance(held, kind):
                raise TypeError(f"{name} is {held!r}, not a {kind.__name__}")
    for registry, kind in ((FAMILIES, ModelFamily), (SCHEMES, Scheme)):
        for name, held in registry.items():
            if not (isinstance(held, type) and issubclass(held, kind)):
                raise TypeError(f"{name} is {held!r}, not a subclass of {kind.__name__}")


def module_name(file: Path) -> str:
    """The name of a plugin's module, unique for every file and the same in every process."""
    digest = hashlib.sha256(str(file).encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return f"attngraph_plugin_{re.sub(r'[^A-Za-z0-9]', '_', file.stem)}_{digest}"


def _line(error: BaseException, file: Path) -> str:
    """``", line 3"``: the last line of the file in the error's traceback."""
    if isinstance(error, SyntaxError) and error.filename == str(file) and error.lineno:
        return f", line {error.lineno}"
    lines = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)
    ]
    return f", line {lines[-1]}" if lines else ""


def plugin_files() -> tuple[Path, ...]:
    """The loaded plugins, for worker processes."""
    return tuple(_loaded)
