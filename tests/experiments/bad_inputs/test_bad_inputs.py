"""Every bad input ends with one line that names what is wrong and says what to do, and leaves nothing behind.

All cases run in this process, through the command's own ``main``.
"""

from __future__ import annotations

import copy
import re
import shutil
import tempfile
from pathlib import Path

import pytest
import torch

from experiments.base.arguments import QUIET
from experiments.cli import COMMANDS, main
from experiments.models import blip
from tests.experiments.bad_inputs import asking, reading, writing
from tests.experiments.bad_inputs.damage import JSON_FILE
from tests.experiments.bad_inputs.world import Case, World, listing, make_world

CASES = [case for boundary in (asking, reading, writing) for case in boundary.cases()]
#: Words of which a message with a remedy has one.
REMEDY = re.compile(
    r"\b(give|use|take|takes|choose|name|leave|make|check|download|install|reinstall|delete|remove|unpack|restore"
    r"|allow|write|run|see|must|at least|did you mean|look|copy|save|set|free|put|wait|replace|correct|load"
    r"|draw|needs|only|exclude)\b"
)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def load_weights():
    """Loads each captioner once: many commands begin with it. What is damaged has a path of its own."""
    loaded, load = {}, blip.load_weights

    def once(kind, checkpoint, **options):
        if checkpoint.place not in loaded:
            loaded[checkpoint.place] = load(kind, checkpoint, **options)
        return copy.deepcopy(loaded[checkpoint.place])

    return once


@pytest.fixture(autouse=True)
def restored(monkeypatch, world, load_weights):
    """What commands change in their process is undone; temporary files come where they are seen. Without
    progress and notes, whatever is on standard error is the message.
    """
    monkeypatch.setenv(QUIET, "1")
    monkeypatch.setattr(blip, "load_weights", load_weights)
    threads = torch.get_num_threads()
    temporary = world.folder / "tmp"
    temporary.mkdir(exist_ok=True)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.chdir(world.folder)
    yield
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)


def test_each_command_and_way_to_damage_a_file_has_cases():
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names) <= 330
    assert {name.split()[0] for name in names} >= set(COMMANDS) - {"doctor"}
    assert all(any(name.endswith(how) for name in names) for how in JSON_FILE)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_ends_with_one_line(case: Case, world: World, capfd):
    spot = Path(tempfile.mkdtemp(prefix="spot-", dir=world.folder))  # commands remember files by their paths
    words = case.words(world, spot)
    before = listing(world.folder)
    capfd.readouterr()
    try:
        code = main(words)
    except SystemExit as end:
        code = end.code
    except (
        BaseException
    ) as error:  # its own traceback may be thousands of frames long, or the test's time is up
        raised = f"{type(error).__name__}: {str(error)[:300]}"
        del error
        pytest.fail(raised, pytrace=False)
    error = capfd.readouterr().err
    after = listing(world.folder)
    shutil.rmtree(spot)
    assert problems(case, code, error, before, after) == []


def problems(case: Case, code: int, error: str, before: dict, after: dict) -> list[str]:
    """What is wrong with how a command ended."""
    lines = [line for line in map(last_of_progress, error.split("\n")) if line.strip()]
    found = []
    if code in (0, None):
        found.append("accepted")
    if len(lines) != 1:
        found.append(f"{len(lines)} lines: {error[:2000]}")
        return found
    (line,) = lines
    if not line.startswith("attngraph: "):
        found.append(f"not in the form of our errors: {line}")
    if not REMEDY.search(line):
        found.append(f"no remedy: {line}")
    if not any(name in line for name in case.named):
        found.append(f"names none of {case.named}: {line}")
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    if changed:
        found.append(f"left on disk: {changed}")
    return found


def last_of_progress(line: str) -> str:
    """What stays of a line that a progress bar wrote over; nothing of the bar itself."""
    line = line.rpartition("\r")[2]
    return "" if re.search(r"\d+%\|.*\||\b(it|step|s)/(s|it|step)\]", line) else line
