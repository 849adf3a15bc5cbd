"""Every scheme keeps the contract. A new scheme adds its arguments to ``cases.py``."""

import pytest
import torch

from attngraph.adapters import SCHEMES
from tests.adapters import contract, contract_on_scores
from tests.adapters.cases import ARGUMENTS, ONE_STEP, TYPICAL, case_of, thorough
from tests.pairwise import pairwise


@pytest.fixture(autouse=True)
def tiny_chunks(monkeypatch):
    """Chunks of 3 queries, strips of 2 and blocks of few edges, so that these small graphs have several."""
    monkeypatch.setattr("attngraph.backends.chunks.MOST", 3)
    monkeypatch.setattr("attngraph.adapters.kernels.strips.ROWS", 2)
    monkeypatch.setattr("attngraph.adapters.kernels.fused.BLOCK", 100)


def test_every_scheme_has_its_arguments_here():
    ours = {name for name, scheme in SCHEMES.items() if scheme.__module__.startswith("attngraph.adapters.")}
    assert ours == set(ARGUMENTS) == {case.name for case in TYPICAL}


@pytest.mark.parametrize("backend", ["dense", "sparse"])
def test_gradients_of_a_large_p_are_finite_where_there_is_no_edge(backend):
    """:math:`R^{p-2}` exceeds float32 there."""
    contract.check_finite(case_of("pgnn", p=8.0, learn_p=False), (torch.float32, backend))


def table() -> list:
    params = []
    for module in (contract, contract_on_scores):
        for check in module.CHECKS:
            cases = thorough(**check.values) if check.thorough else covering(TYPICAL, check.values)
            if check.kernels:
                cases += covering(ONE_STEP, check.values | {"path": check.kernels})
            for settings in cases:
                words = [module.__name__.rpartition(".")[-1], check.run.__name__, *settings.values()]
                params.append(pytest.param(check.run, settings, id="-".join(map(str, words))))
    return params


def covering(cases: list, values: dict[str, list]) -> list[dict]:
    """Every pair of two values; nothing where a parameter has none."""
    return pairwise(case=cases, **values) if all(values.values()) else []


@pytest.mark.parametrize("check, settings", table())
def test_every_scheme_keeps(check, settings):
    check(**settings)
