"""The contract that every message-passing scheme keeps, as plain functions of a :class:`Case`.

``test_contract.py`` runs all of :data:`CHECKS` on every registered scheme.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from attngraph import AttentionGraph
from attngraph.adapters.scalar import SPEED
from attngraph.adapters.scheme import SCHEMES, Scheme
from attngraph.backends import edges_of

Reference = Callable[..., Tensor]
BACKENDS = ("dense", "sparse", "tiled")


@dataclass(frozen=True)
class Case:
    """A scheme with arguments, and the loops it must agree with (see ``brute_force.py``)."""

    name: str
    reference: Reference
    args: dict[str, Any] = field(default_factory=dict)

    def make(self, dtype: torch.dtype = torch.float32) -> Scheme:
        return SCHEMES[self.name](**self.args).to(dtype)

    def __str__(self) -> str:
        return "-".join([self.name, *(f"{k}={v}" for k, v in self.args.items())])


def random_graph(
    seed: int = 0,
    b: int = 2,
    h: int = 2,
    n: int = 4,
    m: int = 5,
    d: int = 3,
    width: int = 7,
    causal: bool = False,
    triangular: bool = False,
    padded: bool = False,
    sparse: bool = False,
    prefix: int = 0,
    packed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> tuple[AttentionGraph, Tensor]:
    """A graph and the output projection ``(h, d, width)`` that its metric comes from.

    Args:
        triangular: self-attention of a decoder: as many values as queries, none later than its query.
        padded: the last queries and values of example 1 are padding (of example 0 the first, if triangular).
        sparse: some weights are exactly zero.
        prefix: if triangular, how many of the first queries see each other.
        packed: the query with which a second text begins, which sees nothing of the first.
    """
    draw = torch.Generator().manual_seed(seed)
    m = n if triangular else m
    query, value = (torch.randn(b, h, k, d, generator=draw, dtype=torch.float64) for k in (n, m))
    output = torch.randn(h, d, width, generator=draw, dtype=torch.float64)
    scores = 1.5 * torch.randn(b, h, n, m, generator=draw, dtype=torch.float64)
    value_mask = query_mask = None
    if triangular:
        place = torch.arange(n)
        window = (place <= place[:, None]) | ((place < prefix) & (place[:, None] < prefix))
        window &= (place >= packed) | (place[:, None] < packed)
        value_mask = window.expand(b, n, n).clone()
    if padded:
        query_mask = torch.ones(b, n, dtype=torch.bool)
        query_mask[1, -1] = False
        if triangular:
            query_mask[0, 0] = False
            value_mask &= query_mask[:, None, :]
        else:
            value_mask = torch.ones(b, m, dtype=torch.bool)
            value_mask[1, -2:] = False
    if sparse:
        scores[torch.rand(scores.shape, generator=draw) < 0.3] = -torch.inf
        scores[..., 0] = scores[..., 0].clamp(min=-3)
    if value_mask is not None:
        visible = value_mask if value_mask.dim() == 3 else value_mask[:, None].expand(b, n, m)
        # as a model would: padded rows look at everything
        scores = scores.masked_fill(~visible[:, None], -1e9)
    graph = AttentionGraph(
        query.to(dtype),
        value.to(dtype),
        scores.softmax(-1).to(dtype),
        query_mask,
        value_mask,
        causal,
        (output @ output.transpose(-1, -2)).to(dtype),
    )
    if prefix or packed:
        place = torch.arange(n)
        first = torch.where(place < packed, 0, packed)
        last = torch.where(place < prefix, prefix - 1, place)
        graph = replace(graph, span=torch.stack([first, last], -1).expand(b, n, 2))
    return graph, output


GRAPHS = {
    "encoder": dict(),
    "encoder, padded": dict(padded=True),
    "encoder, zero weights": dict(sparse=True),
    "decoder cross": dict(causal=True),
    "decoder cross, padded": dict(causal=True, padded=True),
    "decoder self": dict(causal=True, triangular=True),
    "decoder self, padded": dict(causal=True, triangular=True, padded=True),
    "prefix": dict(causal=True, triangular=True, padded=True, prefix=3),
    "packed": dict(causal=True, triangular=True, packed=2),
    "packed, cross": dict(causal=True, packed=2),
}


def valid(graph: AttentionGraph) -> Tensor:
    """Which queries are no padding, bool ``(b, n)``."""
    b, _, n, _, _ = graph.shape
    return torch.ones(b, n, dtype=torch.bool) if graph.query_mask is None else graph.query_mask


def leaves(graph: AttentionGraph, scheme: Scheme) -> tuple[AttentionGraph, list[Tensor]]:
    """The graph on leaves that collect gradients, and those leaves with the scheme's parameters."""
    parts = ("query", "value", "weight", "metric")
    inputs = {name: getattr(graph, name).detach().clone().requires_grad_() for name in parts}
    return replace(graph, **inputs), [*inputs.values(), *scheme.parameters()]


def gradients(case: Case, graph: AttentionGraph, backend: str) -> tuple[Tensor, list[Tensor]]:
    scheme = case.make(graph.query.dtype)
    graph, inputs = leaves(graph, scheme)
    out = scheme(graph, backend)
    draw = torch.Generator().manual_seed(3)
    probe = torch.randn(out.shape, generator=draw, dtype=torch.float64).to(out.dtype)
    grads = torch.autograd.grad((out * probe).sum(), inputs, allow_unused=True)
    return out.detach(), [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, grads)]


# ---- what every scheme must do ------------------------------------------------------------------------


def check_brute_force(case: Case, kind: str) -> None:
    """The projected output is the formula's, written as loops over the nodes of the square graph."""
    graph, output = random_graph(0, **GRAPHS[kind])
    scheme = case.make(torch.float64)
    with torch.no_grad():
        got = [scheme(graph, backend) @ output for backend in BACKENDS]  # b h n width
    want, rows = case.reference(scheme, graph, output), valid(graph)[:, None, :, None]
    for one in got:  # a learned exponent is stored in single precision before it is widened
        torch.testing.assert_close(one * rows, want * rows, rtol=1e-9, atol=1e-10)


def check_dense_equals(case: Case, kind: str, backend: str, dtype: torch.dtype) -> None:
    """Values, gradients and edge weights of a backend are the dense one's."""
    tolerance = 1e-10 if dtype == torch.float64 else 2e-4
    graph, _ = random_graph(0, **GRAPHS[kind], dtype=dtype)
    (dense, dense_grads), (other, other_grads) = (gradients(case, graph, b) for b in ("dense", backend))
    torch.testing.assert_close(other, dense, rtol=tolerance, atol=tolerance)
    there = graph.weight > 0  # a zero weight is no edge, so it has no gradient in the sparse form
    dense_grads[2], other_grads[2] = dense_grads[2] * there, other_grads[2] * there
    for d, o in zip(dense_grads, other_grads):
        scale = max(1.0, float(d.abs().max()))
        torch.testing.assert_close(o / scale, d / scale, rtol=tolerance, atol=tolerance)
    with torch.no_grad():
        scheme, both = case.make(dtype), [edges_of(graph, name) for name in (backend, "dense")]
        for weights in (scheme.edge_weights, scheme.message_weights):
            found, expected = (edges.to_dense(weights(edges)) for edges in both)
            torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def check_gradients(case: Case, kind: str, backend: str) -> None:
    """gradcheck in float64: query, value, weight, metric and the scheme's own parameters, of single numbers
    their values, whose gradient is the one that is stored."""
    graph, _ = random_graph(11, h=1, n=3, m=4, d=2, **GRAPHS[kind])
    scheme = case.make(torch.float64)
    there = graph.weight > 0
    graph, inputs = leaves(graph, scheme)
    names = [name for name, _ in scheme.named_parameters()]
    inputs[4:] = [
        (SPEED * x).detach().requires_grad_() if name.endswith(".stored") else x
        for name, x in zip(names, inputs[4:], strict=True)
    ]

    def run(query, value, weight, metric, *parameters):
        part = replace(graph, query=query, value=value, weight=weight * there, metric=metric)
        if not names:
            return scheme(part, backend)
        given = {
            name: x + (x / SPEED - x).detach() if name.endswith(".stored") else x
            for name, x in zip(names, parameters)
        }
        return torch.func.functional_call(scheme, given, (part, backend))

    # forward differences around a zero weight would make it negative: only real edges are perturbed
    assert torch.autograd.gradcheck(run, inputs, eps=1e-7, atol=1e-4, rtol=1e-4, fast_mode=True)


def check_masked_edges(case: Case, kind: str) -> None:
    """Edges outside the masks weigh exactly 0, and what lies behind them cannot matter."""
    graph, _ = random_graph(5, **GRAPHS[kind])
    visible = graph.visible.expand(graph.shape[0], *graph.shape[2:4])
    hidden = ~visible[:, None].expand(graph.shape[:4])
    assert hidden.any() and visible.any()
    scheme = case.make(torch.float64)
    unseen = ~visible.any(1)  # values that no query sees
    # built anew, as from a model that leaves weights behind its masks: they must be dropped
    other = replace(
        graph,
        weight=graph.weight + 7.0 * hidden,
        value=graph.value.masked_fill(unseen[:, None, :, None], 1e3),
    )
    with torch.no_grad():
        for backend in BACKENDS:
            got, want = (scheme(x, backend).transpose(1, 2)[valid(graph)] for x in (other, graph))
            torch.testing.assert_close(got, want, rtol=0, atol=0)
            weights = scheme.reweight(other, backend)
            assert (weights.masked_select(hidden) == 0).all() and (weights.masked_select(~hidden) != 0).any()


def check_padding(case: Case, causal: bool) -> None:
    """Padded queries and values (before or after the others) change nothing for the valid ones."""
    graph, _ = random_graph(6, b=1, causal=causal)
    b, h, n, m, d = graph.shape
    scheme = case.make(torch.float64)
    want = scheme(graph)
    for left, three in product((False, True), (False, True)):

        def both(by, left=left):
            return (by, 0) if left else (0, by)

        ok = torch.ones(1, max(n, m), dtype=torch.bool)
        query_mask, value_mask = pad(ok[:, :n], both(3)), pad(ok[:, :m], both(2))
        if three:  # a mask per query: the padded queries see everything
            value_mask = value_mask[:, None, :] | ~query_mask[:, :, None]
        padded = AttentionGraph(
            pad(graph.query, (0, 0, *both(3)), value=0.5),
            pad(graph.value, (0, 0, *both(2)), value=0.5),
            pad(graph.weight, (*both(2), *both(3)), value=0.5),
            query_mask,
            value_mask,
            causal,
            graph.metric,
        )
        for backend in BACKENDS:
            got = scheme(padded, backend)[:, :, query_mask[0]]
            torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


def check_no_future(case: Case, triangular: bool, prefix: int) -> None:
    """In a causal graph later queries (and their values) do not change the output at earlier ones."""
    kind = dict(causal=True, triangular=triangular or prefix > 0, prefix=prefix)
    one, _ = random_graph(7, n=6, **kind)
    two, _ = random_graph(8, n=6, **kind)
    scheme = case.make(torch.float64)
    for k in range(max(1, prefix), 6):
        own = kind["triangular"]
        mixed_value = torch.cat([one.value[:, :, :k], two.value[:, :, k:]], 2) if own else one.value
        mixed = replace(
            one,
            query=torch.cat([one.query[:, :, :k], two.query[:, :, k:]], 2),
            value=mixed_value,
            weight=torch.cat([one.weight[:, :, :k], two.weight[:, :, k:]], 2),
        )
        for backend in BACKENDS:
            got, want = scheme(mixed, backend), scheme(one, backend)
            torch.testing.assert_close(got[:, :, :k], want[:, :, :k], rtol=1e-12, atol=1e-12)
            assert not torch.allclose(got[:, :, k:], want[:, :, k:])


def check_past_degree(case: Case, chunked: tuple[bool, int, int]) -> None:
    """Queries in chunks, with the degrees handed on, give what all queries at once give."""
    triangular, prefix, packed = chunked
    kind = dict(causal=True, triangular=triangular, prefix=prefix, packed=packed)
    whole, _ = random_graph(9, n=6, padded=True, **kind)
    scheme = case.make(torch.float64)
    want = scheme(whole)
    past = None
    for start, end in ((0, 2), (2, 3), (3, 6)):
        values = slice(0, end if triangular else None)
        value_mask = whole.value_mask[:, start:end, values] if triangular else whole.value_mask
        if past is not None and triangular:
            grown = end - past.total.shape[-1]
            past = past._replace(total=pad(past.total, (0, grown)))
        part = AttentionGraph(
            whole.query[:, :, start:end],
            whole.value[:, :, values],
            whole.weight[:, :, start:end, values],
            whole.query_mask[:, start:end],
            value_mask,
            True,
            whole.metric,
            past,
            span=None if whole.span is None else _span_of_part(whole.span[:, start:end] - start, start),
        )
        for backend in BACKENDS:
            torch.testing.assert_close(scheme(part, backend), want[:, :, start:end], rtol=1e-11, atol=1e-12)
        past = part.degree_after()


def _span_of_part(span: Tensor, start: int) -> Tensor:
    """The span of queries that come after others: what begins before them goes on from the past."""
    first, last = span.unbind(-1)
    return torch.stack([first.clamp(min=-1 if start else 0), last], -1)


def awkward_graphs(dtype: torch.dtype) -> dict[str, AttentionGraph]:
    """Graphs on which careless formulas give inf or NaN."""
    draw = torch.Generator().manual_seed(2)
    b, h, n, m, d = 2, 2, 4, 6, 3
    query, value = torch.randn(b, h, n, d, generator=draw), torch.randn(b, h, m, d, generator=draw)
    logits = torch.randn(b, h, n, m, generator=draw)
    factor = torch.randn(h, d, 8, generator=draw)
    one_hot = torch.zeros(b, h, n, m).index_fill(-1, torch.tensor([2]), 1.0)
    blind = torch.ones(b, n, m, dtype=torch.bool)
    blind[:, 0] = blind[1, :, 3] = False
    half = torch.rand(b, h, n, m, generator=draw) < 0.5
    same = torch.randn(b, h, 1, d, generator=draw).expand(b, h, 6, d)
    square = dict(query=same[:, :, :4], value=same[:, :, :4])
    plain = {
        "one-hot": dict(weight=one_hot),
        "peaked": dict(weight=(30 * logits).softmax(-1)),
        "duplicates": dict(query=same[:, :, :n], value=same),
        # d_i = e_j = 1 and equal features: the distance R is exactly 0
        "duplicates, equal degrees": square | dict(weight=torch.full((b, h, n, 4), 0.25)),
        "duplicates, one-hot": square | dict(weight=torch.eye(4).expand(b, h, 4, 4)),
        "nearly duplicates": dict(query=same[:, :, :n] * (1 + 1e-4), value=same),
        "zero features": dict(query=0 * query, value=0 * value),
        "huge features": dict(query=200 * query, value=200 * value),
        "blind rows": dict(value_mask=blind),
        "no valid query": dict(query_mask=torch.zeros(b, n, dtype=torch.bool)),
        "no visible value": dict(value_mask=torch.zeros(b, m, dtype=torch.bool)),
        "all weights zero": dict(weight=torch.zeros(b, h, n, m)),
        "all weights 1e-30": dict(weight=torch.full((b, h, n, m), 1e-30)),
        **{f"half {w}": dict(weight=logits.softmax(-1).masked_fill(half, w)) for w in (1e-20, 1e-38)},
    }
    graphs = {}
    for name, changes in plain.items():
        made = dict(query=query, value=value, weight=logits.softmax(-1), metric=factor @ factor.mT) | changes
        made = {k: v.to(dtype) if v.is_floating_point() else v for k, v in made.items()}
        graphs[name] = AttentionGraph(**made)
        graphs[f"{name}, causal"] = AttentionGraph(**made, causal=True)
    return graphs


def check_finite(case: Case, way: tuple[torch.dtype, str]) -> None:
    """Values and gradients of everything are finite numbers on graphs made to break them."""
    dtype, backend = way
    for name, graph in awkward_graphs(dtype).items():
        out, grads = gradients(case, graph, backend)
        assert out.dtype == dtype
        assert out.isfinite().all(), f"{name}: output"
        for what, grad in zip(("query", "value", "weight", "metric", "parameter", "parameter"), grads):
            assert grad.isfinite().all(), f"{name}: gradient of {what}"


def check_half_precision_and_autocast(case: Case, dtype: torch.dtype) -> None:
    """Half precision gives the same numbers to its own accuracy; autocast does not touch the arithmetic."""
    graph, _ = random_graph(4, n=6, m=9, d=8, causal=True, dtype=torch.float32)
    parts = [x.to(dtype) for x in (graph.query, graph.value, graph.weight)]
    half = AttentionGraph(*parts, causal=True, metric=graph.metric)
    wide = AttentionGraph(*(x.float() for x in parts), causal=True, metric=graph.metric)
    scheme = case.make()
    with torch.no_grad():
        want, got = scheme(wide), scheme(half)
    assert got.dtype == dtype
    torch.testing.assert_close(got.float(), want, rtol=1e-2, atol=1e-2)
    with torch.no_grad(), torch.autocast("cpu", dtype):
        assert torch.equal(scheme(wide), want)


def check_residual_share(case: Case, kind: str) -> None:
    """What is left without the residual share of the query's own features is a sum of values.

    Features are wider than there are values, so that a query is no such sum. Where queries also send to
    values, that holds for one step.
    """
    graph, _ = random_graph(13, n=3, m=4, d=9, width=12, **GRAPHS[kind])
    scheme = case.make(torch.float64)
    if not graph.causal:
        scheme.steps = 1
    with torch.no_grad():
        out = scheme(graph)
        for backend in BACKENDS:
            share = torch.as_tensor(scheme.residual_share(edges_of(graph, backend)), dtype=torch.float64)
            for off, is_sum in ((0, True), (0.01, False)):
                rest = (out - (share + off) * graph.query).transpose(-1, -2)
                fit = torch.linalg.lstsq(graph.value.transpose(-1, -2), rest).solution
                away = (graph.value.transpose(-1, -2) @ fit - rest).norm(dim=-2)
                away = away.transpose(0, 1)[:, valid(graph)]
                assert (away < 1e-9).all() if is_sum else (away > 1e-3).all()


class Check(NamedTuple):
    """One part of the contract.

    Attributes:
        run: the check.
        values: of its parameters.
        thorough: a scheme's arguments matter too, so that every pair of two values is tried.
        kernels: the values of ``path`` for the schemes that have kernels.
    """

    run: Callable[..., None]
    values: dict[str, list]
    thorough: bool = False
    kernels: list[str] | None = None


HALF = [torch.bfloat16, torch.float16]
WAYS = [*((torch.float32, backend) for backend in BACKENDS), *((dtype, "dense") for dtype in HALF)]
KINDS = ["encoder, padded", "decoder cross", "decoder self, padded"]
CHUNKED = [(False, 0, 0), (True, 0, 0), (True, 2, 1), (True, 0, 3), (False, 0, 2)]
EACH = list(GRAPHS)
CHECKS = [
    Check(check_brute_force, dict(kind=EACH), thorough=True),
    Check(check_dense_equals, dict(kind=EACH, backend=BACKENDS[1:], dtype=[torch.float64, torch.float32])),
    Check(check_gradients, dict(kind=["encoder", *KINDS[1:]], backend=["dense", "sparse"])),
    Check(check_masked_edges, dict(kind=["encoder, padded", "decoder self, padded", "prefix"])),
    Check(check_padding, dict(causal=[False, True])),
    Check(check_no_future, dict(triangular=[False, True], prefix=[0, 3])),
    Check(check_past_degree, dict(chunked=CHUNKED)),
    Check(check_finite, dict(way=WAYS)),
    Check(check_half_precision_and_autocast, dict(dtype=HALF)),
    Check(check_residual_share, dict(kind=KINDS)),
]
