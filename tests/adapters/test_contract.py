"""Every scheme keeps the contract. A new scheme adds its arguments to ``cases.py``."""

import pytest

from attngraph.adapters import SCHEMES
from tests.adapters.cases import ARGUMENTS, TYPICAL, thorough
from tests.adapters.contract import CHECKS
from tests.pairwise import pairwise


@pytest.fixture(autouse=True)
def tiny_chunks(monkeypatch):
    """Chunks of 3 queries, so that these small graphs have several."""
    monkeypatch.setattr("attngraph.backends.chunks.MOST", 3)


def test_every_scheme_has_its_arguments_here():
    ours = {name for name, scheme in SCHEMES.items() if scheme.__module__.startswith("attngraph.adapters.")}
    assert ours == set(ARGUMENTS) == {case.name for case in TYPICAL}


def table() -> list:
    params = []
    for check in CHECKS:
        cases = thorough(**check.values) if check.thorough else pairwise(case=TYPICAL, **check.values)
        for settings in cases:
            label = "-".join(map(str, [check.run.__name__.removeprefix("check_"), *settings.values()]))
            params.append(pytest.param(check.run, settings, id=label))
    return params


@pytest.mark.parametrize("check, settings", table())
def test_every_scheme_keeps(check, settings):
    check(**settings)
