"""Fixtures of several packages of tests."""

import signal
from pathlib import Path

import pytest

from attngraph.experiments.base.stopping import SIGNALS
from attngraph.experiments.data.drawn import make_scenes


@pytest.fixture(scope="module")
def own_tables(tmp_path_factory):
    """The examples that a module reads are kept in Arrow tables of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATTNGRAPH_CACHE", str(tmp_path_factory.mktemp("tables")))
        yield


@pytest.fixture(scope="session")
def six(tmp_path_factory) -> Path:
    """A folder with six data sets in their official formats, which no test changes."""
    return make_scenes(tmp_path_factory.mktemp("data") / "six", seed=0, size=40)


def one_line(capsys) -> str:
    """The only line on stderr, an error of ours."""
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("attngraph: ")
    return line


@pytest.fixture
def handled_signals():
    """Ctrl-C, SIGTERM and SIGHUP as in a terminal; in the background or under ``nohup`` some are ignored."""
    defaults = dict.fromkeys(SIGNALS, signal.SIG_DFL) | {signal.SIGINT: signal.default_int_handler}
    before = {number: signal.signal(number, default) for number, default in defaults.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
