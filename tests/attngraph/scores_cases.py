"""Scores to test with, and the dense graph's answer as the reference."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from attngraph import AttentionScores, PastDegree
from attngraph.adapters import PGNN
from attngraph.adapters.kernels import step_of, strip_step
from attngraph.adapters.p_scheme import p_steps
from attngraph.backends.chunks import in_chunks
from attngraph.native.library import library

KINDS = {
    "encoder": {},
    "encoder, padded": dict(padded=True),
    "encoder, bool mask": dict(bool_mask=True),
    "decoder cross": dict(causal=True),
    "decoder cross, padded": dict(causal=True, padded=True),
    "decoder cross, bool mask": dict(causal=True, bool_mask=True),
    "decoder self": dict(causal=True, triangular=True),
    "decoder self, padded": dict(causal=True, triangular=True, padded=True),
    "decoder, cached": dict(causal=True, past=True),
    "encoder, rotated": dict(bool_mask=True, rotated=True),
    "decoder self, rotated": dict(causal=True, triangular=True, padded=True, rotated=True),
    "decoder, cached and rotated": dict(causal=True, past=True, rotated=True),
}
DROPPED = {
    "encoder, dropped": dict(dropped=True),
    "encoder, bool mask, dropped": dict(bool_mask=True, dropped=True),
    "decoder cross, dropped": dict(causal=True, dropped=True),
    "decoder self, dropped": dict(causal=True, triangular=True, padded=True, dropped=True),
    "decoder, cached, rotated and dropped": dict(causal=True, past=True, rotated=True, dropped=True),
}


def random_scores(
    seed: int = 0,
    b: int = 2,
    h: int = 2,
    n: int = 5,
    m: int = 7,
    d: int = 3,
    causal: bool = False,
    triangular: bool = False,
    padded: bool = False,
    bool_mask: bool = False,
    past: bool = False,
    metric: bool = True,
    rotated: bool = False,
    dropped: bool = False,
    dtype: torch.dtype = torch.float64,
) -> AttentionScores:
    """Random scores; in padded ones, the last values of example 1 are hidden and the first query of example
    0. In rotated ones the query nodes have features of their own. In dropped ones dropout keeps no weight of
    the last query of example 0."""
    draw = torch.Generator().manual_seed(seed)
    m = n if triangular else m
    query, key, value = (
        torch.randn(b, h, k, d, generator=draw, dtype=torch.float64).to(dtype) for k in (n, m, m)
    )
    output = torch.randn(h, d, 2 * d + 1, generator=draw, dtype=torch.float64)
    mask = query_mask = past_degree = None
    if padded:
        mask = torch.zeros(b, 1, 1, m, dtype=dtype)
        mask[1, ..., -2:] = torch.finfo(dtype).min
        mask[0, ..., 1] = -0.7  # a bias that hides nothing
        query_mask = torch.ones(b, n, dtype=torch.bool)
        query_mask[0, 0] = False
    if bool_mask:
        mask = torch.rand(b, 1, n, m, generator=draw) < 0.6
        mask[0, :, 1] = False  # a query that sees nothing
        mask[1, :, :, 2] = False  # a value that nobody sees
    if past:
        past_degree = PastDegree(
            torch.rand(b, h, m, generator=draw, dtype=torch.float64).to(dtype), torch.tensor([3, 5])[:b]
        )
    feature = torch.randn(b, h, n, d, generator=draw, dtype=torch.float64).to(dtype) if rotated else None
    kept = None
    if dropped:
        kept = torch.rand(b, h, n, m, generator=draw) < 0.7
        kept[0, 0, -1] = False
    gram = (output @ output.transpose(-1, -2)).to(dtype) if metric else None
    return AttentionScores(
        query,
        key,
        value,
        mask=mask,
        query_mask=query_mask,
        triangular=triangular,
        causal=causal,
        metric=gram,
        past_degree=past_degree,
        feature=feature,
        kept=kept,
        dropout=0.3 if dropped else 0.0,
    )


def on_leaves(scores: AttentionScores) -> tuple[AttentionScores, list[Tensor]]:
    """The scores on leaves: query, key, value, and feature if they have one."""
    parts = [x for x in ("query", "key", "value", "feature") if getattr(scores, x) is not None]
    leaves = [getattr(scores, x).detach().clone().requires_grad_() for x in parts]
    return replace(scores, **dict(zip(parts, leaves))), leaves


def dense(scores: AttentionScores, p, mu, degree: str) -> tuple[Tensor, Tensor]:
    """What a step must return: the dense backend on the computed graph, and M V, in which padded queries are
    queries like all others.
    """
    scheme = PGNN(p=1.5, learn_p=False, degree=degree)
    scheme.fixed_p, scheme.fixed_mu = p, mu
    return scheme(scores.graph()), attention_output(scores)


def tiled(
    scores: AttentionScores, p, residual, degree: str = "sum", context: bool = False
) -> tuple[Tensor, Tensor | None]:
    """A step of pGNN as the tiled backend takes it: in strips where there are kernels for these scores, else
    in chunks."""
    if step_of("tiled", scores) is strip_step:
        return strip_step(scores, p, residual, degree, context)
    with torch.autocast("cpu", enabled=False):
        return in_chunks(lambda edges: p_steps(edges, p, residual, degree).query, scores, context)


def skip_without_library(needed: bool = True) -> None:
    """Skip the test where only strips do what it asks for, and the library of C kernels is not to be had."""
    if needed and library() is None:
        pytest.skip("no C compiler when attngraph was installed")


def single(scores: AttentionScores) -> AttentionScores:
    """The same scores in single precision, gradients included."""
    past, names = scores.past_degree, ("query", "key", "value", "feature", "metric", "scale", "mask")
    numbers = {name: getattr(scores, name) for name in names}
    made = {name: x.float() for name, x in numbers.items() if isinstance(x, Tensor) and x.dtype != torch.bool}
    return replace(scores, **made, past_degree=past and past._replace(total=past.total.float()))


def attention_output(scores: AttentionScores) -> Tensor:
    """M V of all queries."""
    return replace(scores, query_mask=None).graph().weight @ scores.value
