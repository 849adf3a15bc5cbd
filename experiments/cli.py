"""The command ``attngraph``: finds the module of a command in :mod:`experiments.commands` and runs it.

A command is a module with ``add_arguments(parser)`` and ``run(args)``, which returns the process's exit code.
It is imported when it is asked for, so that ``attngraph --help`` stays quick.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

#: Name of a command (and of its module in :mod:`experiments.commands`) → what it does.
COMMANDS = {
    "ablation": "train and score the GNN ablation table",
    "pretrain": "pre-train the mini-BLIP from scratch on drawn scenes",
    "search": "choose learning rates, joins and scheme arguments on validation data",
    "scenes": "draw the Scenes data sets and write them in the official file formats",
    "heterophily": "measure the heterophily of attention graphs per layer and head, beside what chance gives",
    "tsne": "draw the projected query and value spaces of attention layers",
    "attention": "draw where a model looks: attention, rollout, gradient-weighted relevance on the picture",
    "bench": "measure speed and memory against attention itself and against peers",
    "doctor": "print versions and devices, and look for what is missing or in the way",
}

SILENCE = 5  # seconds that processes beside the first wait before they speak of an error


def main(argv: list[str] | None = None) -> int:
    """Runs a command; bad input ends with one line and exit code 2."""
    argv = sys.argv[1:] if argv is None else argv
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    parser = argparse.ArgumentParser(
        prog="attngraph",
        allow_abbrev=False,  # as where plugins are looked for
        description="Attention layers as graphs, and GNN adapters on them.",
        epilog="attngraph COMMAND --help explains a command.",
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    parser.add_argument(
        "--plugin",
        action="append",
        default=[],
        metavar="FILE",
        help="load a Python file that adds tasks, methods, model families or schemes (repeatable)",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    plugins, rest = _plugins(argv)
    if plugins and (code := _guarded(lambda: _load(plugins))):
        return code
    asked = next((word for word in rest if word in COMMANDS), None)
    for name, about in COMMANDS.items():
        command = commands.add_parser(name, help=about, description=about[0].upper() + about[1:] + ".")
        if name == asked:
            _module(name).add_arguments(command)
    args = parser.parse_args(argv)
    if args.version:
        import attngraph

        print(f"attngraph {attngraph.__version__}")
        return 0
    if args.command is None:
        parser.print_help()
        return 0
    return _guarded(lambda: _module(args.command).run(args))


def _guarded(work: Callable[[], int]) -> int:
    """Does the work; errors of the user's become one line and an exit code."""
    try:
        return work()
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    except OSError as error:
        return _complain(f"{error}: check the path, the room on the disk and your rights")
    except Exception as error:
        from attngraph.errors import UserError  # needs PyTorch, which `attngraph doctor` does not

        if not isinstance(error, UserError):
            raise
        return _complain(str(error))


def _complain(message: str) -> int:
    """Prints one line, also where several processes (``torchrun``) meet the same error: the first one speaks,
    and its end ends the others while they wait.
    """
    if os.environ.get("RANK", "0") != "0":
        time.sleep(SILENCE)
    print(f"attngraph: {message}", file=sys.stderr, flush=True)
    return 2


def _plugins(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The files after ``--plugin`` before the command, and the other words."""
    parser = argparse.ArgumentParser(prog="attngraph", add_help=False, allow_abbrev=False)
    parser.add_argument("--plugin", action="append", default=[])
    parser.add_argument("rest", nargs=argparse.REMAINDER)
    known, unknown = parser.parse_known_args(argv)
    return known.plugin, [*unknown, *known.rest]


def _load(plugins: Sequence[str]) -> int:
    from experiments.plugins import load_plugins  # needs PyTorch

    load_plugins([Path(file) for file in plugins])
    return 0


def _module(command: str) -> ModuleType:
    try:
        return importlib.import_module(f"experiments.commands.{command}")
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "attngraph", "adapters", "analysis", "experiments"):
            raise
        sys.exit(f"attngraph: the package {package} is missing; `attngraph doctor` says how to install it")


if __name__ == "__main__":
    sys.exit(main())
