"""What pGNN and its controls share: exponent, residual, degrees and steps."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from adapters.p_laplacian import StepResult, p_steps
from adapters.scalar import Scalar
from adapters.scheme import Scheme, check_degree, check_range, check_steps, check_switch
from attngraph.edges import Edges, PerEdge

P_LOW, P_HIGH = 1.0, 3.0  # the interval of a learned p


class PScheme(Scheme):
    r"""Message passing with the residual and the normalisation of :class:`adapters.pgnn.PGNN`.

    .. math::
        \bar U_i = \alpha_i \sum_j \frac{\bar M_{ij} \hat V_j}{\sqrt{d_i e_j}} + \beta_i \hat V_i, \qquad
        \alpha_i = \Big( \sum_j \bar M_{ij}/d_i + 2\mu/p \Big)^{-1}, \qquad
        \beta_i = \tfrac{2\mu}{p} \alpha_i

    A subclass writes :meth:`weigh`, which makes the weights :math:`\bar M`.

    Args:
        p: exponent. The starting value in (1, 3) if it is learned, else any value in [1, 8]. Default: 1.5.
        mu: weight of the residual; at least 0. Default: 0.1.
        steps: number of steps. Default: 1.
        learn_p: learn p within (1, 3). Default: ``True``.
        learn_mu: learn μ > 0. Default: ``False``.
        degree: value degree, ``"sum"`` (the paper's) or ``"mean"``. Default: ``"sum"``.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(
        self,
        p: float = 1.5,
        mu: float = 0.1,
        steps: int = 1,
        learn_p: bool = True,
        learn_mu: bool = False,
        degree: str = "sum",
    ):
        super().__init__()
        learn_p, learn_mu = check_switch("learn_p", learn_p), check_switch("learn_mu", learn_mu)
        start_p = check_range("p", p, 1, 8)
        if learn_p and not P_LOW < start_p < P_HIGH:
            raise ValueError(
                f"a learned p must start inside ({P_LOW:g}, {P_HIGH:g}), got {start_p:g}; "
                "use learn_p=False for a fixed p in [1, 8]"
            )
        start_mu = check_range("mu", mu, 0, 1e6, open_low=learn_mu)
        self.steps = check_steps(steps)
        self.degree = check_degree(degree)
        share = (start_p - P_LOW) / (P_HIGH - P_LOW)
        self.p_logit = Scalar(math.log(share / (1 - share))) if learn_p else None
        self.log_mu = Scalar(math.log(start_mu)) if learn_mu else None
        self.fixed_p, self.fixed_mu = start_p, start_mu

    @property
    def p(self) -> Tensor | float:
        """The current exponent."""
        return self.fixed_p if self.p_logit is None else P_LOW + (P_HIGH - P_LOW) * self.p_logit().sigmoid()

    @property
    def mu(self) -> Tensor | float:
        """The current weight of the residual."""
        return self.fixed_mu if self.log_mu is None else self.log_mu().exp()

    def learned(self) -> dict[str, float]:
        """``p`` and ``mu``, each if it is learned."""
        learned = {}
        if self.p_logit is not None:
            learned["p"] = float(torch.as_tensor(self.p).detach())
        if self.log_mu is not None:
            learned["mu"] = float(torch.as_tensor(self.mu).detach())
        return learned

    def weigh(
        self,
        edges: Edges,
        query: Tensor,
        value: Tensor,
        rsqrt_d: PerEdge,
        rsqrt_e: PerEdge,
        p: Tensor | float,
    ) -> PerEdge:
        r"""The weights :math:`\bar M` of a step; see :data:`adapters.p_laplacian.Weigh`. A subclass must
        define it."""
        raise NotImplementedError

    def propagate(self, edges: Edges) -> Tensor:
        return self._run(edges).query

    def edge_weights(self, edges: Edges) -> PerEdge:
        r""":math:`\bar M` of the last step."""
        return self._run(edges).weight

    def message_weights(self, edges: Edges) -> PerEdge:
        r""":math:`\bar M_{ij} / \sqrt{d_i e_j}` of the last step."""
        return self._run(edges).message

    def residual_share(self, edges: Edges) -> Tensor:
        r""":math:`\beta_i = r / (S_i + r)` of the last step, with :math:`S_i = \sum_j \bar M_{ij}/d_i` and
        :math:`r = 2\mu/p`."""
        return self._run(edges).residual_share

    def _run(self, edges: Edges) -> StepResult:
        p = self.p
        return p_steps(edges, p, 2 * self.mu / p, self.degree, self.steps, self.weigh)
