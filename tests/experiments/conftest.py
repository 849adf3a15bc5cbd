"""Fixtures of several packages of tests."""

import pytest


@pytest.fixture(scope="module")
def own_tables(tmp_path_factory):
    """The examples that a module reads are kept in Arrow tables of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATTNGRAPH_CACHE", str(tmp_path_factory.mktemp("tables")))
        yield
