"""The command line: help, exit codes, and that every command is one module like the others."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import experiments.commands
from attngraph import __version__
from attngraph.errors import UserError
from experiments import cli
from experiments.base.arguments import HelpFormatter, Parser

ROOT = Path(__file__).parents[2]


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


VERBS = set(
    "Adapt Begin Cache Compare Compute Divide Do Draw Fetch Join Label List Look Make Measure Open Permute "
    "Put Read Resample Run Set Show Start Sum Take Train Use Write".split()
)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_of_options_is_told_in_sentences(name):
    for action in cli.command_parser(name)._actions:
        if action.dest == "help":
            continue
        option, about = [action.dest, *action.option_strings][-1], action.help
        assert about.split()[0] in VERBS and about.endswith("."), option
        assert action.nargs == 0 or (action.metavar and action.metavar != action.dest.upper()), option
        assert "by preset" not in about and "those of the preset" not in about, option


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
        (OSError(28, "No space left", "a"), 2, "attngraph: [Errno 28] No space left: 'a': check the path,"),
        (OSError(28, "No space left"), 2, "attngraph: standard output cannot be written to (No space left)"),
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


@pytest.mark.parametrize(
    "words",
    [["--plug", "x", "scenes"], ["scenes", "--out", "x", "--sede", "1"], ["scens"], ["tsne", "--methd=x"]],
)
def test_near_misses_are_named(words, capsys):
    with pytest.raises(SystemExit):
        cli.main(words)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("attngraph: ") and "did you mean" in line and "--help` tells more" in line


def in_a_process(run: str, words: str = "scenes", **options) -> subprocess.CompletedProcess:
    """``attngraph`` in its own process, with a command in the place of ``scenes`` that runs this code."""
    code = (
        "import sys, os, signal\n"
        "from types import SimpleNamespace\n"
        f"def run(args):\n    {run}\n    return 0\n"
        "fake = SimpleNamespace(add_arguments=lambda parser: None, run=run)\n"
        "sys.modules['experiments.commands.scenes'] = fake\n"
        "from experiments.cli import main\n"
        f"sys.exit(main({words.split()}))"
    )
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background ignores it
        **options,
    )


def test_signs_that_an_output_cannot_show_do_no_harm():
    run = "print('M\u0304 \u2192 \u2014', os.environ['PYTHONIOENCODING']); print('\u2192', file=sys.stderr)"
    done = in_a_process(run, stdout=subprocess.PIPE, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0, done.stderr
    assert done.stdout == "M\\u0304 \\u2192 \\u2014 ascii\n" and done.stderr == "\\u2192\n"


def test_a_reader_that_has_read_enough_is_no_error():
    """As in ``attngraph doctor | head -1``."""
    reading, writing = os.pipe()
    os.close(reading)
    done = in_a_process("print('x')", stdout=writing)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_an_output_without_room_is_one_line(monkeypatch, unbuffered):
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    with open("/dev/full", "w") as full:
        done = in_a_process("print('x')", stdout=full)
        helped = in_a_process("pass", "scenes --help", stdout=full)
    said = "standard output cannot be written to (No space left on device): write it to another place"
    for each in (done, helped):
        assert (each.returncode, each.stderr) == (2, f"attngraph: {said}\n")


def test_ctrl_c_while_a_command_is_imported_ends_without_a_word(tmp_path):
    """A plugin is loaded where commands are; what it takes Ctrl-C for, or says of it, does not matter."""
    plugin = tmp_path / "slow.py"
    plugin.write_text(
        "import os, signal\ntry:\n    os.kill(os.getpid(), signal.SIGINT)\n    import time; time.sleep(60)\n"
        "except BaseException as error:\n    raise ImportError('half imported') from error\n"
    )
    done = in_a_process("pass", f"--plugin {plugin} scenes", stdout=subprocess.PIPE)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_ctrl_c_in_a_command_is_one_line():
    done = in_a_process("os.kill(os.getpid(), signal.SIGINT); import time; time.sleep(60)")
    assert (done.returncode, done.stderr.strip()) == (130, "stopped")


def test_quiet_turns_off_bars_and_notes_and_nothing_else():
    run = (
        "from experiments.base.progress import Progress, note; "
        "print(sum(1 for _ in Progress(range(3), 'counting'))); note('by the way')"
    )
    quiet, loud = (in_a_process(run, f"scenes {option}", stdout=subprocess.PIPE) for option in ("-q", ""))
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "3\n", "")
    assert loud.stdout == "3\n" and "counting: 100%" in loud.stderr and loud.stderr.endswith("by the way\n")


def test_numbers_words_and_paths_are_checked_alike(capsys):
    parser = Parser(prog="attngraph")
    for option, kind in {"--count": int, "--rate": float, "--out": Path, "--name": None}.items():
        parser.add_argument(option, type=kind)
    good = parser.parse_args("--count -3 --rate 1e-3 --out a/b --name x".split())
    assert vars(good) == {"count": -3, "rate": 1e-3, "out": Path("a/b"), "name": "x"}
    bad = {
        "--count": ("x", "", "1.5", "1_000", "\u0663", "9" * 30),
        "--rate": ("x", "", "nan", "-inf", "1_0", "\u0663"),
        "--out": ("", " "),
        "--name": ("", "\t"),
    }
    for option, values in bad.items():
        for value in values:
            with pytest.raises(SystemExit) as end:
                parser.parse_args([f"{option}={value}"])
            (line,) = capsys.readouterr().err.splitlines()
            assert end.value.code == 2 and line.startswith(f"attngraph: {option}: ") and " give " in line


def test_defaults_are_told_in_one_way():
    parser = Parser(prog="attngraph", add_help=False)
    parser.add_argument("--a", default=3, help="A number.")
    parser.add_argument("--b", default=[1, 2], nargs=2, help="Two of 100%%.")
    parser.add_argument("--c", help="A name. Default: your own.")
    parser.add_argument("--d", action="store_true", help="A switch.")
    text = " ".join(parser.format_help().split())
    for said in ("A number. Default: 3.", "Two of 100%. Default: 1 2.", "Default: your own.", "A switch."):
        assert said in text
    assert text.count("Default") == 3


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_texts_are_sentences(name):
    for action in cli.command_parser(name)._actions:
        if "--help" not in action.option_strings:
            text = HelpFormatter("")._expand_help(action)
            assert text[0].isupper() and text.endswith("."), (action.option_strings, text)
            assert "(default" not in text and text.lower().count("default:") <= 1, text


def test_warnings_of_packages_are_kept_from_users_and_ours_are_not():
    run = (
        "import warnings; warn = warnings.warn_explicit; "
        "warn('theirs', FutureWarning, 'x.py', 1, module='transformers.modeling_utils'); "
        "warn('theirs', UserWarning, 'z.py', 1, module='PIL.Image'); "
        "warn('ours', UserWarning, 'y.py', 1, module='attngraph.graph')"
    )
    done = in_a_process(run, stdout=subprocess.PIPE)
    assert "theirs" not in done.stderr and "ours" in done.stderr


def test_every_bar_obeys_quiet():
    """Bars and notes come from one module; what prints them apart from it would be heard."""
    sources = {file: file.read_text(encoding="utf-8") for file in (ROOT / "experiments").rglob("*.py")}
    assert {file.name for file, text in sources.items() if "from tqdm" in text or "import tqdm" in text} == {
        "progress.py"
    }


@pytest.mark.parametrize("words", [[], ["-q"], ["--quiet"]])
def test_quiet_prints_the_same_results(words, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("experiments.data.drawn.SOON", 0)
    sizes = "--questions 2 1 1 --hypotheses 3 3 3 --captions 1 1 1".split()
    assert cli.main(["scenes", "--out", str(tmp_path / "data"), *sizes, *words]) == 0
    shown = capsys.readouterr()
    assert shown.out.endswith("vqa_v2, snli_ve and karpathy, seed 0\n")
    assert bool(shown.err) == (not words)
