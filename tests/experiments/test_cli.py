"""The command line: help, exit codes, and that every command is one module like the others."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import experiments.commands
from attngraph import __version__
from attngraph.errors import UserError
from experiments import cli


def test_every_module_of_the_folder_is_a_command():
    folder = Path(experiments.commands.__file__).parent
    assert {file.stem for file in folder.glob("*.py")} - {"__init__"} == set(cli.COMMANDS)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_of_a_command(name, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([name, "--help"])
    about = cli.COMMANDS[name]
    text = " ".join(capsys.readouterr().out.split())
    assert end.value.code == 0 and f"usage: attngraph {name} " in text
    assert about[0].upper() + about[1:] + "." in text


@pytest.mark.parametrize("words", [[], ["--help"], ["--version"]])
def test_help_and_version_import_no_command(words):
    code = (
        "import sys\n"
        "from experiments.cli import main\n"
        f"try: main({words})\n"
        "except SystemExit: pass\n"
        "print([name for name in sys.modules if name.startswith('experiments.commands.')],"
        " 'transformers' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *shown, modules = result.stdout.splitlines()
    assert modules == "[] False"
    assert shown == [f"attngraph {__version__}"] if words == ["--version"] else len(shown) > 20


@pytest.fixture
def command(monkeypatch):
    """Puts a command in the place of ``scenes``, which raises or returns what it is told."""

    def put(outcome):
        def run(args):
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome

        fake = SimpleNamespace(add_arguments=lambda parser: parser.add_argument("--out"), run=run)
        monkeypatch.setitem(sys.modules, "experiments.commands.scenes", fake)
        monkeypatch.setattr(experiments.commands, "scenes", fake, raising=False)

    return put


@pytest.mark.parametrize(
    "outcome, code, message",
    [
        (0, 0, ""),
        (1, 1, ""),
        (UserError("--out is a file"), 2, "attngraph: --out is a file\n"),
        (OSError(28, "No space left"), 2, "attngraph: [Errno 28] No space left: check the path, the room"),
        (KeyboardInterrupt(), 130, "\nstopped\n"),
    ],
)
def test_exit_codes(command, capsys, outcome, code, message):
    command(outcome)
    assert cli.main(["scenes", "--out", "x"]) == code
    error = capsys.readouterr().err
    assert error.startswith(message) and bool(error) == bool(message) and "Traceback" not in error


def test_a_programming_error_keeps_its_traceback(command):
    command(ZeroDivisionError("mine"))
    with pytest.raises(ZeroDivisionError, match="mine"):
        cli.main(["scenes", "--out", "x"])


def test_an_unknown_command_is_refused(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["paint"])
    (line,) = capsys.readouterr().err.splitlines()
    assert end.value.code == 2 and line.startswith("attngraph: COMMAND: unknown 'paint'") and "scenes" in line
