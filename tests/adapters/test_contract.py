"""Every scheme keeps the contract. A new scheme adds its arguments to ``cases.py``."""

import pytest
import torch

from adapters import SCHEMES
from tests.adapters import contract
from tests.adapters.cases import ARGUMENTS, ONE_EACH, every_scheme
from tests.adapters.contract import GRAPHS

MASKED = [kind for kind, settings in GRAPHS.items() if {"padded", "triangular"} & set(settings)]
HALF = [torch.bfloat16, torch.float16]


@pytest.fixture
def tiny_tiles(monkeypatch):
    """Tiles of 3 x 4 edges (with 4 heads of all examples), so that these small graphs have several."""
    monkeypatch.setattr("attngraph.backends.tiled.TILE", 48)


several_tiles = pytest.mark.usefixtures("tiny_tiles")


def test_every_scheme_has_its_arguments_here():
    ours = {name for name, scheme in SCHEMES.items() if scheme.__module__.startswith("adapters.")}
    assert ours == set(ARGUMENTS)


@several_tiles
@every_scheme(kind=GRAPHS, seed=[0, 1])
def test_equals_the_formula_as_loops(case, kind, seed):
    contract.check_brute_force(case, kind, seed)


@several_tiles
@every_scheme(kind=GRAPHS, backend=["sparse", "tiled"])
def test_dense_equals(case, kind, backend):
    contract.check_dense_equals(case, kind, 0, backend)


@every_scheme(kind=["encoder", "decoder cross", "decoder self, padded"], backend=["dense", "sparse"])
def test_gradients(case, kind, backend):
    contract.check_gradients(case, kind, backend)


@every_scheme(kind=MASKED)
def test_masked_edges_weigh_nothing(case, kind):
    contract.check_masked_edges(case, kind)


@several_tiles
@every_scheme(causal=[False, True])
def test_padding_changes_nothing(case, causal):
    contract.check_padding(case, causal)


@several_tiles
@every_scheme(triangular=[False, True], prefix=[0, 3])
def test_later_queries_do_not_leak(case, triangular, prefix):
    contract.check_no_future(case, triangular, prefix)


@every_scheme(triangular=[False, True], backend=["dense", "sparse", "tiled"])
def test_packed_texts_do_not_see_each_other(case, triangular, backend):
    contract.check_packed(case, triangular, backend)


@several_tiles
@every_scheme(triangular=[False, True])
def test_queries_in_chunks(case, triangular):
    contract.check_past_degree(case, triangular)


@several_tiles
@every_scheme(prefix=[0, 2], packed=[0, 1, 2, 3])
def test_blocks_in_chunks(case, prefix, packed):
    contract.check_past_degree(case, True, prefix, packed)


@several_tiles
@every_scheme(packed=[1, 2, 3])
def test_packed_texts_in_chunks_that_look_at_the_same_values(case, packed):
    contract.check_past_degree(case, False, packed=packed)


@every_scheme(dtype=[torch.float32, *HALF])
def test_finite_on_awkward_graphs(case, dtype):
    contract.check_finite(case, dtype)


@every_scheme(dtype=HALF)
def test_half_precision(case, dtype):
    contract.check_close_in_half(case, dtype)


@pytest.mark.parametrize("case", ONE_EACH, ids=str)
def test_autocast(case):
    contract.check_autocast(case)


@several_tiles
@every_scheme(kind=["encoder, padded", "decoder cross", "decoder self, padded"])
def test_the_rest_of_the_residual_comes_from_values(case, kind):
    contract.check_residual_share(case, kind)
