"""The command ``attngraph``: finds a command's module in :mod:`attngraph.experiments.commands` and runs it.

A command is a module with ``run(options)``, which returns the process's exit code, and a dataclass of options
in :mod:`attngraph.experiments.commands.options`. It is imported only when it runs, so that help texts and
usage errors are quick.
"""

from __future__ import annotations

import errno
import importlib
import io
import os
import sys
import time
import warnings
from collections.abc import Sequence
from inspect import cleandoc
from pathlib import Path
from types import ModuleType

from attngraph.experiments.base.arguments import QUIET, Parser, add_options, read_options
from attngraph.experiments.base.stopping import exit_code, stopped_by_signals, stops_at_once
from attngraph.experiments.commands import options
from attngraph.extras import EXPERIMENTS, missing, require


def _paragraphs(kind: type) -> tuple[str, str]:
    """The first paragraph of a class's docstring, and the remaining text."""
    first, _, rest = cleandoc(kind.__doc__ or "").partition("\n\n")
    return first, rest


#: Name of a command (and of its module in :mod:`attngraph.experiments.commands`) → summary.
COMMANDS = {
    name.removesuffix("Options").lower(): " ".join(_paragraphs(kind)[0].split()).removesuffix(".")
    for name, kind in vars(options).items()
    if isinstance(kind, type) and kind.__module__ == options.__name__
}

DOCTOR = "doctor"  # the command that runs whatever is missing
SILENCE = 5  # seconds that processes beside the first wait before they print an error
#: Errors of unbuffered output; errors of files have the file's name.
NO_OUTPUT = (errno.ENOSPC, errno.EFBIG, errno.EIO, errno.EBADF)
NO_READER = 141  # the exit code, as shells give it for SIGPIPE


def main(argv: list[str] | None = None) -> int:
    """Run a command; invalid input ends with a one-line error message and exit code 2."""
    argv = sys.argv[1:] if argv is None else argv
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a sign that a terminal cannot show is no reason to fail
            stream.reconfigure(errors="backslashreplace")
    with warnings.catch_warnings():
        if not sys.warnoptions:  # those of other packages are about their own next versions
            warnings.simplefilter("ignore")
            warnings.filterwarnings("default", category=UserWarning, module="attngraph")
        try:
            return _run(argv)
        except KeyboardInterrupt as stop:
            print("\nstopped", file=sys.stderr)
            return exit_code(stop)
        except BrokenPipeError:  # as in `attngraph doctor | head -1`: whoever read the output has read enough
            _let_go_of_output()
            return NO_READER
        except MemoryError:
            return _complain("out of memory: use smaller inputs or batches, or raise the limit (ulimit -v)")
        except OSError as error:
            if not _let_go_of_output() or (error.filename is None and error.errno in NO_OUTPUT):
                what = f"cannot write to standard output ({error.strerror})"
                return _complain(f"{what}: redirect it to another place")
            return _complain(f"{error}: check the path, the free disk space and your permissions")
        except Exception as error:
            # Where the module was never imported (PyTorch may be missing), nothing raised its error.
            if not isinstance(error, getattr(sys.modules.get("attngraph.errors"), "UserError", ())):
                raise
            return _complain(str(error))


def _run(argv: Sequence[str]) -> int:
    with stops_at_once():
        parser, commands = _parsers()
        args, unknown = parser.parse_known_args(argv)
        if unknown:
            commands.get(args.command, parser).refuse(unknown)
        if args.plugin or args.command not in (None, DOCTOR):
            require(*EXPERIMENTS)
        if args.plugin:
            _imported("attngraph.experiments.runs.plugins").load_plugins(args.plugin)
        module = f"attngraph.experiments.commands.{args.command}"
        run = None if args.command is None else _imported(module).run
    if args.version:
        import attngraph

        print(f"attngraph {attngraph.__version__}")
        return 0
    if run is None:
        parser.print_help()
        return 0
    was_quiet = os.environ.get(QUIET, "")
    os.environ[QUIET] = "1" if args.quiet else was_quiet
    try:
        with stopped_by_signals():
            code = run(read_options(options_of(args.command), args))
    finally:
        os.environ[QUIET] = was_quiet
    if sys.stdout is not None:
        sys.stdout.flush()
    return code


def _parsers() -> tuple[Parser, dict[str, Parser]]:
    """The parser of ``attngraph``, and those of its commands."""
    parser = Parser(
        prog="attngraph",
        allow_abbrev=False,
        description="Attention layers as graphs, and GNN adapters on them.",
        epilog="`attngraph COMMAND --help` explains a command.",
    )
    parser.add_argument("--version", action="store_true", help="Print the version.")
    parser.add_argument(
        "--plugin",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="Load a Python file that adds tasks, methods, model families or schemes (repeatable).",
    )
    places = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    places.type = str  # it is applied to all words of the command too, whose options check their own
    for name, about in COMMANDS.items():
        in_list = about[0].lower() + about[1:]
        more = _paragraphs(options_of(name))[1] or None
        command = places.add_parser(
            name, help=in_list, description=f"{about}.", epilog=more, allow_abbrev=False
        )
        add_options(command, options_of(name))
        about = "Show only results and errors, without progress bars and notes."
        command.add_argument("-q", "--quiet", action="store_true", help=about)
    return parser, dict(places.choices)


def options_of(name: str) -> type:
    """The dataclass of the options of ``attngraph NAME``."""
    return getattr(options, f"{name.capitalize()}Options")


def command_parser(name: str) -> Parser:
    """The parser of ``attngraph NAME``."""
    return _parsers()[1][name]


def _let_go_of_output() -> bool:
    """Discard output that cannot be printed, since Python would retry at exit and report that error, too.
    Returns whether there was nothing to discard.
    """
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True


def _complain(message: str) -> int:
    """Print one line, also if several processes (``torchrun``) have the same error: the first one prints it,
    and its exit ends the others while they wait.
    """
    if os.environ.get("RANK", "0") != "0":
        time.sleep(SILENCE)
    print(f"attngraph: {' '.join(message.split())}", file=sys.stderr, flush=True)
    return 2


def _imported(module: str) -> ModuleType:
    """A module of attngraph; exits if a package that it needs is missing or broken."""
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as error:
        package = (getattr(error, "name", None) or "").partition(".")[0]
        if package == "attngraph":
            raise
        if isinstance(error, ModuleNotFoundError):
            sys.exit(_complain(missing(package)))
        what = f"the package {package}" if package else "a package"
        sys.exit(_complain(f"{what} cannot be imported ({error}); see `attngraph doctor`"))


if __name__ == "__main__":
    sys.exit(main())
