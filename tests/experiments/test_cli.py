"""The command line: help, exit codes, how words become options, and that every command is like the others."""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, fields
from inspect import isclass
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Literal, get_args

import pytest

import attngraph.experiments.commands
from attngraph.adapters import SCHEMES
from attngraph.analysis import embedding
from attngraph.analysis.plots.embedding import COLOURS
from attngraph.errors import UserError
from attngraph.experiments import cli
from attngraph.experiments.base.arguments import HelpFormatter, Parser, add_options, argument, asked, option
from attngraph.experiments.base.types import Between, Names, Seeds, Word
from attngraph.experiments.commands import options
from attngraph.experiments.commands.list import LISTS
from attngraph.experiments.methods import METHODS
from attngraph.experiments.models.convert import ARRANGEMENTS, KINDS
from attngraph.experiments.runs.experiment import Experiment
from attngraph.experiments.runs.trackers import NONE, TRACKERS
from attngraph.experiments.studies.pretrain import MINIS
from attngraph.experiments.tables.grid import Grid
from attngraph.experiments.tasks import TASKS
from attngraph.experiments.tasks.task import SPLITS

ROOT = Path(__file__).parents[2]


def test_every_module_of_the_folder_is_a_command():
    folder = Path(attngraph.experiments.commands.__file__).parent
    assert {file.stem for file in folder.glob("*.py")} - {"__init__", "options"} == set(cli.COMMANDS)


def test_help_of_every_command_imports_nothing_but_the_standard_library():
    """Whoever asks for help waits for no PyTorch."""
    code = (
        "import sys\n"
        "from attngraph.experiments.cli import COMMANDS, main\n"
        "for words in ([], ['--help'], *([name, '--help'] for name in COMMANDS)):\n"
        "    try: main(words)\n"
        "    except SystemExit as end: assert end.code == 0\n"
        "heavy = {'torch', 'transformers', 'pandas', 'numpy', 'yaml', 'pydantic', 'tqdm'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "[]"
    for name, about in cli.COMMANDS.items():
        assert f"usage: attngraph {name} " in done.stdout
        assert about[0].upper() + about[1:] + "." in " ".join(done.stdout.split())


def test_there_are_few_options_and_their_help_is_told_in_sentences():
    count = 0
    for name in cli.COMMANDS:
        for action in cli.command_parser(name)._actions:
            if action.dest in ("help", "quiet"):
                continue
            count += bool(action.option_strings)
            about, place = HelpFormatter("")._expand_help(action), (name, action.dest)
            assert about[0].isupper() and about.endswith(".") and about.lower().count("default:") <= 1, place
            assert action.nargs == 0 or action.metavar, place
    assert count <= 167


def test_choices_are_those_that_the_rooms_know():
    """Options spell them out, so that help need not import what knows them."""

    def choices(command: str, name: str) -> tuple:
        action = next(a for a in cli.command_parser(command)._actions if a.dest == name)
        return action.choices or action.type.choices

    assert choices("tsne", "method") == embedding.METHODS and choices("tsne", "colour") == COLOURS
    assert choices("tsne", "split") == choices("score", "split") == SPLITS
    assert choices("convert", "layout") == tuple(KINDS)
    assert choices("convert", "arrangement") == tuple(ARRANGEMENTS)
    assert choices("pretrain", "model") == tuple(MINIS) and choices("train", "track") == (*TRACKERS, NONE)
    assert choices("list", "what") == tuple(LISTS)


def test_words_that_name_a_field_are_fields_of_what_set_sets():
    for kind, top in ((options.TrainOptions, Experiment), (options.TableOptions, Grid)):
        (changes,) = (one for one in fields(kind) if one.name == "changes")
        for field in changes.metadata["fields"].values():
            of = top
            for name in field.split("."):
                found = of.model_fields[name].annotation
                of = next((one for one in (found, *get_args(found)) if isclass(one)), found)


# ---- from types to options -------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One option of each type."""

    place: Path = argument("Read this.", "FOLDER")
    more: str | None = argument("Read that.", "NAME", None)
    count: Annotated[int, Between(1, 9)] = option("Count so many.", 3)
    rate: float = option("Learn so fast, of 100%%.", 1.5)
    names: Names | None = option("Name these. Default: all.")
    shares: tuple[float, ...] = option("Take these shares.", ())
    words: tuple[Word, ...] = option("Say this.", ())
    seeds: Seeds | None = option("Seed so.", metavar="N")
    colours: tuple[Literal["red", "blue"], ...] = option("Paint so.", ("red",))
    sizes: tuple[int, int] | None = option("Draw so much.", metavar=("A", "B"))
    changes: tuple[str, ...] = option("Set this.", (), flag="--set", nargs=None)
    dry_run: bool = option("Run nothing.", False)


def test_words_become_values_of_their_types():
    assert asked(Asked, ["here"]) == Asked(place=Path("here"))
    words = "a/b x --count 9 --rate 1e-3 --names a,,b a --seeds 4-6 --colours blue,blue --colours red"
    words += " --shares 0.5,1 2 --words a,b c"
    words += " --sizes 2 2 --set a=1 --set b=2 --dry-run"
    found = asked(Asked, words.split())
    assert (found.place, found.more, found.count, found.rate) == (Path("a/b"), "x", 9, 1e-3)
    assert (found.names, found.seeds, found.colours) == (("a", "b"), range(4, 7), ("blue", "red"))
    assert (found.shares, found.words) == ((0.5, 1, 2), ("a,b", "c"))
    assert (found.sizes, found.changes, found.dry_run) == ((2, 2), ("a=1", "b=2"), True)
    assert asked(Asked, ["x", "--seeds", "3"]).seeds == range(3)


@pytest.mark.parametrize(
    "option, value",
    [("--count", value) for value in ("x", "1.5", "9" * 5000, "10", "0")]
    + [("--rate", value) for value in ("x", "nan")]
    + [("--shares", value) for value in ("x", "1,x")]
    + [("--seeds", value) for value in ("0", "3-1", "1-2-3", "0-2147483648")]
    + [("--set", "\t"), ("--set", "half \ud83d"), ("--names", " , ")],
)
def test_values_of_another_type_are_one_line(option, value, capsys):
    with pytest.raises(SystemExit) as end:
        asked(Asked, ["here", f"{option}={value}"])
    (line,) = capsys.readouterr().err.splitlines()
    assert end.value.code == 2 and line.startswith(f"attngraph: {option}: ") and " use " in line


def test_defaults_are_told_in_one_way():
    parser = Parser(prog="attngraph", add_help=False)
    add_options(parser, Asked)
    text = " ".join(parser.format_help().split())
    for said in ("so many. Default: 3.", "of 100%. Default: 1.5.", "these. Default: all.", "Default: red."):
        assert said in text
    assert text.count("Default") == 4 and "--colours NAME [NAME ...]" in text and "--seeds N" in text


@pytest.mark.parametrize(
    "words",
    [
        ["scenes", "--out", "x", "--sede", "1"],
        ["scens"],
        ["score", "x", "--task=vqa", "--split=tset"],
        ["tsne", "--colour", "role,clas"],
    ],
)
def test_near_misses_are_named(words, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(words)
    (line,) = capsys.readouterr().err.splitlines()
    assert end.value.code == 2 and line.startswith("attngraph: ")
    assert "did you mean" in line and "see `" in line


def test_a_field_given_as_an_option_is_named_with_set(capsys):
    for words, field in ((["train"], "recipe"), (["table", "main"], "runs.recipe")):
        with pytest.raises(SystemExit):
            cli.main([*words, "--lr", "1e-3"])
        assert f"'--lr', use --set {field}.learning_rate=VALUE" in capsys.readouterr().err


@pytest.mark.parametrize(
    "what, names", [("methods", [*METHODS, "TYPE"]), ("tasks", TASKS), ("schemes", SCHEMES)]
)
def test_list_has_a_line_for_each_registered_name(what, names, capsys):
    assert cli.main(["list", what]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(names) and all(len(line.split()) > 1 for line in lines)


# ---- exit codes and signals ------------------------------------------------------------------------------


@pytest.fixture
def command(monkeypatch):
    """Puts a command in the place of ``scenes``, which raises or returns what it is told."""

    def put(outcome):
        def run(options):
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome

        monkeypatch.setitem(sys.modules, "attngraph.experiments.commands.scenes", SimpleNamespace(run=run))

    return put


@pytest.mark.parametrize(
    "outcome, code, message",
    [
        (0, 0, ""),
        (1, 1, ""),
        (UserError("--out is a file"), 2, "attngraph: --out is a file\n"),
        (OSError(28, "No space left", "a"), 2, "attngraph: [Errno 28] No space left: 'a': check the path,"),
        (OSError(28, "No space left"), 2, "attngraph: cannot write to standard output (No space left)"),
        (KeyboardInterrupt(), 130, "\nstopped\n"),
    ],
)
def test_exit_codes(command, capsys, outcome, code, message):
    command(outcome)
    assert cli.main(["scenes", "--out", "x"]) == code
    error = capsys.readouterr().err
    assert error.startswith(message) and bool(error) == bool(message) and "Traceback" not in error
    command(ZeroDivisionError("a mistake of ours keeps its traceback"))
    with pytest.raises(ZeroDivisionError):
        cli.main(["scenes", "--out", "x"])


def in_a_process(run: str, words: str = "scenes --out x", **options) -> subprocess.CompletedProcess:
    """``attngraph`` in its own process, with a command in the place of ``scenes`` that runs this code."""
    code = (
        "import sys, os, signal\n"
        "from types import SimpleNamespace\n"
        f"def run(options):\n    {run}\n    return 0\n"
        "sys.modules['attngraph.experiments.commands.scenes'] = SimpleNamespace(run=run)\n"
        "from attngraph.experiments.cli import main\n"
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
    said = "cannot write to standard output (No space left on device): redirect it to another place"
    for each in (done, helped):
        assert (each.returncode, each.stderr) == (2, f"attngraph: {said}\n")


def test_ctrl_c_while_a_plugin_is_loaded_ends_without_a_word():
    """What it takes Ctrl-C for, or says of it, does not matter; commands are imported there too."""
    code = (
        "import os, signal, sys, time\n"
        "from types import SimpleNamespace\n"
        "def load(files):\n    try: os.kill(os.getpid(), signal.SIGINT); time.sleep(60)\n"
        "    except BaseException as error: raise ImportError('half imported') from error\n"
        "sys.modules['attngraph.experiments.runs.plugins'] = SimpleNamespace(load_plugins=load)\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from attngraph.experiments.cli import main\n"
        "main(['--plugin', 'slow.py', 'doctor'])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_quiet_turns_off_bars_and_notes_and_nothing_else(command, monkeypatch, capsys):
    def run(options):
        from attngraph.experiments.base.progress import Progress, note

        print(sum(1 for _ in Progress(range(3), "counting")))
        note("by the way")
        return 0

    monkeypatch.setitem(sys.modules, "attngraph.experiments.commands.scenes", SimpleNamespace(run=run))
    shown = []
    for more in ([], ["-q"], ["--quiet"]):
        assert cli.main(["scenes", "--out", "x", *more]) == 0
        shown.append(capsys.readouterr())
    assert {each.out for each in shown} == {"3\n"} and {each.err for each in shown[1:]} == {""}
    assert "counting: 100%" in shown[0].err and "by the way\n" in shown[0].err


def test_warnings_of_packages_are_kept_from_users_and_ours_are_not():
    run = (
        "import warnings; warn = warnings.warn_explicit; "
        "warn('theirs', FutureWarning, 'x.py', 1, module='transformers.modeling_utils'); "
        "warn('ours', UserWarning, 'y.py', 1, module='attngraph.graph')"
    )
    done = in_a_process(run, stdout=subprocess.PIPE)
    assert "theirs" not in done.stderr and "ours" in done.stderr
