"""Aggregated features at the length of the attention output: only their direction counts."""

import pytest
import torch

from attngraph.adapters.rescale import rescaled


def pair(dtype=torch.float64):
    draw = torch.Generator().manual_seed(0)
    aggregated, plain = (torch.randn(2, 3, 6, generator=draw).to(dtype) for _ in range(2))
    return aggregated, plain, torch.randn(6, 5, generator=draw).to(dtype)


def test_length_and_direction():
    """A factor of the aggregated features changes nothing and gets no gradient."""
    aggregated, plain, output = pair()
    factor = torch.full((2, 3, 1), 3.0, dtype=torch.float64, requires_grad=True)
    got = rescaled(factor * aggregated, plain, lambda x: x @ output)
    torch.testing.assert_close(got, rescaled(aggregated, plain, lambda x: x @ output))
    assert torch.autograd.grad((got * plain).sum(), factor, retain_graph=True)[0].abs().max() < 1e-12
    for k in range(2):
        for i in range(3):
            u, u_bar, new = (x[k, i] @ output for x in (plain, aggregated, got))
            assert float(new.norm()) == pytest.approx(float(u.norm()))
            torch.testing.assert_close(new / new.norm(), u_bar / u_bar.norm())


def test_gradients():
    inputs = [x.requires_grad_() for x in pair()]
    assert torch.autograd.gradcheck(lambda u_bar, u, w: rescaled(u_bar, u, lambda x: x @ w), inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_what_has_no_length(dtype):
    aggregated, plain, output = pair(dtype)
    aggregated, plain = (x.clone() for x in (aggregated, plain))
    aggregated[0, 0] = 0  # keeps its length
    plain[0, 1] = 0  # gives its own
    tiny = 1e-2 if dtype == torch.float16 else 1e-6
    aggregated[1, 0], plain[1, 0] = tiny, 10
    inputs = [aggregated.requires_grad_(), plain.requires_grad_()]
    got = rescaled(*inputs, lambda x: x @ output)
    assert got.dtype == dtype and got.isfinite().all()
    assert (got[0, 0] == 0).all() and got[0, 1].abs().max() < 1e-3
    got.float().sum().backward()
    assert all(x.grad.isfinite().all() for x in inputs)
