"""Common parts of pGNN (:class:`attngraph.adapters.pgnn.PGNN`) and its controls: steps of p-Laplacian message
passing in tensor operations, and a base scheme with exponent, residual and degrees."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from attngraph.adapters.scalar import Scalar
from attngraph.adapters.scheme import Scheme, check_degree, check_range, check_steps, check_switch
from attngraph.edges import Edges, PerEdge, rsqrt, smallest_weight, square_distance

P_LOW, P_HIGH = 1.0, 3.0  # the interval of a learned p
LARGEST = 700.0  # exponent of a Python number

Weigh: TypeAlias = Callable[[Edges, Tensor, Tensor, PerEdge, PerEdge, "Tensor | float"], PerEdge]
r"""Function that weights the edges of a step: ``weigh(edges, query, value, rsqrt_d, rsqrt_e, p)`` with
current features ``(b, h, n, d)`` and ``(b, h, m, d)`` and, per edge, :math:`1/\sqrt{d_i}` and
:math:`1/\sqrt{e_{ij}}`. It returns a number per edge, 0 where there is no edge."""


class StepResult(NamedTuple):
    r"""Result of some steps.

    Attributes:
        query: the query features :math:`\bar U`, ``(b, h, n, d)``.
        weight: the weights :math:`\bar M` of the last step, per edge.
        message: :math:`\bar M_{ij} / \sqrt{d_i e_j}` of the last step, per edge.
        residual_share: :math:`\beta` of the last step, ``(b, h, n, 1)``.
    """

    query: Tensor
    weight: PerEdge
    message: PerEdge
    residual_share: Tensor


def p_weight(
    edges: Edges, query: Tensor, value: Tensor, rsqrt_d: PerEdge, rsqrt_e: PerEdge, p: Tensor | float
) -> PerEdge:
    r"""pGNN's: :math:`M^{p/2} R^{p-2}`."""
    return distance_weight(edges, *edges.products(query, value), rsqrt_d, rsqrt_e, p)


def distance_weight(
    edges: Edges,
    norm_q: PerEdge,
    norm_v: PerEdge,
    dot: PerEdge,
    rsqrt_d: PerEdge,
    rsqrt_e: PerEdge,
    p: Tensor | float,
) -> PerEdge:
    r""":math:`M^{p/2} R^{p-2}` from the terms of the distances, per edge: :math:`|q|^2`, :math:`|v|^2` and
    :math:`q \cdot v`."""
    square = square_distance(norm_q, norm_v, dot, rsqrt_d, rsqrt_e)
    return power_weight(edges, p, (0.5 * p - 1) * square.log())


def power_weight(edges: Edges, p: Tensor | float, log_factor: PerEdge | float = 0.0) -> PerEdge:
    r""":math:`M^{p/2} e^f`, 0 where there is no edge.

    Args:
        edges: of the attention graph.
        p: exponent.
        log_factor: :math:`f`, per edge.
    """
    weight = edges.weight
    absent = weight <= smallest_weight(weight.dtype)  # a weight that is NaN is there
    log_weight = torch.where(absent, torch.ones_like(weight), weight).log()
    power = 0.5 * p * log_weight + log_factor
    zero = torch.zeros_like(power)  # selected before exp, whose gradient may be infinite where no edge is
    return torch.where(absent, zero, torch.where(absent, zero, power).exp())


def p_steps(
    edges: Edges,
    p: Tensor | float,
    residual: Tensor | float,
    degree: str = "sum",
    steps: int = 1,
    weigh: Weigh = p_weight,
) -> StepResult:
    r"""Some steps of :class:`attngraph.adapters.pgnn.PGNN`.

    Args:
        edges: of the attention graph.
        p: exponent.
        residual: :math:`2\mu/p`.
        degree: value degree, ``"sum"`` or ``"mean"``.
        steps: how many.
        weigh: what weighs the edges of each step. Default: pGNN's.
    """
    rsqrt_d, rsqrt_e = rsqrt(edges.query_degree()), rsqrt(edges.value_degree(degree))
    query, value = edges.query, edges.value
    for step in range(steps):
        weight = weigh(edges, query, value, rsqrt_d, rsqrt_e, p)
        message = weight * rsqrt_d * rsqrt_e
        total = _divisor(edges.sum_at_queries(weight * rsqrt_d.square()) + residual)
        new_query = (edges.to_queries(message, value) + residual * edges.query) / total
        share = residual / total
        if not edges.causal and step < steps - 1:
            total = _divisor(edges.sum_at_values(weight * rsqrt_e.square()) + residual)
            value = (edges.to_values(message, query) + residual * edges.value) / total
        query = new_query
    return StepResult(query, weight, message, share)


def _divisor(total: Tensor) -> Tensor:
    """A total as a divisor: infinite, so that the quotient is 0, where the total is 0 (a node without edges
    and without residual), or so small that its inverse is not a number any more.

    A product with the inverse would have gradients that overflow long before.
    """
    return total.masked_fill(total < torch.finfo(total.dtype).tiny, torch.inf)


class PScheme(Scheme):
    r"""Message passing with the residual and the normalisation of :class:`attngraph.adapters.pgnn.PGNN`.

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

    def numbers(self) -> tuple[float, float]:
        """The current ``p`` and ``mu`` as numbers, where no gradient is wanted."""
        p, mu = self.fixed_p, self.fixed_mu
        if self.p_logit is not None:
            p = P_LOW + (P_HIGH - P_LOW) / (1 + math.exp(min(-self.p_logit.number(), LARGEST)))
        return p, mu if self.log_mu is None else math.exp(min(self.log_mu.number(), LARGEST))

    def learned(self) -> dict[str, float]:
        """``p`` and ``mu``, each if it is learned."""
        learnable = {"p": self.p_logit, "mu": self.log_mu}
        return {name: x for (name, part), x in zip(learnable.items(), self.numbers()) if part is not None}

    def weigh(
        self,
        edges: Edges,
        query: Tensor,
        value: Tensor,
        rsqrt_d: PerEdge,
        rsqrt_e: PerEdge,
        p: Tensor | float,
    ) -> PerEdge:
        r"""The weights :math:`\bar M` of a step; see :data:`Weigh`. A subclass must
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
