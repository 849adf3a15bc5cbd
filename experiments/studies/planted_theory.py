r"""What theory says of planted graphs, before anything is trained.

**Distances.** A query has length 1 and degree :math:`d_i = 1`; a value has length 1, topic share
:math:`\tau^2` and degree :math:`e_j \approx e = N_1/N_2`. The class content is orthogonal to all queries, and
so are the topics of other groups. With :math:`\cos(\text{query}, \text{topic of its relevant values}) = c`,

.. math::
    R^2_{rel} = 1 + \frac1e - \frac{2 c \tau}{\sqrt e}, \qquad R^2_{dis} = 1 + \frac1e, \qquad
    R^2_{dis} - R^2_{rel} = \frac{2 c \tau}{\sqrt e} .

So relevant values are near where :math:`c > 0`, far where :math:`c < 0`, and
:math:`R^2_{rel}/R^2_{dis} = 1 - 2 c \tau \sqrt e/(1 + e)`: distance tells most at :math:`e = 1`, where
queries and values are of one size, and the same at :math:`e` and :math:`1/e`. With ``degree="mean"``,
:math:`e` is 1 whatever :math:`N_1/N_2` is.

**Mass.** pGNN's weights are :math:`M^{p/2} R^{p-2}`. Since M and relevance are independent, they move the
mass on distractors from :math:`\delta` to

.. math::
    \omega(p) = \frac{\delta \rho}{1 - \delta + \delta \rho}, \qquad
    \rho = \Big( \frac{R^2_{dis}}{R^2_{rel}} \Big)^{(p-2)/2} .

:math:`\omega < \delta` needs :math:`p < 2` where :math:`c > 0` and :math:`p > 2` where :math:`c < 0`. GCN,
APPNP, GCNII, the residual, p = 2 and tempering have :math:`\omega = \delta` whatever they learn; so have
rotated queries on average over the rotation.

**Accuracy.** A linear readout gives class k the score :math:`\langle \bar U_i, u_k \rangle`. A value's
content is :math:`\sqrt\kappa\, u_y + \sqrt{1 - \kappa}\, \varepsilon` with :math:`\varepsilon` of length 1,
uniform and orthogonal to :math:`u_y`. A group with normalised weights :math:`w_j` adds
:math:`\sqrt\kappa \sum_j w_j` to its class's score, and noise of variance
:math:`(1 - \kappa) \sum_j w_j^2/(C - 1)` to the others'. The accuracy is the probability that the right class
scores highest, over the other groups' classes (enumerated) and the noise (taken as normal and independent
between classes; one integral). :math:`\sum_j w_j^2` follows from the distribution of :math:`M^{p/2}`: a
smaller p evens out weights and noise, also where :math:`c = 0`, and tempering does that as well. So for
:math:`c` a little below 0 pGNN must lose to tempering: one p cannot both even out M and favour what is far.
The best p in [1, 3] maximises this accuracy.

The residual carries no class, so :math:`\mu` does not appear; it and the scales only matter to the optimiser.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
from scipy.special import log_ndtr

from attngraph.adapters.p_scheme import P_HIGH, P_LOW
from attngraph.experiments.studies.planted import CLASSES, CLEAN, EDGES, GROUPS, SPREAD, TOPIC

_GRID = np.linspace(P_LOW, P_HIGH, 41)  # of p
_NODES, _NODE_WEIGHTS = np.polynomial.hermite_e.hermegauss(61)


@dataclass(frozen=True)
class Prediction:
    """What is expected of one condition."""

    contrast: float  # of distances
    without: float  # accuracy without distances: at p = 2
    tempered: float  # the same with the best power of M
    best: float  # accuracy at the best p
    p: float  # the best p

    @property
    def gain(self) -> float:
        """Of pGNN over the best that does not use distances."""
        return self.best - self.tempered


def square_distances(contrast: float, ratio: float) -> tuple[float, float]:
    """:math:`R^2` of relevant values and of distractors; ``contrast`` is c, ``ratio`` N1/N2."""
    sizes = 1 + 1 / ratio
    return sizes - 2 * contrast * np.sqrt(TOPIC / ratio), sizes


def measured_contrast(contrast: float, ratio: float) -> float:
    r"""What :func:`attngraph.analysis.contrast.contrast` should measure:
    :math:`(R^2_{dis} - R^2_{rel})/(R^2_{dis} + R^2_{rel})`."""
    relevant, distractor = square_distances(contrast, ratio)
    return (distractor - relevant) / (distractor + relevant)


def distractor_mass(p: float, contrast: float, mass: float, ratio: float) -> float:
    r""":math:`\omega(p)`."""
    relevant, distractor = square_distances(contrast, ratio)
    odds = mass / (1 - mass) * (distractor / relevant) ** (p / 2 - 1)
    return odds / (1 + odds)


def accuracy(distractors: float, mass: float, p: float) -> float:
    r"""Accuracy of the linear readout.

    Args:
        distractors: :math:`\omega`, the mass on distractors after re-weighting.
        mass: :math:`\delta`, the same before; it gives the numbers of edges.
        p: gives the unevenness of :math:`M^{p/2}`.
    """
    uneven = _moment(p) / _moment(p / 2) ** 2
    masses = np.array([1 - distractors] + [distractors / (GROUPS - 1)] * (GROUPS - 1))
    counts = EDGES * np.array([1 - mass] + [mass / (GROUPS - 1)] * (GROUPS - 1))
    squares = uneven * masses**2 / counts  # of each group, Σ w²
    # the right class is 0; the classes of the other groups, all that there are
    classes = np.array([(0, *others) for others in product(range(CLASSES), repeat=GROUPS - 1)])
    carries = classes[:, :, None] == np.arange(CLASSES)  # (configurations, groups, classes)
    score = np.sqrt(CLEAN) * (carries * masses[:, None]).sum(1)
    deviation = np.sqrt((1 - CLEAN) / (CLASSES - 1) * (~carries * squares[:, None]).sum(1))
    right = score[:, :1] + deviation[:, :1] * _NODES  # (configurations, nodes)
    others = (right[:, :, None] - score[:, None, 1:]) / np.maximum(deviation[:, None, 1:], 1e-12)
    chance = np.exp(log_ndtr(others).sum(2)) @ _NODE_WEIGHTS / _NODE_WEIGHTS.sum()
    return float(chance.mean())


@cache
def predict(contrast: float, mass: float, ratio: float) -> Prediction:
    """The prediction of one condition (c, mass on distractors, N1/N2), the best p to 0.05."""
    scores = [accuracy(distractor_mass(p, contrast, mass, ratio), mass, p) for p in _GRID]
    best = int(np.argmax(scores))
    return Prediction(
        contrast=float(measured_contrast(contrast, ratio)),
        without=accuracy(mass, mass, 2),
        tempered=_tempered(mass),
        best=scores[best],
        p=float(_GRID[best]),
    )


@cache
def _tempered(mass: float) -> float:
    """Accuracy at the best p that only sharpens or flattens M."""
    return max(accuracy(mass, mass, p) for p in _GRID)


def _moment(power: float) -> float:
    """The mean of ``(EDGES · M) ** power`` over the edges."""
    sides = (1 + SPREAD) ** (power + 1) - (1 - SPREAD) ** (power + 1)
    return sides / (2 * SPREAD * (power + 1))
