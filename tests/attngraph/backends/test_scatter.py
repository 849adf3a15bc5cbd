"""Sums at target nodes: torch-scatter and PyG's own scatter give the same numbers, here and in a whole
scheme."""

import importlib.util
import sys
import warnings

import pytest
import torch

import attngraph.backends.scatter as scatter
from adapters import PGNN
from attngraph.backends import edges_of
from attngraph.backends.message_passing import WeightedSum
from tests.adapters.contract import random_graph


@pytest.fixture(params=["torch-scatter", "pyg"])
def backend(request, monkeypatch):
    if request.param == "pyg":
        monkeypatch.setattr(scatter, "scatter_add", None)
    elif scatter.scatter_add is None:
        pytest.skip("torch-scatter is not installed")
    return request.param


def test_sums_at_targets(backend):
    source = torch.randn(30, 4, dtype=torch.float64, requires_grad=True)
    index = torch.randint(0, 6, (30,))
    out = scatter.scatter_sum(source, index, 8)
    assert out.shape == (8, 4)
    torch.testing.assert_close(out, torch.stack([source[index == k].sum(0) for k in range(8)]))
    assert torch.autograd.gradcheck(lambda s: scatter.scatter_sum(s, index, 8), source)


def test_no_edges(backend):
    assert torch.equal(
        scatter.scatter_sum(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long), 2), torch.zeros(2, 3)
    )


def test_weighted_sum_is_a_matrix_product(backend):
    x, w = torch.randn(5, 3), torch.rand(4, 5)
    target, source = w.nonzero(as_tuple=True)
    torch.testing.assert_close(WeightedSum()(x, torch.stack([source, target]), w[target, source], 4), w @ x)


@pytest.mark.parametrize("causal", [False, True])
def test_a_scheme_gives_the_same_numbers(backend, causal):
    graph, _ = random_graph(1, causal=causal, padded=True)
    scheme = PGNN(steps=2).double()
    torch.testing.assert_close(scheme(graph, "sparse"), scheme(graph, "dense"))
    scheme(graph, "sparse").sum().backward()
    assert scheme.p_logit.stored.grad.isfinite()


def test_an_unknown_backend():
    graph, _ = random_graph(1)
    with pytest.raises(ValueError, match="backend must be one of dense, sparse, tiled, got 'fast'"):
        edges_of(graph, "fast")


@pytest.mark.parametrize("broken", [False, True], ids=["not installed", "does not load"])
def test_without_torch_scatter(broken, tmp_path, monkeypatch):
    """The package still works; only a broken installation is worth one clear line."""
    if broken:
        (tmp_path / "torch_scatter.py").write_text("raise OSError('undefined symbol')\n")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "torch_scatter", raising=False)
    else:
        monkeypatch.setitem(sys.modules, "torch_scatter", None)  # importing it raises ModuleNotFoundError
    spec = importlib.util.spec_from_file_location("scatter_again", scatter.__file__)
    fresh = importlib.util.module_from_spec(spec)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        spec.loader.exec_module(fresh)
    assert fresh.BACKEND == "pyg"
    assert fresh.scatter_sum(torch.ones(2, 1), torch.tensor([1, 1]), 2).tolist() == [[0.0], [2.0]]
    lines = [str(w.message) for w in caught if "torch-scatter" in str(w.message)]
    assert len(lines) == broken
    assert all("installed but does not load (OSError: undefined symbol)" in line for line in lines)
