r"""One p-Laplacian step of a single query, as decoding with a key/value cache takes it for each token.

The weights are the model's own, and degrees and squared norms of the values come from the cache, so that what
is left for all edges is a product with the values, :math:`q \cdot v`, and one more for the message.
"""

from __future__ import annotations

import torch
from torch import Tensor

from adapters.kernels.distances import least_share
from attngraph.edges import smallest_weight
from attngraph.functorch import transformed
from attngraph.norms import KeptNorms, square_norm, with_metric
from attngraph.precision import widen
from attngraph.scores import AttentionScores


def row_step_takes(scores: AttentionScores) -> bool:
    """Whether scores are those of a single query whose weights are known and sum to 1, and no gradient is
    wanted."""
    known = scores.known_weight is not None and scores.kept is None
    return known and scores.shape[2] == 1 and not (torch.is_grad_enabled() or transformed())


def row_step(scores: AttentionScores, p: float, residual: float, degree: str = "sum") -> Tensor:
    r"""One step of :class:`adapters.pgnn.PGNN` for a single query.

    Args:
        scores: those that :func:`row_step_takes`.
        p: exponent.
        residual: :math:`2\mu/p`.
        degree: value degree, ``"sum"`` or ``"mean"``.

    Returns:
        :math:`\bar U` ``(b, h, 1, d)``, in the dtype of ``scores.query``.
    """
    b, h, _, m, d = scores.shape
    weight, past, scale = scores.weight().flatten(0, 1), scores.past_degree, scores.degree_scale(degree)
    least = smallest_weight(weight.dtype)
    query, value = widen(scores.node).reshape(b * h, 1, d), widen(scores.value).flatten(0, 1)
    # 1/√e
    total = weight if past is None else weight + past.total.flatten(0, 1)[:, None]
    if scale is not None:
        total = total * scale.expand(b, h, 1, 1).reshape(b * h, 1, 1)
    rsqrt_e = total.clamp(min=least).rsqrt_()
    # R² = |q|² + |v|²/e - 2 q·v/√e
    query_g = with_metric(query.view(b, h, 1, d), scores.metric).reshape(b * h, 1, d)
    norm_q = torch.bmm(query_g, query.transpose(1, 2))
    norms = KeptNorms(scores.value) if scores.kept_norms is None else scores.kept_norms
    norm_v = norms.get(lambda some: square_norm(some, scores.metric))
    scaled = norm_v.reshape(b * h, 1, m) * rsqrt_e
    square = torch.addcmul(norm_q, torch.baddbmm(scaled, query_g, value.transpose(1, 2), alpha=-2), rsqrt_e)
    share = least_share(square)
    low = torch.addcmul(norm_q * share + least, scaled, rsqrt_e, value=share)
    # e^z, with z = p/2 log M + (p/2 - 1) log R²
    log_power = torch.maximum(square, low, out=square).log2_().mul_(0.5 * p - 1)
    power = log_power.add_(weight.log2(), alpha=0.5 * p).exp2_()
    total = power.sum(-1, keepdim=True).add_(residual)
    if residual < torch.finfo(total.dtype).tiny:  # a query without edges
        total.masked_fill_(total < torch.finfo(total.dtype).tiny, torch.inf)
    message = torch.bmm(power.mul_(rsqrt_e), value).add_(query, alpha=residual).div_(total)
    return message.view(b, h, 1, d).to(scores.query.dtype)
