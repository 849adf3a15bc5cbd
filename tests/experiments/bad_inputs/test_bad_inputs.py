"""Every bad input ends with one line that names what is wrong and says what to do, and leaves nothing behind.

All cases run in this process, through the command's own ``main``.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path

import pytest
import torch

from attngraph.experiments.base.arguments import QUIET
from attngraph.experiments.cli import COMMANDS, main
from tests.experiments.bad_inputs import asking, reading, writing
from tests.experiments.bad_inputs.damage import JSON_FILE
from tests.experiments.bad_inputs.world import Case, World, listing, make_world

CASES = [case for boundary in (asking, reading, writing) for case in boundary.cases()]
#: Words of which a message with a remedy has one.
REMEDY = re.compile(
    r"\b(give|use|take|takes|choose|name|leave|add|provide|make|check|download|install|reinstall|delete"
    r"|remove|unpack|restore|allow|write|run|see|must|at least|did you mean|look|copy|save|set|free|put|wait"
    r"|replace|correct|load|generate|needs|only|exclude|pass|select|disable|unset|move)\b"
)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(autouse=True)
def restored(monkeypatch, world):
    """What commands change in their process is undone; temporary files come where they are seen. Without
    progress and notes, whatever is on standard error is the message.
    """
    monkeypatch.setenv(QUIET, "1")
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
    assert len(set(names)) == len(names) <= 200
    assert {name.split()[0] for name in names} >= set(COMMANDS) - {"doctor", "list"}
    assert all(sum(name.endswith(how) for name in names) >= 2 for how in JSON_FILE)


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
    except Exception as error:  # its own traceback may be thousands of frames long
        pytest.fail(f"{type(error).__name__}: {str(error)[:300]}", pytrace=False)
    error = capfd.readouterr().err
    after = listing(world.folder)
    shutil.rmtree(spot)
    assert problems(case, code, error, before, after) == []


def problems(case: Case, code: int, error: str, before: dict, after: dict) -> list[str]:
    """What is wrong with how a command ended."""
    lines = [line for line in error.split("\n") if line.strip()]
    if code in (0, None) or len(lines) != 1:
        return [f"code {code}, {len(lines)} lines: {error[:2000]}"]
    (line,) = lines
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    wrong = {
        f"not in the form of our errors: {line}": not line.startswith("attngraph: "),
        f"no remedy: {line}": not REMEDY.search(line),
        f"names none of {case.named}: {line}": not any(name in line for name in case.named),
        f"left on disk: {changed}": bool(changed),
    }
    return [what for what, is_so in wrong.items() if is_so]
