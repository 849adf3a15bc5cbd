r"""One p-Laplacian step without gradients, from weights that the model has computed: what decoding with a
key/value cache takes.

Degrees of earlier queries and squared norms of values come from the cache, so that what is left for all edges
is a product with the values, :math:`q \cdot v`, and one more for the message.

:func:`decode` takes the step of a single query in one call of C (``attngraph/native/decode.c``), from what
the cache keeps to what it keeps next, without a graph on the way. :func:`decoding_step` is the same in
PyTorch operations.
"""

from __future__ import annotations

import struct
from typing import Any

import torch
from torch import Tensor

from attngraph.adapters.kernels.distances import least_share
from attngraph.edges import smallest_weight
from attngraph.functorch import transformed
from attngraph.native import library
from attngraph.norms import KeptNorms, square_norm, with_metric
from attngraph.precision import widen
from attngraph.reading.calls import Call
from attngraph.reading.degree_cache import Kept
from attngraph.scores import AttentionScores

BLOCK = 2**17  # edges that are computed together: 0.5 MB per array in float32

_DECODE = struct.Struct("5q2d8q7q5q5qqq4qqq")
"""The struct ``Decode`` of ``decode.c``."""


def decode(
    call: Call, metric: Tensor | None, p: float, residual: float, degree: str, owner: str
) -> Tensor | None:
    r"""A step of decoding, of one query, in C.

    Args:
        call: what the attention layer computed.
        metric: see :meth:`attngraph.reading.calls.Site.metric`.
        p: exponent.
        residual: :math:`2\mu/p`.
        degree: value degree, ``"sum"`` or ``"mean"``.
        owner: who keeps degrees in the key/value cache.

    Returns:
        :math:`\bar U` with merged heads, ``(b, 1, h·d)``. None where the step has to be taken from a graph or
        from scores: of several queries, of the first one, in another precision than single, without the
        library of C kernels.
    """
    value, single, native = call.value, torch.float32, library.library()
    if native is None or not (value.is_cpu and value.dtype == single):
        return None
    step = None if transformed() or torch.compiler.is_compiling() else call.decoding_step(owner)
    if step is None:
        return None
    degrees, start = step
    b, h, m, d = value.shape
    found, node, weight = degrees.found(m, start, metric), call.feature, call.weight
    if found is None or not (node.dtype == weight.dtype == single and weight.is_contiguous()):
        return None
    if not (node.stride(3) == value.stride(3) == found.totals.stride(3) == 1):
        return None
    mean, new, place = degree == "mean", value.new_empty, m // 2
    seen = call.visible[:, 0].sum(-1) if mean and call.visible is not None else None
    totals, queries, norms = new(b, h, 1, m), new(b, 1, dtype=torch.int64), new(b, h, m)
    probe, out = new(b, h, d), new(b, 1, h * d)
    fields = (
        *(b, h, m, d, torch.get_num_threads(), p, residual),
        *(node.data_ptr(), *node.stride()[:3]),
        *(value.data_ptr(), *value.stride()[:3]),
        *(_address(metric), weight.data_ptr(), _address(found.examples)),
        *(found.queries.data_ptr(), found.queries.stride(0), mean, _address(seen)),
        *(found.totals.data_ptr(), *found.totals.stride()[:3], found.totals.shape[3]),
        *_rows(found.norms),
        *(found.place, _address(found.probe)),
        *(queries.data_ptr(), totals.data_ptr(), norms.data_ptr(), probe.data_ptr(), place),
        out.data_ptr(),
    )
    native.call("attngraph_decode", _DECODE.pack(*fields))
    degrees.leave(Kept(totals, queries, norms, probe, place), start, metric)
    return out


def _address(x: Tensor | None) -> int:
    return 0 if x is None else x.data_ptr()


def _rows(norms: Tensor | None) -> tuple[int, ...]:
    """The struct ``Rows`` of ``step.h``, and how long the rows are."""
    if norms is None or norms.stride(2) != 1:
        return 0, 0, 0, 0, 0
    return norms.data_ptr(), *norms.stride(), norms.shape[2]


def covers(scores: AttentionScores) -> bool:
    """Whether the weights are known and sum to 1, in a causal graph, and no gradient is wanted."""
    known = scores.known_weight is not None and scores.kept is None and scores.causal
    return known and not (torch.is_grad_enabled() or transformed())


def decoding_step(
    scores: AttentionScores, p: float, residual: float, degree: str = "sum", context: bool = False
) -> tuple[Tensor, None]:
    r"""One step of :class:`attngraph.adapters.pgnn.PGNN`.

    Args:
        scores: those that :func:`covers`.
        p: exponent.
        residual: :math:`2\mu/p`.
        degree: value degree, ``"sum"`` or ``"mean"``.
        context: no attention output can be had: the model has it.

    Returns:
        :math:`\bar U` ``(b, h, n, d)``, in the dtype of ``scores.query``, and None.
    """
    b, h, n, m, d = scores.shape
    query, norms = widen(scores.node), scores.kept_norms
    query_g = with_metric(query, scores.metric)
    if norms is None or norms.value is not scores.value:
        norms = KeptNorms(scores.value)
    norm_v = norms.get(lambda v: square_norm(v, scores.metric))
    past, scale = scores.past_degree, scores.degree_scale(degree)
    parts: list[Any] = [
        scores.weight().flatten(0, 1),
        query.reshape(b * h, n, d),
        query_g.reshape(b * h, n, d),
        widen(scores.value).flatten(0, 1),
        norm_v.reshape(b * h, 1, m),
        None if past is None else past.total.flatten(0, 1)[:, None],
        None if scale is None else scale.expand(b, h, n, 1).reshape(b * h, n, 1),
    ]
    size = max(1, BLOCK // max(1, n * m))
    if size >= b * h:
        out = _step(p, residual, *parts)
    else:
        starts = range(0, b * h, size)
        blocks: Any = ((None if x is None else x[k : k + size] for x in parts) for k in starts)
        out = torch.cat([_step(p, residual, *block) for block in blocks])
    return out.view(b, h, n, d).to(scores.query.dtype), None


def _step(
    p: float,
    residual: float,
    weight: Tensor,
    query: Tensor,
    query_g: Tensor,
    value: Tensor,
    norm_v: Tensor,
    past: Tensor | None,
    scale: Tensor | None,
) -> Tensor:
    """The step for some heads: weights ``(g, n, m)``, queries ``(g, n, d)``, also in the metric, values ``(g,
    m, d)`` and their norms ``(g, 1, m)``, and degrees of earlier queries ``(g, 1, m)`` and the scale of
    degrees ``(g, n, 1)`` where there are any."""
    least, share = smallest_weight(weight.dtype), least_share(weight)
    # 1/√e
    total = weight.cumsum(1) if weight.shape[1] > 1 else weight
    total = total if past is None else total + past
    total = total if scale is None else total * scale
    rsqrt_e = total.clamp(min=least).rsqrt_()
    # R² = |q|² + |v|²/e - 2 q·v/√e
    norm_q = (query_g * query).sum(-1, keepdim=True)
    scaled = norm_v * rsqrt_e
    square = torch.addcmul(norm_q, torch.baddbmm(scaled, query_g, value.transpose(1, 2), alpha=-2), rsqrt_e)
    low = torch.addcmul(norm_q * share + least, scaled, rsqrt_e, value=share)
    # e^z, with z = p/2 log M + (p/2 - 1) log R²
    log_power = torch.maximum(square, low, out=square).log2_().mul_(0.5 * p - 1)
    power = log_power.add_(weight.log2(), alpha=0.5 * p).exp2_()
    total = power.sum(-1, keepdim=True).add_(residual)
    if residual < torch.finfo(total.dtype).tiny:  # a query without edges
        total.masked_fill_(total < torch.finfo(total.dtype).tiny, torch.inf)
    return torch.bmm(power.mul_(rsqrt_e), value).add_(query, alpha=residual).div_(total)
