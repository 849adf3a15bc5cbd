r"""Theory of planted graphs: predictions before anything is trained.

**Distances.** A query has length 1 and degree :math:`d_i = 1`; a value has length 1, topic share
:math:`\tau^2` and degree :math:`e_j \approx e = N_1/N_2`. The class content is orthogonal to all queries, and
so are the topics of other groups. With :math:`\cos(\text{query}, \text{topic of its relevant values}) = c`,

.. math::
    R^2_{rel} = 1 + \frac1e - \frac{2 c \tau}{\sqrt e}, \qquad R^2_{dis} = 1 + \frac1e, \qquad
    R^2_{dis} - R^2_{rel} = \frac{2 c \tau}{\sqrt e} .

So relevant values are near where :math:`c > 0`, far where :math:`c < 0`, and
:math:`R^2_{rel}/R^2_{dis} = 1 - 2 c \tau \sqrt e/(1 + e)`: distances separate best at :math:`e = 1`, where
queries and values are of one size, and the same at :math:`e` and :math:`1/e`. With ``degree="mean"``,
:math:`e` is 1 regardless of :math:`N_1/N_2`.

**Mass.** pGNN's weights are :math:`M^{p/2} R^{p-2}`. Since M and relevance are independent, they move the
mass on distractors from :math:`\delta` to

.. math::
    \omega(p) = \frac{\delta \rho}{1 - \delta + \delta \rho}, \qquad
    \rho = \Big( \frac{R^2_{dis}}{R^2_{rel}} \Big)^{(p-2)/2} .

:math:`\omega < \delta` needs :math:`p < 2` where :math:`c > 0` and :math:`p > 2` where :math:`c < 0`. GCN,
APPNP, GCNII, the residual, p = 2 and tempering have :math:`\omega = \delta` regardless of training; so have
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

**Further cues** (:mod:`attngraph.experiments.studies.planted_cues`). Where weights M, degrees e and lengths
:math:`\ell` of distractors differ from those of relevant values too, a message with the weights
:math:`M^a R^b/\sqrt{d e}` has the odds

.. math::
    \frac{\omega}{1 - \omega} = \frac{\delta}{1 - \delta}
        \Big( \frac{M_{dis}}{M_{rel}} \Big)^{a-1} \Big( \frac{R^2_{dis}}{R^2_{rel}} \Big)^{b/2}
        \Big( \frac{e_{dis}}{e_{rel}} \Big)^{-1/2}, \qquad
    R^2_{rel} = 1 + \frac{1}{e_{rel}} - \frac{2 c \tau}{\sqrt{e_{rel}}}, \quad
    R^2_{dis} = 1 + \frac{\ell^2}{e_{dis}} ,

without the last factor in GCN, whose message has the weights M. The closed form has :math:`\ell^2/e` in place
of :math:`R^2`. The logarithm of the odds is linear in the exponents, so the best are ends of their intervals:
p should rise to 3 where :math:`M_{dis} R^2_{dis} < M_{rel} R^2_{rel}` and fall to 1 elsewhere, while free
exponents use each cue in its direction.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import NamedTuple

import numpy as np
from scipy.special import log_ndtr

from attngraph.adapters.p_scheme import P_HIGH, P_LOW
from attngraph.experiments.studies.planted import (
    CLASSES,
    CLEAN,
    EDGES,
    GROUPS,
    ROWS,
    SPREAD,
    TOPIC,
    WITHOUT,
)
from attngraph.experiments.studies.planted_cues import MASS, SECOND, Cue
from attngraph.experiments.studies.reweighting import A, B

_GRID = np.linspace(P_LOW, P_HIGH, 41)  # of p
_NODES, _NODE_WEIGHTS = np.polynomial.hermite_e.hermegauss(61)


@dataclass(frozen=True)
class Prediction:
    """Expected results of one condition."""

    contrast: float  # of distances
    without: float  # accuracy of the best row without distances
    best: float  # accuracy of pGNN at the best p
    p: float  # the best p
    accuracy: dict[str, float]  # by title

    @property
    def gain(self) -> float:
        """Of pGNN over the best that does not use distances."""
        return self.best - self.without


def square_distances(contrast: float, ratio: float) -> tuple[float, float]:
    """:math:`R^2` of relevant values and of distractors; ``contrast`` is c, ``ratio`` N1/N2."""
    sizes = 1 + 1 / ratio
    return sizes - 2 * contrast * np.sqrt(TOPIC / ratio), sizes


def measured_contrast(contrast: float, ratio: float) -> float:
    r"""Expected value of :func:`attngraph.analysis.contrast.contrast`:
    :math:`(R^2_{dis} - R^2_{rel})/(R^2_{dis} + R^2_{rel})`."""
    relevant, distractor = square_distances(contrast, ratio)
    return (distractor - relevant) / (distractor + relevant)


def distractor_mass(p: float, contrast: float, mass: float, ratio: float) -> float:
    r""":math:`\omega(p)`."""
    relevant, distractor = square_distances(contrast, ratio)
    odds = mass / (1 - mass) * (distractor / relevant) ** (p / 2 - 1)
    return odds / (1 + odds)


def accuracy(distractors: float, mass: float, p: float) -> float:
    r"""Accuracy of the linear readout where the other groups are distractors.

    Args:
        distractors: :math:`\omega`, the mass on distractors after re-weighting.
        mass: :math:`\delta`, the same before; it gives the numbers of edges.
        p: gives the unevenness of :math:`M^{p/2}`.
    """
    uneven = _moment(p) / _moment(p / 2) ** 2
    masses = np.array([1 - distractors] + [distractors / (GROUPS - 1)] * (GROUPS - 1))
    counts = EDGES * np.array([1 - mass] + [mass / (GROUPS - 1)] * (GROUPS - 1))
    return _readout(masses, uneven * masses**2 / counts)


def _readout(masses: np.ndarray, squares: np.ndarray) -> float:
    r"""Accuracy for groups with the masses :math:`\sum w` and the sums :math:`\sum w^2`; the first is the
    query's."""
    # the right class is 0; the classes of the other groups, all that there are
    classes = np.array([(0, *others) for others in product(range(CLASSES), repeat=len(masses) - 1)])
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
        without=_tempered(mass),
        best=scores[best],
        p=float(_GRID[best]),
        accuracy={"p = 2": accuracy(mass, mass, 2), "best p": scores[best]},
    )


@cache
def _tempered(mass: float) -> float:
    """Accuracy at the best p that only sharpens or flattens M."""
    return max(accuracy(mass, mass, p) for p in _GRID)


def _moment(power: float) -> float:
    """The mean of ``(EDGES · M) ** power`` over the edges."""
    sides = (1 + SPREAD) ** (power + 1) - (1 - SPREAD) ** (power + 1)
    return sides / (2 * SPREAD * (power + 1))


# ---- further cues ------------------------------------------------------------------------------------------


class Pair(NamedTuple):
    """A number of relevant values and the same of distractors."""

    relevant: float
    distractor: float

    @property
    def odds(self) -> float:
        """Of distractors."""
        return self.distractor / self.relevant


def cue_distances(cue: Cue, contrast: float, row: str = "pgnn") -> Pair:
    """:math:`R^2`, or what a row has in its place."""
    near, far = cue.degrees
    if row == "closed":
        return Pair(1 / near, cue.length**2 / far)
    c = 0 if row == "placebo" else contrast
    return Pair(1 + 1 / near - 2 * c * np.sqrt(TOPIC / near), 1 + cue.length**2 / far)


def cue_exponents(cue: Cue, contrast: float, row: str) -> tuple[float, float]:
    """The best a and b of a row."""
    weight, square = cue.edges[0] / cue.edges[1], cue_distances(cue, contrast, row).odds
    if row in ("gcn", "p2"):
        return 1, 0
    if row == "free":
        return A[1] if weight < 1 else A[0], B[1] if square < 1 else B[0]
    if row == "tempering":
        return (P_HIGH if weight < 1 else P_LOW) / 2, 0
    p = P_HIGH if weight * square < 1 else P_LOW
    return p / 2, p - 2


def cue_mass(cue: Cue, contrast: float, row: str, a: float, b: float) -> float:
    r""":math:`\omega`, the share of a row's message on distractors with exponents a and b."""
    near, far = cue.edges
    odds = MASS / (1 - MASS) * (near / far) ** (a - 1) * cue_distances(cue, contrast, row).odds ** (b / 2)
    if row != "gcn":
        odds /= Pair(*cue.degrees).odds ** 0.5
    return odds / (1 + odds)


@cache
def predict_cue(cue: str, factor: float, contrast: float) -> Prediction:
    """The prediction of one condition on the second page."""
    kind = Cue(cue, factor)
    scores = {}
    for row in SECOND.rows:
        mass = cue_mass(kind, contrast, row, *cue_exponents(kind, contrast, row))
        masses = np.array([1 - mass, mass])
        scores[row] = _readout(masses, masses**2 / np.array(kind.edges))
    near, far = cue_distances(kind, contrast)
    return Prediction(
        contrast=(far - near) / (far + near),
        without=max(scores[row] for row in SECOND.rows if row in WITHOUT),
        best=scores["pgnn"],
        p=2 * cue_exponents(kind, contrast, "pgnn")[0],
        accuracy={ROWS[row].title: score for row, score in scores.items()},
    )
