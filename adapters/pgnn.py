"""pGNN: p-Laplacian message passing, the scheme of the p-adapter."""

from __future__ import annotations

import torch
from torch import Tensor

from attngraph.adapters.kernels import step_of
from attngraph.adapters.kernels.decoding import decode
from attngraph.adapters.p_scheme import PScheme, p_weight
from attngraph.adapters.scheme import register
from attngraph.reading.calls import Call
from attngraph.scores import AttentionScores


@register("pgnn")
class PGNN(PScheme):
    r"""p-Laplacian message passing on the attention graph.

    With query degrees :math:`d_i = \sum_j M_{ij}`, value degrees :math:`e_j = \sum_i M_{ij}` and node
    features :math:`\hat V`,

    .. math::
        \bar M_{ij} &= M_{ij} \Big\lVert \sqrt{M_{ij}/d_i}\, \hat V_i
                       - \sqrt{M_{ij}/e_j}\, \hat V_j \Big\rVert^{p-2}
                     = M_{ij}^{p/2} R_{ij}^{p-2}, \qquad
        R_{ij} = \big\lVert \hat V_i/\sqrt{d_i} - \hat V_j/\sqrt{e_j} \big\rVert \\
        \alpha_i &= \Big( \sum_j \bar M_{ij}/d_i + 2\mu/p \Big)^{-1}, \qquad
        \beta_i = \tfrac{2\mu}{p} \alpha_i \\
        \bar U_i &= \alpha_i \sum_j \frac{\bar M_{ij} \hat V_j}{\sqrt{d_i e_j}} + \beta_i \hat V_i

    repeated ``steps`` times with the weights recomputed from the current features and the residual always to
    the original :math:`\hat V`. All :math:`R_{ij}^2` come from one matrix product in the metric of
    :math:`W_o`, :math:`|x|^2 + |y|^2 - 2 x \cdot y`, clamped from below at :math:`\epsilon (|x|^2 + |y|^2)`,
    since the expanded form loses small distances and :math:`R \to 0` blows up for :math:`p < 2`. In a causal
    graph value rows stay :math:`\hat V`.

    Args:
        p: exponent. The starting value in (1, 3) if it is learned, else any value in [1, 8]. Default: 1.5.
        mu: weight of the residual; at least 0. Default: 0.1.
        steps: number of steps. Default: 1.
        learn_p: learn p within (1, 3). Default: ``True``. Its parameter must not be weight-decayed; see
            :func:`attngraph.adapters.peft.optimizer_groups`.
        learn_mu: learn μ > 0. Default: ``False``.
        degree: value degree, ``"sum"`` (the paper's) or ``"mean"``. Default: ``"sum"``.

    Raises:
        ValueError: an argument out of range.

    Source: Fu et al., "p-Laplacian Based Graph Neural Networks", ICML 2022, Algorithm 1; Wu et al.,
    AAAI 2024.
    """

    weigh = staticmethod(p_weight)

    @property
    def fused(self) -> bool:  # type: ignore[override]
        return self.steps == 1

    def aggregate_and_context(
        self, scores: AttentionScores, backend: str = "dense", context: bool = True
    ) -> tuple[Tensor, Tensor | None]:
        """See :meth:`attngraph.adapters.scheme.Scheme.aggregate_and_context`. A single step is a function
        with a hand-written backward pass; see :mod:`attngraph.adapters.kernels`."""
        trained_metric = scores.metric is not None and scores.metric.requires_grad and torch.is_grad_enabled()
        step = None if self.steps > 1 or trained_metric else step_of(backend, scores, context)
        if step is None:
            return super().aggregate_and_context(scores, backend, context)
        p, mu = (self.p, self.mu) if torch.is_grad_enabled() else self.numbers()
        return step(scores, p, 2 * mu / p, self.degree, context)

    def decode(self, call: Call, metric: Tensor | None, owner: str) -> Tensor | None:
        """See :meth:`attngraph.adapters.scheme.Scheme.decode`: a single step has one in C."""
        if not self.fused:
            return None
        p, mu = self.numbers()
        return decode(call, metric, p, 2 * mu / p, self.degree, owner)
