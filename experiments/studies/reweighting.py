r"""pGNN's step with other distances, and with coupled or free exponents: the scheme of the study of distances
(:mod:`attngraph.experiments.studies.distances`), and of rows on planted graphs."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor, nn

from attngraph.adapters.p_scheme import PScheme, power_weight
from attngraph.adapters.scalar import Scalar
from attngraph.adapters.scheme import check_switch
from attngraph.edges import Edges, PerEdge, smallest_weight, square_distance

NOTHING, OTHER_PATCH, CLOSED_FORM, NATURAL, ORACLE = SEES = (
    "nothing",
    "other_patch",
    "closed_form",
    "natural",
    "oracle",
)
NEARER = 2.2  # what the oracle divides the distances of relevant patches by
A, B = (0.5, 1.5), (-2.0, 2.0)  # intervals of the free exponents of M and R


class Exponent(nn.Module):
    """A learned number inside an interval, which starts in its middle."""

    def __init__(self, low: float, high: float):
        super().__init__()
        self.low, self.high, self.logit = low, high, Scalar(0.0)

    def forward(self) -> Tensor:
        return self.low + (self.high - self.low) * self.logit().sigmoid()

    def number(self) -> float:
        """The value as a number."""
        return self.low + (self.high - self.low) / (1 + math.exp(-self.logit.number()))


class Relevance(Protocol):
    """Source of relevant values."""

    def relevant(self) -> Tensor:
        """Which values are relevant for the queries of the current pass, bool ``(b, n, m)``."""
        ...


class Distances(PScheme):
    r"""pGNN's step with other distances, and with coupled or free exponents,

    .. math:: \bar M_{ij} = M_{ij}^{p/2} R_{ij}^{p-2} \quad\text{or}\quad \bar M_{ij} = M_{ij}^a R_{ij}^b .

    Degrees, normalisation and residual are those of :class:`attngraph.adapters.pgnn.PGNN`; with free
    exponents the residual is that of p = 2. For cross-attention to the patches of one square image.

    Args:
        sees: what :math:`R_{ij}` is made of.

            - ``nothing``: :math:`R = 1`;
            - ``other_patch``: pGNN's distance of another patch, :math:`R_{i\pi(j)}` (:func:`other_patches`);
            - ``closed_form``: :math:`|\hat V_j| / \sqrt{e_{ij}}`;
            - ``natural``: pGNN's distance;
            - ``oracle``: pGNN's distance, divided by :data:`NEARER` where :attr:`shown` says that value j is
              relevant for query i.
        free: learn a in :data:`A` and b in :data:`B`, which start at 1 and 0, in place of p.
        p: see :class:`attngraph.adapters.pgnn.PGNN`; without effect if ``free``.
        mu: weight of the residual. Default: 0.1.
        learn_p: learn p. Default: ``True``.

    Attributes:
        shown: says which values are relevant; None for none.
    """

    shown: Relevance | None = None

    def __init__(
        self,
        sees: str = NATURAL,
        free: bool = False,
        p: float = 1.5,
        mu: float = 0.1,
        learn_p: bool = True,
    ):
        free = check_switch("free", free)
        super().__init__(*((2.0, mu, 1, False) if free else (p, mu, 1, learn_p)))
        if sees not in SEES:
            raise ValueError(f"sees must be one of {', '.join(SEES)}, got {sees!r}")
        self.sees, self.free = sees, free
        if free:
            self.a, self.b = Exponent(*A), Exponent(*B)

    def learned(self) -> dict[str, float]:
        """``p``, or ``a`` and ``b``."""
        return {"a": self.a.number(), "b": self.b.number()} if self.free else super().learned()

    def weigh(
        self,
        edges: Edges,
        query: Tensor,
        value: Tensor,
        rsqrt_d: PerEdge,
        rsqrt_e: PerEdge,
        p: Tensor | float,
    ) -> PerEdge:
        log_square = self.log_square(edges, query, value, rsqrt_d, rsqrt_e)
        if self.free:
            return power_weight(edges, 2 * self.a(), 0.5 * self.b() * log_square)
        return power_weight(edges, p, (0.5 * p - 1) * log_square)

    def log_square(
        self, edges: Edges, query: Tensor, value: Tensor, rsqrt_d: PerEdge, rsqrt_e: PerEdge
    ) -> PerEdge | float:
        r""":math:`\log R_{ij}^2`, per edge."""
        if self.sees == NOTHING:
            return 0.0
        if self.sees == CLOSED_FORM:
            square = edges.square_norm(value)[..., None, :] * rsqrt_e.square()
            return (square + smallest_weight(square.dtype)).log()
        natural = square_distance(*edges.products(query, value), rsqrt_d, rsqrt_e).log()
        if self.sees == OTHER_PATCH:
            return natural[..., other_patches(natural.shape[-1]).to(natural.device)]
        if self.sees == ORACLE and self.shown is not None:
            return natural - 2 * math.log(NEARER) * self.shown.relevant()[:, None]
        return natural


@lru_cache
def other_patches(values: int) -> Tensor:
    r"""The permutation :math:`\pi`, int64 ``(values,)``: a random cycle through all patches of a square
    image, so that no patch keeps its place, the same in all heads, layers and runs. Values before the patches
    ([CLS]) keep theirs.

    Raises:
        ValueError: there is more than one value in addition to the patches of a square image.
    """
    patches = math.isqrt(values) ** 2
    if values - patches > 1:
        raise ValueError(f"{values} values are not the patches of a square image and at most one before them")
    cycle = torch.randperm(patches, generator=torch.Generator().manual_seed(0))
    order = torch.empty_like(cycle)
    order[cycle] = cycle.roll(1)
    before = values - patches
    return torch.cat([torch.arange(before), before + order])
