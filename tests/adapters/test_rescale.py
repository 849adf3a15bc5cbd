"""Aggregated features at the length of the attention output: only their direction counts."""

from dataclasses import replace

import pytest
import torch

from adapters import PGNN
from adapters.rescale import rescaled
from tests.adapters.contract import random_graph
from tests.adapters.peft.blip_decoder import JOINS
from tests.adapters.peft.helpers import close, differ, put, run
from tests.adapters.peft_models import FAMILIES


def pair(dtype=torch.float64):
    draw = torch.Generator().manual_seed(0)
    aggregated, plain = (torch.randn(2, 3, 6, generator=draw).to(dtype) for _ in range(2))
    return aggregated, plain, torch.randn(6, 5, generator=draw).to(dtype)


def test_length_and_direction():
    aggregated, plain, output = pair()
    got = rescaled(aggregated, plain, lambda x: x @ output)
    for k in range(2):
        for i in range(3):
            u, u_bar, new = (x[k, i] @ output for x in (plain, aggregated, got))
            assert float(new.norm()) == pytest.approx(float(u.norm()))
            torch.testing.assert_close(new / new.norm(), u_bar / u_bar.norm())


def test_a_factor_of_the_aggregated_features_changes_nothing_and_gets_no_gradient():
    aggregated, plain, output = pair()
    factor = torch.full((2, 3, 1), 3.0, dtype=torch.float64, requires_grad=True)
    got = rescaled(factor * aggregated, plain, lambda x: x @ output)
    torch.testing.assert_close(got, rescaled(aggregated, plain, lambda x: x @ output))
    grad = torch.autograd.grad((got * plain).sum(), factor)[0]
    assert grad.abs().max() < 1e-12 < plain.abs().max()


def test_gradients():
    inputs = [x.requires_grad_() for x in pair()]
    assert torch.autograd.gradcheck(lambda u_bar, u, w: rescaled(u_bar, u, lambda x: x @ w), inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
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


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])  # with b_o, as Conv1D, without b_o
@pytest.mark.parametrize("join", JOINS)
def test_in_a_model_the_joins_get_what_is_rescaled(family, join, monkeypatch):
    """A join's input, recomputed with explicit W_o."""
    model, seen = put(family, join=join, rescale=True, positions="self"), []
    layer = next(m for m in model.modules() if hasattr(m, "gnn_adapter"))
    adapter = layer.gnn_adapter["default"]
    adapter.join.register_forward_pre_hook(lambda module, args: seen.append(args))
    run(model, FAMILIES[family].batch())
    plain, aggregated, project, _ = seen[0]
    weight = layer.base_layer.weight if family == "gpt2" else layer.base_layer.weight.T
    with torch.no_grad():
        u, u_bar = plain @ weight, aggregated @ weight
        close(u_bar.norm(dim=-1), u.norm(dim=-1))
        assert differ(u_bar, u)
        bias = getattr(layer.base_layer, "bias", None)
        close(project(aggregated), u_bar if bias is None else u_bar + bias)


def test_equal_values_leave_the_attention_output():
    """Without residual Ū is then a multiple of the one value, as U is; degrees change its length alone."""
    graph, output = random_graph(1, causal=True)
    graph = replace(graph, value=graph.value[:, :, :1].expand_as(graph.value))
    u, u_bar = graph.weight @ graph.value, PGNN(p=1.5, mu=0)(graph)
    one = output[0]
    with torch.no_grad():
        assert not torch.allclose(u_bar, u, rtol=0.1)
        torch.testing.assert_close(rescaled(u_bar[:, 0], u[:, 0], lambda x: x @ one), u[:, 0])
