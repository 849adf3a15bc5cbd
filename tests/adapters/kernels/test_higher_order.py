"""Second derivatives, torch.func's transforms, forward mode and torch.export of the steps in one function."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.autograd.functional import hvp

from attngraph import AttentionScores
from attngraph.adapters import GCN, PGNN
from tests.adapters.kernels.test_step import SMALL, STEPS, close, every_step
from tests.attngraph.scores_cases import (
    dense,
    random_scores,
    skip_without_library,
)
from tests.pairwise import pairwise_params


def plain(scores, p, residual, degree="sum", context=False):
    """The dense backend's answer."""
    out, attention = dense(scores, p, residual * p / 2, degree)
    return out, attention if context else None


@every_step
def test_one_tensor_in_two_places(step):
    """The key is the value, and the feature the query: each place has its own part of the gradient. Under
    autocast, which must not reach single precision there."""
    skip_without_library(step == "tiled")

    def gradient(step, dtype):
        scores = random_scores(5, **SMALL, dtype=dtype)
        query, value = scores.query.requires_grad_(), scores.value.requires_grad_()
        same = replace(scores, query=query, key=value, value=value, feature=query)
        with torch.autocast("cpu", torch.bfloat16):
            out = step(same, 1.5, 0.2)[0].square().sum()
            return torch.autograd.grad(out, (query, value), create_graph=True)

    expected = gradient(plain, torch.float64)
    run = STEPS[step]
    for got, single, want in zip(gradient(run, torch.float64), gradient(run, torch.float32), expected):
        close(step, got, want, 1e-7, 1e-7)
        torch.testing.assert_close(single.double(), want, rtol=1e-4, atol=1e-5)


TRANSFORMS = {
    "grad": torch.func.grad,
    "jacrev": torch.func.jacrev,
    "jacfwd": torch.func.jacfwd,
    "hessian": torch.func.hessian,
    "vmap": lambda f: torch.func.vmap(lambda x: f(x[None])),
    "vmap of grad": lambda f: torch.func.vmap(torch.func.grad(lambda x: f(x[None]))),
}


@pytest.mark.parametrize(
    "transform, backend, scheme",
    pairwise_params(
        transform=TRANSFORMS, backend=["dense", "tiled"], scheme=["one step", "two steps", "gcn"]
    ),
)
def test_transforms_of_torch_func(transform, backend, scheme):
    scores = random_scores(8, **{**SMALL, "b": 1}, metric=False, dtype=torch.float32)
    scheme = {"one step": PGNN, "two steps": partial(PGNN, steps=2), "gcn": GCN}[scheme]()

    def loss(query):
        outputs = scheme.aggregate_and_context(replace(scores, query=query), backend)
        return sum(x.square().sum() for x in outputs)

    def reference(query):
        graph = replace(scores, query=query).graph()
        return scheme(graph).square().sum() + (graph.weight @ graph.value).square().sum()

    got, want = (TRANSFORMS[transform](f)(scores.query) for f in (loss, reference))
    torch.testing.assert_close(got, want)


@every_step
def test_hessian_vector_products(step):
    """``hvp`` calls the second backward pass with a gradient that needs none itself."""
    scores = random_scores(9, **SMALL)
    query, direction = scores.query, torch.ones_like(scores.query)

    def loss(step, query):
        return step(replace(scores, query=query), 1.5, 0.2)[0].sum()

    got, want = (hvp(partial(loss, x), query, direction)[1] for x in (STEPS[step], plain))
    assert want.abs().max() > 1e-3
    close(step, got, want, 1e-7, 1e-7)


def test_export():
    scores = random_scores(10, causal=True, metric=False, dtype=torch.float32)

    class Step(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scheme = PGNN()

        def forward(self, query, key, value):
            return self.scheme.aggregate_and_context(AttentionScores(query, key, value, causal=True), "tiled")

    step, inputs = Step(), (scores.query, scores.key, scores.value)
    exported = torch.export.export(step, inputs).module()
    for got, want in zip(exported(*inputs), step(*inputs)):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
