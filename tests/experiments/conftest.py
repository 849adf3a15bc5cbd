"""Fixtures of several packages of tests."""

import signal

import pytest

from attngraph.experiments.base.stopping import SIGNALS


@pytest.fixture(scope="module")
def own_tables(tmp_path_factory):
    """The examples that a module reads are kept in Arrow tables of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATTNGRAPH_CACHE", str(tmp_path_factory.mktemp("tables")))
        yield


@pytest.fixture
def handled_signals():
    """Ctrl-C, SIGTERM and SIGHUP as in a terminal; in the background or under ``nohup`` some are ignored."""
    defaults = dict.fromkeys(SIGNALS, signal.SIG_DFL) | {signal.SIGINT: signal.default_int_handler}
    before = {number: signal.signal(number, default) for number, default in defaults.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
