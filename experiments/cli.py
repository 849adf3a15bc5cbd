"""The command ``attngraph``: finds the module of a command in :mod:`experiments.commands` and runs it.

A command is a module with ``add_arguments(parser)`` and ``run(args)``, which returns the process's exit code.
It is imported when it is asked for, so that ``attngraph --help`` stays quick.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import io
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import ModuleType

from experiments.base.arguments import QUIET, Parser
from experiments.base.stopping import exit_code, never_swallowed, on_signals, raise_stopped

#: Name of a command (and of its module in :mod:`experiments.commands`) → what it does.
COMMANDS = {
    "train": "train and score one experiment, which a YAML file describes",
    "ablation": "train and score the GNN ablation table",
    "table": "make a table of the paper: main, gnn and the smaller ones, on drawn or on official data",
    "significance": "recompute every comparison and p value of a table from its raw results",
    "report": "put tables, curves, significance and costs of finished runs on one page",
    "evaluate": "score a finished run on another split, on other data, or with another way to answer",
    "predict": "answer with a finished run: one question, a file of them, or a split for a server",
    "score": "score a file of predictions, of this or another program, with a task's own metric",
    "pretrain": "pre-train a small model from scratch on drawn scenes",
    "sweep": "choose the learning rate of each row of a table on validation data",
    "search": "choose learning rates, joins and scheme arguments on validation data",
    "data": "check, lay out and draw data sets in the official files of six benchmarks",
    "convert": "turn an original checkpoint into a folder that --model takes",
    "parameters": "count what methods train: how many parameters, where, and their share of the model",
    "scenes": "draw the Scenes data sets and write them in the official file formats",
    "heterophily": "measure the heterophily of attention graphs per layer and head, beside what chance gives",
    "tsne": "draw the projected query and value spaces of attention layers",
    "attention": "draw where a model looks: attention, rollout, gradient-weighted relevance on the picture",
    "planted": "train every scheme on planted graphs, where theory says who wins",
    "bench": "measure speed and memory against attention itself and against peers",
    "doctor": "print versions and devices, and look for what is missing or in the way",
}

OURS = ("attngraph", "adapters", "analysis", "experiments")
#: Packages whose warnings are about their own next versions, or tell what our errors tell.
NOISY = (
    r"(torch|torchvision|torch_geometric|transformers|peft|accelerate|umap|numba|openTSNE|spacy|PIL|sklearn|scipy"
    r"|numpy|pandas|matplotlib)(\.|$)"
)
SILENCE = 5  # seconds that processes beside the first wait before they speak of an error
#: What happens to an output that is not buffered; errors of files have the file's name.
NO_OUTPUT = (errno.ENOSPC, errno.EFBIG, errno.EIO, errno.EBADF)
NO_READER = 141  # the exit code, as shells give it for SIGPIPE


def main(argv: list[str] | None = None) -> int:
    """Runs a command; bad input ends with one line and exit code 2."""
    argv = sys.argv[1:] if argv is None else argv
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a sign that a terminal cannot show is no reason to fail
            stream.reconfigure(errors="backslashreplace")
    with warnings.catch_warnings():
        if not sys.warnoptions:  # unless Python was told otherwise
            warnings.filterwarnings("ignore", module=NOISY)
        return _guarded(lambda: _run(argv))


def _run(argv: Sequence[str]) -> int:
    with _stops_at_once():
        plugins, options, words = _before_the_command(argv)
        if plugins:
            _load(plugins)
        parser, commands = _parsers(words[0] if words and words[0] in COMMANDS else None)
    if wrong := [option for option in options if option not in parser.option_names()]:
        parser.refuse(wrong)
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        commands.get(args.command, parser).refuse(unknown)
    if args.version:
        import attngraph

        print(f"attngraph {attngraph.__version__}")
        return 0
    if args.command is None:
        parser.print_help()
        return 0
    was_quiet = os.environ.get(QUIET, "")
    os.environ[QUIET] = "1" if args.quiet else was_quiet
    try:
        with _stopped_by_signals(), never_swallowed() as was_lost:
            code = _module(args.command).run(args)
            if was_lost() and code == 0:
                raise KeyboardInterrupt
    finally:
        os.environ[QUIET] = was_quiet
    if sys.stdout is not None:
        sys.stdout.flush()
    return code


def _parsers(asked: str | None) -> tuple[Parser, dict[str, Parser]]:
    """The parser of ``attngraph``, and those of its commands; only the command asked for has its options."""
    parser = Parser(
        prog="attngraph",
        allow_abbrev=False,  # as where plugins are looked for
        description="Attention layers as graphs, and GNN adapters on them.",
        epilog="`attngraph COMMAND --help` explains a command.",
    )
    parser.add_argument("--version", action="store_true", help="Print the version.")
    _add_plugin(
        parser, "Load a Python file that adds tasks, methods, model families or schemes (repeatable)."
    )
    places = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    places.type = str  # it is applied to all words of the command too, whose options check their own
    commands = {
        name: places.add_parser(
            name, help=about, description=about[0].upper() + about[1:] + ".", allow_abbrev=False
        )
        for name, about in COMMANDS.items()
    }
    if asked is not None:
        _module(asked).add_arguments(commands[asked])
    for command in commands.values():
        command.add_quiet()
    return parser, commands


def command_parser(name: str) -> Parser:
    """The parser of ``attngraph NAME``."""
    return _parsers(name)[1][name]


@contextmanager
def _stops_at_once() -> Iterator[None]:
    """Lets Ctrl-C end the process without a word, as long as there is nothing to clean up: inside an import
    the exception would come out as a traceback, or as an error of the package that is being imported.
    """
    is_ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if is_ours:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        if is_ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _stopped_by_signals() -> AbstractContextManager[None]:
    """Ctrl-C, SIGTERM and SIGHUP end a command in the same way: it tidies up. The processes of ``torchrun``
    leave signals alone: one of them may wait for another inside PyTorch, where no handler runs.
    """
    return nullcontext() if os.environ.get("WORLD_SIZE", "1") != "1" else on_signals(raise_stopped)


def _guarded(work: Callable[[], int]) -> int:
    """Does the work; errors of the user's become one line and an exit code."""
    try:
        return work()
    except KeyboardInterrupt as stop:
        print("\nstopped", file=sys.stderr)
        return exit_code(stop)
    except BrokenPipeError:  # as in `attngraph doctor | head -1`: whoever read the output has read enough
        _let_go_of_output()
        return NO_READER
    except MemoryError:
        return _complain("there is not enough memory: give less at once, or raise the limit (ulimit -v)")
    except OSError as error:
        if not _let_go_of_output() or (error.filename is None and error.errno in NO_OUTPUT):
            return _complain(
                f"standard output cannot be written to ({error.strerror}): write it to another place"
            )
        return _complain(f"{error}: check the path, the room on the disk and your rights")
    except Exception as error:
        # Where the module was never imported (PyTorch may be missing), nothing raised its error.
        if not isinstance(error, getattr(sys.modules.get("attngraph.errors"), "UserError", ())):
            raise
        return _complain(str(error))


def _let_go_of_output() -> bool:
    """Drops what cannot be printed; Python would try once more at its end, and tell of that too. Whether
    there was nothing to drop.
    """
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True


def _complain(message: str) -> int:
    """Prints one line, also where several processes (``torchrun``) meet the same error: the first one speaks,
    and its end ends the others while they wait.
    """
    if os.environ.get("RANK", "0") != "0":
        time.sleep(SILENCE)
    print(f"attngraph: {' '.join(message.split())}", file=sys.stderr, flush=True)
    return 2


def _add_plugin(parser: argparse.ArgumentParser, about: str | None = None) -> None:
    parser.add_argument("--plugin", action="append", default=[], type=Path, metavar="FILE", help=about)


def _before_the_command(argv: Sequence[str]) -> tuple[list[Path], list[str], list[str]]:
    """The files after ``--plugin`` before the command, the other options there, and the words that follow."""
    parser = Parser(prog="attngraph", add_help=False, allow_abbrev=False)
    _add_plugin(parser)
    parser.add_argument("words", nargs=argparse.REMAINDER, type=str)
    known, options = parser.parse_known_args(argv)
    return known.plugin, options, known.words


def _load(plugins: Sequence[Path]) -> None:
    _imported("experiments.runs.plugins").load_plugins(plugins)  # needs PyTorch


def _module(command: str) -> ModuleType:
    return _imported(f"experiments.commands.{command}")


def _imported(module: str) -> ModuleType:
    """A module of ours; where a package that it needs is missing or broken, the end of the process."""
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as error:
        package = (getattr(error, "name", None) or "").partition(".")[0]
        if package in OURS:
            raise
        what = f"the package {package}" if package else "a package"
        why = "is missing" if isinstance(error, ModuleNotFoundError) else f"does not import ({error})"
        sys.exit(_complain(f"{what} {why}; `attngraph doctor` says how to install it"))


if __name__ == "__main__":
    sys.exit(main())
