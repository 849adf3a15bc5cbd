"""The contract of schemes on attention scores: on every path from scores to a scheme's output, the kernels of
pGNN's single step among them, results are those of the dense graph in double precision.

``test_contract.py`` runs all of :data:`CHECKS`; ``contract.py`` has the checks on graphs, whose weights are
known.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad

from attngraph import AttentionScores
from attngraph.adapters import PGNN
from attngraph.adapters.kernels import decoding_step, fused_step, native_step, step_of, strip_step
from attngraph.adapters.scheme import Scheme
from attngraph.native.library import VARIABLE
from attngraph.norms import KeptNorms
from tests.adapters.contract import HALF, Case, Check
from tests.attngraph.scores_cases import (
    DROPPED,
    KINDS,
    attention_output,
    on_leaves,
    random_scores,
    single,
    skip_without_library,
)

Attend = Callable[[Scheme, AttentionScores], tuple[Tensor, Tensor | None]]


class Path(NamedTuple):
    """A way from scores to a scheme's output.

    Attributes:
        backend: the backend that is asked for.
        dtype: the precision of its scores.
        step: the function that computes a single step of pGNN there; None if it is the general way.
        known: whether the model has computed the weights, as in decoding, without gradients.
    """

    backend: str
    dtype: torch.dtype
    step: Callable | None = None
    known: bool = False

    def attend(
        self, scheme: Scheme, scores: AttentionScores, context: bool = True
    ) -> tuple[Tensor, Tensor | None]:
        """``scheme.aggregate_and_context``, and no other path."""
        in_c = self.dtype == torch.float32
        skip_without_library(in_c)
        with patch.dict(os.environ, {} if in_c else {VARIABLE: "eager"}):
            if one_step(scheme):
                assert step_of(self.backend, scores, context) is self.step
            return scheme.aggregate_and_context(scores, self.backend, context)

    def prepared(self, scores: AttentionScores) -> AttentionScores:
        """The scores in this path's precision. Where weights are known, the key is NaN: it is not needed."""
        if not self.known:
            return self._in_precision(scores)
        weight = scores.without_query_mask().weight().to(self.dtype)
        scores = replace(scores, key=torch.full_like(scores.key, torch.nan))
        return replace(self._in_precision(scores), known_weight=weight)

    def _in_precision(self, scores: AttentionScores) -> AttentionScores:
        return scores if self.dtype == torch.float64 else single(scores)

    def close(self, got: Tensor, want: Tensor, rtol: float, atol: float, share: float) -> None:
        """Whether a result is the reference's; in single precision up to a share of the largest number."""
        if self.dtype == torch.float32:
            rtol, atol = 0, share * max(float(want.detach().abs().max()), 0.01)
        torch.testing.assert_close(got.double(), want.double(), rtol=rtol, atol=atol)

    def same_output(self, got: Tensor, want: Tensor) -> None:
        self.close(got, want, 1e-9, 1e-10, 1e-5)

    def same_gradient(self, got: Tensor, want: Tensor) -> None:
        self.close(got, want, 1e-8, 1e-9, 3e-4)


PATHS = {
    "eager": Path("dense", torch.float64, fused_step),
    "chunks": Path("tiled", torch.float64),
    "sparse": Path("sparse", torch.float64),
    "native": Path("dense", torch.float32, native_step),
    "strips": Path("tiled", torch.float32, strip_step),
    "decoding": Path("dense", torch.float64, decoding_step, known=True),
    "decoding in C": Path("dense", torch.float32, native_step, known=True),
    "decoding in chunks": Path("tiled", torch.float64, known=True),
}
GENERAL = ["eager", "chunks"]  # of every scheme
EVERY = ["eager", "chunks", "native", "strips"]  # of pGNN's single step
KNOWN = [name for name, path in PATHS.items() if path.known]
TRIANGLES = {  # more values than queries, or fewer, by `more`
    "triangle without order": dict(triangular=True, padded=True),
    "triangle, more values": dict(causal=True, triangular=True, past=True, more=2),
    "triangle, queries that see nothing": dict(causal=True, triangular=True, padded=True, more=-2),
}
ALL = KINDS | DROPPED | TRIANGLES
ROTATED = ["encoder, rotated", "decoder self, rotated", "decoder, cached and rotated"]


def scores_of(kind: str, seed: int = 1, n: int = 5, **size) -> AttentionScores:
    options = dict(ALL[kind])
    if kind not in TRIANGLES:
        return random_scores(seed, n=n, **options, **size)
    more = options.pop("more", 0)
    scores = random_scores(seed, n=n, m=n + more, **options | {"triangular": False}, **size)
    return replace(scores, triangular=True)


def one_step(scheme: Scheme) -> bool:
    """Whether it is pGNN with one step, which has kernels."""
    return isinstance(scheme, PGNN) and scheme.steps == 1


def on_trained_leaves(scores: AttentionScores) -> tuple[AttentionScores, list[Tensor]]:
    """The scores on leaves, a trained scale among these."""
    scores, inputs = on_leaves(scores)
    if isinstance(scores.scale, Tensor) and scores.scale.requires_grad:
        scores = replace(scores, scale=scores.scale.detach().clone().requires_grad_())
        inputs.append(scores.scale)
    return scores, inputs


def results(
    case: Case, scores: AttentionScores, attend: Attend, again: bool = False
) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs, and the gradients of a sum of them with random factors; with ``again`` also the gradients of a
    sum of these gradients."""
    scheme = case.make(scores.query.dtype)
    scores, inputs = on_trained_leaves(scores)
    inputs += scheme.parameters()
    draw = torch.Generator().manual_seed(3)

    def gradients(outputs: list[Tensor]) -> list[Tensor]:
        probes = [torch.randn(x.shape, generator=draw, dtype=torch.float64).to(x.dtype) for x in outputs]
        found = torch.autograd.grad(outputs, inputs, probes, create_graph=again, allow_unused=True)
        return [torch.zeros_like(x) if grad is None else grad for x, grad in zip(inputs, found)]

    outputs = [x for x in attend(scheme, scores) if x is not None]
    grads = gradients(outputs)
    return outputs, [*grads, *gradients(grads)] if again else grads


def dense(scheme: Scheme, scores: AttentionScores, context: bool = True) -> tuple[Tensor, Tensor | None]:
    """The reference: the scheme on the graph, and M V."""
    return scheme(scores.graph()), attention_output(scores) if context else None


# ---- what every scheme must do on every path ---------------------------------------------------------------


def check_brute_force(case: Case, kind: str, path: str) -> None:
    """The projected output is the formula's, written as loops over the nodes of the square graph."""
    scores, way = scores_of(kind), PATHS[path]
    output = torch.linalg.cholesky(scores.metric)  # any factor of the metric gives these distances
    want = case.reference(case.make(torch.float64), scores.graph(), output)
    with torch.no_grad():
        got, _ = way.attend(case.make(way.dtype), way.prepared(scores), False)
    rows = 1 if scores.query_mask is None else scores.query_mask[:, None, :, None]
    way.same_output((got.double() @ output) * rows, want * rows)


def check_dense_equals(case: Case, kind: str, path: str, context: bool, scale: str) -> None:
    """Outputs, the attention output of padded queries too, and gradients are the dense graph's, whatever the
    scale of the scores is."""
    scores, way = scores_of(kind), PATHS[path]
    if scale != "default":
        factor = torch.linspace(0.3, 0.8, 2, dtype=torch.float64)
        factor = factor.view(2, 1, 1) if "each head" in scale else factor[0]
        scores = replace(
            scores, scale=0.3 if scale == "a number" else factor.requires_grad_("trained" in scale)
        )
    got, grads = results(case, way.prepared(scores), lambda *x: way.attend(*x, context))
    want, expected = results(case, scores, lambda *x: dense(*x, context))
    for one, other in zip(got, want, strict=True):
        way.same_output(one, other)
    for one, other in zip(grads, expected, strict=True):
        way.same_gradient(one, other)


def check_masks_of_any_form(case: Case, form: tuple | str, visible: bool, causal: bool, path: str) -> None:
    """Numbers shared between examples, queries or values, in another order in memory, in half precision."""
    draw, way = torch.Generator().manual_seed(0), PATHS[path]
    if form == "transposed":
        mask = torch.randn(2, 1, 7, 5, generator=draw).mT
    else:
        mask = torch.randn((2, 1, 5, 7) if form == "half" else form, generator=draw)
    mask = mask > -0.5 if visible else mask.half() if form == "half" else mask
    scores = replace(random_scores(2, causal=causal), mask=mask)
    ready = replace(way.prepared(scores), mask=mask)
    for one, other in zip(results(case, ready, way.attend), results(case, scores, dense), strict=True):
        for got, want in zip(one, other, strict=True):
            way.close(got, want, 1e-8, 1e-9, 3e-4)


def check_dropout_is_refused(case: Case, path: str) -> None:
    """Where no array of all edges is held, as its draw is."""
    way = PATHS[path]
    scores = way.prepared(random_scores(dropped=True))
    with pytest.raises(ValueError, match="tiled backend does not support kept="):
        case.make(way.dtype).aggregate_and_context(scores, way.backend)


def check_second_derivatives(case: Case, kind: str, path: str) -> None:
    """Gradients that are differentiated again are the dense graph's, and so are theirs."""
    scores, way = scores_of(kind, b=2, h=1, n=4, m=4, d=2), PATHS[path]
    _, grads = results(case, way.prepared(scores), way.attend, again=True)
    _, expected = results(case, scores, dense, again=True)
    for one, other in zip(grads, expected, strict=True):
        way.close(one, other, 1e-8, 1e-9, 3e-4)


def check_finite_differences(case: Case, kind: str, path: str) -> None:
    """Derivatives of both orders."""
    scores, inputs = on_leaves(scores_of(kind, b=2, h=1, n=3, m=4, d=2))
    way, scheme = PATHS[path], case.make(torch.float64)

    def run(*inputs):
        return way.attend(scheme, replace(scores, **dict(zip(("query", "key", "value", "feature"), inputs))))

    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(run, inputs, fast_mode=True)


def check_hidden_values(case: Case, kind: str, path: str) -> None:
    """Keys and values that no query sees change no output and get no gradient."""
    scores, way = scores_of(kind), PATHS[path]
    b, h, n, m, _ = scores.shape
    unseen = ~scores.without_query_mask().visible().expand(b, 1, n, m).any(2)  # also by padded queries
    assert unseen.any()
    hidden = unseen[..., None].expand(scores.value.shape)
    other = replace(
        scores, key=scores.key.masked_fill(hidden, 50), value=scores.value.masked_fill(hidden, 1e3)
    )
    (got, grads), (want, _) = (results(case, way.prepared(x), way.attend) for x in (other, scores))
    assert all((grad[hidden] == 0).all() for grad in grads[1:3])
    for one, two in zip(got, want, strict=True):
        assert torch.equal(one, two)


def check_padding(case: Case, left: bool, path: str) -> None:
    """Padded queries, which attend, and padded values (before or after the others) change no output and no
    gradient of the valid ones, and get no gradient."""
    short, way = random_scores(16, n=5, m=5, d=4, causal=True), PATHS[path]
    ends = (3, 0) if left else (0, 3)
    valid = pad(torch.ones(2, 5, dtype=torch.bool), ends)
    made = {x: pad(getattr(short, x), (0, 0, *ends), value=7.0) for x in ("query", "key", "value")}
    long = replace(short, **made, mask=valid[:, None, None], query_mask=valid)
    if way.known:
        with torch.no_grad():
            want, got = (way.attend(case.make(way.dtype), way.prepared(x), False)[0] for x in (short, long))
        way.same_output(got[:, :, valid[0]], want)
        return

    def of_valid(scheme, scores):
        return [x[:, :, -5:] if left else x[:, :, :5] for x in way.attend(scheme, scores)]

    (want, expected), (got, grads) = (results(case, way.prepared(x), of_valid) for x in (short, long))
    for one, two in zip(got, want, strict=True):
        way.same_output(one, two)
    for one, two in zip(grads[:3], expected[:3]):
        way.same_gradient(one[:, :, valid[0]], two)
        assert (one[:, :, ~valid[0]] == 0).all()
    for one, two in zip(grads[3:], expected[3:], strict=True):
        way.same_gradient(one, two)


def check_no_future(case: Case, triangular: bool, path: str) -> None:
    """In a causal graph later queries (and their values) change nothing at earlier ones, and get no gradient
    from these."""
    kind, way, k = dict(causal=True, triangular=triangular, rotated=True), PATHS[path], 3
    one, two = (way.prepared(random_scores(seed, **kind)) for seed in (7, 8))
    later = ["query", "feature", *(("key", "value") if triangular else ())]
    mixed = {x: torch.cat([getattr(one, x)[:, :, :k], getattr(two, x)[:, :, k:]], 2) for x in later}
    mixed = replace(one, **mixed)
    if way.known:
        first, rest = one.known_weight[:, :, :k], two.known_weight[:, :, k:]
        mixed = replace(mixed, known_weight=torch.cat([first, rest], 2))
    with torch.no_grad():
        context = not way.known
        got, want = (way.attend(case.make(way.dtype), x, context)[: 1 + context] for x in (mixed, one))
    for x, y in zip(got, want):
        way.close(x[:, :, :k], y[:, :, :k], 1e-12, 1e-12, 1e-6)
        assert not torch.allclose(x[:, :, k:], y[:, :, k:])
    if not way.known:
        _, grads = results(case, one, lambda *x: [y[:, :, :k] for y in way.attend(*x)])
        names = ("query", "key", "value", "feature")
        assert all((x[:, :, k:] == 0).all() for x, name in zip(grads, names) if name in later)


def check_cache(case: Case, kind: str, path: str) -> None:
    """Queries in chunks, with the degrees of earlier ones and the norms of the values so far handed on, give
    what all queries at once give."""
    whole, way = scores_of(kind, n=6), PATHS[path]
    b, h, n, m, _ = whole.shape
    want, past, norms = case.make(torch.float64)(whole.graph()), whole.past_degree, []
    for start, end in ((0, 2), (2, 3), (3, 6)):
        seen = m - n + end if whole.triangular else m
        queries, values = ("query", "feature"), ("key", "value")
        made = {x: getattr(whole, x)[:, :, start:end] for x in queries if getattr(whole, x) is not None}
        made |= {x: getattr(whole, x)[:, :, :seen] for x in values}
        if whole.mask is not None:
            made["mask"] = whole.mask.expand(b, 1, n, m)[:, :, start:end, :seen]
        if whole.query_mask is not None:
            made["query_mask"] = whole.query_mask[:, start:end]
        if past is not None:
            past = past._replace(total=pad(past.total, (0, seen - past.total.shape[-1])))
        part = replace(whole, **made, past_degree=past)
        ready = way.prepared(part)
        with torch.no_grad():
            ready = replace(ready, kept_norms=KeptNorms(ready.value, norms))
            got, _ = way.attend(case.make(way.dtype), ready, False)
        way.same_output(got, want[:, :, start:end])
        past = part.graph().degree_after()


def check_half_precision(case: Case, causal: bool, rotated: bool, dtype: torch.dtype, path: str) -> None:
    """Numbers are those of single precision, rounded once, at the end; autocast does not touch them."""
    scores = random_scores(4, n=40, m=300, d=8, causal=causal, dtype=dtype, metric=False, rotated=rotated)
    way = PATHS[path]
    half, inputs = on_leaves(scores)
    wide, wide_inputs = on_leaves(scores.wide())
    scheme = case.make()
    with torch.autocast("cpu", dtype):
        got = way.attend(scheme, half)
    want = way.attend(scheme, wide)
    probe = torch.randn_like(want[0]).to(dtype)
    grads = torch.autograd.grad(got[0], inputs, probe)
    expected = torch.autograd.grad(want[0], wide_inputs, probe.float())
    for one, other in zip((*got, *grads), (*want, *expected)):
        assert one.dtype == dtype and torch.equal(one, other.to(dtype))


def awkward_scores(dtype: torch.dtype) -> dict[str, AttentionScores]:
    """Scores on which careless formulas give inf or NaN."""
    ones = torch.ones(1, 2, 4, 3, dtype=dtype)
    blind = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    blind[:, :, 1] = blind[..., 2] = False
    noise = torch.randn(1, 2, 4, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    other, one_head = dict(query=noise, key=noise, value=noise.flip(2)), torch.eye(3, dtype=dtype)
    made = {
        "duplicates": dict(query=ones, key=ones, value=ones),
        "duplicates, one-hot": dict(query=ones, key=ones, value=ones, mask=torch.eye(4).bool()),
        "nearly duplicates": dict(query=ones, key=noise, value=ones * (1 + 1e-4)),
        "zeros": dict(query=0 * ones, key=noise, value=0 * ones),
        "peaked": other | dict(query=100 * noise),
        "huge": other | dict(value=1000 * noise),
        "a head without effect": other | dict(metric=torch.stack([one_head, 0 * one_head])),
        "blind": other | dict(mask=blind),
        "nothing visible": other | dict(mask=torch.zeros(4, 4).bool()),
        "no valid query": other | dict(query_mask=torch.zeros(1, 4).bool()),
    }
    return {
        f"{name}, causal={causal}": AttentionScores(**x, causal=causal)
        for name, x in made.items()
        for causal in (False, True)
    }


def check_finite(case: Case, path: str) -> None:
    """Outputs and gradients of everything are finite numbers on scores made to break them; those of kernels
    also in half precision, where they compute in single precision."""
    way = PATHS[path]
    halves = [torch.bfloat16] if way.step and not way.known and one_step(case.make()) else []
    for dtype in (way.dtype, *halves):
        for name, scores in awkward_scores(dtype).items():
            if way.step is decoding_step and not scores.causal:
                continue
            if way.known:
                with torch.no_grad():
                    found = way.attend(case.make(dtype), way.prepared(scores), False)[:1]
            else:
                outputs, grads = results(case, scores, way.attend)
                found = [*outputs, *grads]
            assert all(x.isfinite().all() for x in found), f"{name}, {dtype}"


# ---- the table ---------------------------------------------------------------------------------------------

DROPPED_NOW = [kind for kind in DROPPED if "cached" not in kind]
FROM_THE_START = [kind for kind in KINDS if "cached" not in kind]
ORDERED = [kind for kind in KINDS if "decoder" in kind]
HIDING = ["encoder, bool mask", "decoder cross, bool mask", "decoder cross, padded", "decoder self, padded"]
SCALES = ["default", "a number", "a tensor", "of each head", "trained", "trained, of each head"]
CHECKS = [
    Check(check_brute_force, dict(kind=FROM_THE_START, path=GENERAL), kernels=EVERY),
    Check(check_brute_force, dict(kind=DROPPED_NOW, path=["eager"]), kernels=["eager", "native"]),
    Check(
        check_brute_force,
        dict(kind=[x for x in ORDERED if x in FROM_THE_START], path=["decoding in chunks"]),
        kernels=KNOWN,
    ),
    Check(
        check_dense_equals,
        dict(kind=[*KINDS, *TRIANGLES], path=[*GENERAL, "sparse"], context=[False, True], scale=SCALES),
        kernels=[*EVERY, "sparse"],
    ),
    Check(
        check_dense_equals,
        dict(kind=list(DROPPED), path=["eager", "sparse"], context=[False, True], scale=SCALES),
        kernels=["eager", "sparse", "native"],
    ),
    Check(
        check_masks_of_any_form,
        dict(
            form=[(2, 1, 5, 1), (1, 1, 1, 7), (5, 7), "transposed", "half"],
            visible=[False, True],
            causal=[False, True],
            path=GENERAL,
        ),
        kernels=EVERY,
    ),
    Check(check_dropout_is_refused, dict(path=["chunks"]), kernels=["chunks", "strips"]),
    Check(
        check_second_derivatives,
        dict(kind=["encoder, padded", "decoder self, padded"], path=["chunks"]),
        kernels=EVERY,
    ),
    Check(
        check_finite_differences, dict(kind=[*ROTATED[:2], *list(DROPPED)[-2:]], path=[]), kernels=["eager"]
    ),
    Check(check_hidden_values, dict(kind=HIDING, path=GENERAL), kernels=EVERY),
    Check(
        check_padding,
        dict(left=[False, True], path=[*GENERAL, "decoding in chunks"]),
        kernels=[*EVERY, *KNOWN],
    ),
    Check(
        check_no_future,
        dict(triangular=[False, True], path=[*GENERAL, "decoding in chunks"]),
        kernels=[*EVERY, *KNOWN],
    ),
    Check(check_cache, dict(kind=ORDERED, path=[*GENERAL, "decoding in chunks"]), kernels=[*EVERY, *KNOWN]),
    Check(
        check_half_precision,
        dict(causal=[False, True], rotated=[False, True], dtype=HALF, path=[]),
        kernels=["eager", "native", "strips"],
    ),
    Check(check_finite, dict(path=[]), kernels=[*EVERY, *KNOWN]),
]
