"""Ray, on a real cluster of this machine: the same scores, and what becomes of lost workers and heads."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest

from attngraph.errors import UserError
from experiments.files import is_running
from experiments.launchers import ray as launcher
from experiments.launchers.board import Board
from experiments.training.cells import Cell, is_finished
from experiments.training.lock import sole_use
from experiments.training.runner import run_cells
from tests.experiments.launchers.cells import disturbed, execution, made, small_cells, steps

pytestmark = [
    pytest.mark.skipif(find_spec("ray") is None, reason="needs the package ray"),
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not Path("/proc/self").exists(), reason="processes are looked for in /proc"),
]
ROOT = Path(__file__).parents[3]
COMMAND = """
import sys; from pathlib import Path
from tests.experiments.launchers.cells import *
from experiments.training.lock import sole_use
from experiments.training.runner import run_cells
if __name__ == "__main__":
    out, data = map(Path, sys.argv[1:])
    with sole_use(out):
        run_cells(small_cells(data), execution(out, "ray"))
"""


@pytest.fixture(autouse=True)
def nothing_left(monkeypatch):
    """Processes find the tests' modules; none of Ray outlives a test."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    before = set(processes(""))
    yield
    until = time.monotonic() + 20
    while left := set(processes("")) - before:
        assert time.monotonic() < until, [Path(f"/proc/{one}/cmdline").read_text() for one in left]
        time.sleep(0.1)


def processes(name, above=None):
    """Processes of Ray with a name, or all of them, its agents and monitors too; only those below another if
    there is one.
    """
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (folder / "cmdline").read_text()
            is_ray = (words.startswith("ray::") or "/ray/" in words) and is_running(int(folder.name))
            if is_ray and name in words.split("\0")[0] and (above is None or is_below(folder, above)):
                found.append(int(folder.name))
    return found


def is_below(folder, above):
    process = int(folder.name)
    while process > 1:
        if process == above:
            return True
        process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    return False


def test_the_same_scores_and_errors_as_here(tmp_path, data, expected, monkeypatch):
    """With a relative folder, as users give them; and nothing is reported to anybody."""
    monkeypatch.chdir(tmp_path)
    cells, run = small_cells(data), execution(Path("out"), "ray")
    bad = Cell("bad", "majority", {}, "vqa", 0, None, data, model="no such model")
    with sole_use(run.out), pytest.raises(UserError, match="1 of 4 cells failed.*no such model") as error:
        run_cells([*cells, bad], run)
    assert "Traceback" not in str(error.value)
    assert made(cells, run.out) == expected
    assert not (run.out / ".launch").exists() and "ray" not in sys.modules
    assert launcher.SETTINGS["RAY_USAGE_STATS_ENABLED"] == "0"


def test_a_cell_whose_worker_is_killed_goes_on(tmp_path, data, expected, monkeypatch):
    notes = disturbed(monkeypatch, tmp_path / "notes")
    cells, run = small_cells(data), execution(tmp_path / "out", "ray")
    run_cells(cells, run)
    assert made(cells, run.out) == expected
    first, second = steps(notes)
    assert first == [1, 2, 3, 4, 5] and second == [5, 6, 7, 8], "state 4 was the last that was whole"
    assert steps(notes, "vqa-seed0") == [list(range(1, 9))]


def test_a_worker_that_always_dies_leaves_the_others_alone(tmp_path, data, monkeypatch):
    notes = disturbed(monkeypatch, tmp_path / "notes", fatal=2)
    text = (notes / "killer.py").read_text()
    (notes / "killer.py").write_text(text.replace('and not (FOLDER / "killed").exists()', ""))
    cells, run = small_cells(data), execution(tmp_path / "out", "ray")
    with pytest.raises(UserError, match=r"1 of 3 cells failed.*gcn vqa seed 1: its worker died") as error:
        run_cells(cells, run)
    assert "\n" not in str(error.value)
    assert [is_finished(cell, run) for cell in cells] == [True, False, True]
    assert steps(notes) == [[1, 2], *[[2]] * launcher.RETRIES]


@pytest.mark.parametrize("part", ["gcs_server", "raylet"])
def test_a_killed_head_is_one_line_and_the_same_command_goes_on(part, tmp_path, data, expected, monkeypatch):
    """As soon as one cell is finished, the head is killed."""
    monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "2")

    class Killer(Board):
        def finish(self, cell, outcome):
            super().finish(cell, outcome)
            for process in processes(part, above=os.getpid()):
                os.kill(process, signal.SIGKILL)

    cells, run = small_cells(data), execution(tmp_path / "out", "ray", jobs=1)
    with sole_use(run.out), pytest.raises(UserError, match="the head of the Ray cluster is lost") as error:
        with Killer(cells) as board:
            launcher.launch(cells, run, board)
    assert "\n" not in str(error.value)
    finished = [is_finished(cell, run) for cell in cells]
    assert any(finished) and not all(finished), "a worker that has its cell may end it without raylet"
    with sole_use(run.out):
        run_cells(cells, execution(run.out, "local"))
    assert made(cells, run.out) == expected


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_nothing_outlives_a_command(number, tmp_path, data, expected):
    """Ctrl-C and SIGKILL, as soon as a cell trains; the same command goes on."""
    out, said = tmp_path / "out", tmp_path / "said"
    script = tmp_path / "command.py"
    script.write_text(COMMAND)
    with open(said, "w") as log:
        command = subprocess.Popen([sys.executable, script, out, data], stderr=log)
    until = time.monotonic() + 300
    while not any(out.glob("cells/*/*/*/config.json")):
        assert time.monotonic() < until and command.poll() is None, said.read_text()
        time.sleep(0.05)
    ours = processes("", above=command.pid)
    assert len(set(map(os.getpgid, ours))) == 1, "a group, which can be ended in one go"
    command.send_signal(number)
    assert command.wait(60) != 0
    until = time.monotonic() + 20
    while any(map(is_running, ours)):
        assert time.monotonic() < until
        time.sleep(0.05)
    cells = small_cells(data)
    with sole_use(out):
        run_cells(cells, execution(out, "local"))
    assert made(cells, out) == expected and not (out / ".launch").exists()


def test_a_cluster_that_is_not_there_is_one_line(tmp_path, data):
    run = execution(tmp_path / "out", "ray", address="127.0.0.1:1")
    with pytest.raises(UserError, match="--ray-address 127.0.0.1:1: no Ray cluster answers") as error:
        run_cells(small_cells(data), run)
    assert "\n" not in str(error.value)


def test_a_cell_that_no_machine_can_run_is_one_line(tmp_path, data):
    run = execution(tmp_path / "out", "ray", cpus=999)
    with pytest.raises(UserError, match="no machine of the cluster .* has what a cell is given, 999 cores"):
        run_cells(small_cells(data), run)


@pytest.fixture
def cluster(tmp_path_factory, monkeypatch):
    """The address of a cluster that ``ray start`` has made; it asks for no secret of somebody's home."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    folder, port = tmp_path_factory.mktemp("r"), 6399
    words = [Path(sys.executable).with_name("ray"), "start", "--head", f"--port={port}", "--num-cpus=2"]
    words += ["--include-dashboard=false", f"--temp-dir={folder}", "--object-store-memory=80000000"]
    with open(folder / "said", "w") as log:
        env = {**os.environ, **launcher.SETTINGS}
        start = subprocess.Popen(words, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        assert start.wait(120) == 0, (folder / "said").read_text()
        yield f"127.0.0.1:{port}"
    finally:  # not `ray stop`, which ends the clusters of others too
        with suppress(ProcessLookupError):
            os.killpg(start.pid, signal.SIGKILL)


def test_a_cluster_that_others_have_started(tmp_path, data, expected, cluster):
    """It goes on when the command has ended."""
    cells, run = small_cells(data), execution(tmp_path / "out", "ray", address=cluster)
    run_cells(cells, run)
    assert made(cells, run.out) == expected
    assert processes("raylet")
