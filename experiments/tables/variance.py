r"""Uncertainty of a mean difference of two methods, over seeds, checkpoints and images.

With seed :math:`s` of checkpoint :math:`c` the two methods differ, on image :math:`i`, by

.. math:: d_{csi} = \delta + c_c + s_{cs} + e_i + f_{ci} + n_{csi} ,

all terms but :math:`\delta` random with mean 0: the effects of the checkpoint, of the seed, and of the image
for all seeds, for the seeds of one checkpoint, and for one seed alone. Seeds are nested in checkpoints;
images are crossed with both, since every run has the same images. Over :math:`S` seeds, assigned evenly to
:math:`C` checkpoints, and :math:`N` images, :math:`\bar d` has the variance

.. math:: \frac{\theta}{S} + \frac{\sigma_e^2}{N}, \qquad
          \theta = \sigma_s^2 + \frac{\sigma_n^2}{N}
                   + \frac{S}{C} \Big( \sigma_c^2 + \frac{\sigma_f^2}{N} \Big)

for new checkpoints, seeds and images; and for these checkpoints, new seeds and images,

.. math:: \frac{\theta_0}{S} + \frac{\sigma_e^2}{N} + \frac{\sigma_f^2}{C N}, \qquad
          \theta_0 = \sigma_s^2 + \frac{\sigma_n^2}{N} .

**Estimates.** The covariance of two seeds over images
(:func:`~attngraph.experiments.tables.compare.image_covariance`) estimates
:math:`(\sigma_e^2 + \sigma_f^2) / N` (same checkpoint) or :math:`\sigma_e^2 / N` (others); a seed's own
variance exceeds it by :math:`\sigma_n^2 / N`. :math:`\theta_0` and :math:`\theta` are the expected mean
squares within and between the checkpoints of a one-way analysis of variance (Searle, Casella and McCulloch,
Variance Components, 1992, ch. 3) with :math:`S - C` and :math:`C - 1` degrees of freedom. Their sum with the
images' part has no exact test, and plugging the estimates into a t distribution (Satterthwaite) fails at
small levels: a mean square that is small by chance reduces the error and, because of its small weight, also
increases the degrees of freedom. So the p-value is averaged over the uncertainty of the mean squares (the
Behrens-Fisher solution, known to be conservative: Robinson, Annals of Statistics 4, 1976): with
:math:`\theta^*_j = \nu_j Q_j / \chi^2_{\nu_j}` and :math:`\theta^* = \max_j \theta^*_j`,

.. math:: p = \mathrm{E}\; 2\, T_\nu\big( -|\bar d| / \sqrt V \big) , \qquad
          V = \max(\theta^*, \theta_{\min}) / S + I , \qquad \nu = (N - 1)\, V^2 / I^2 ,

with :math:`I` the images' part and :math:`T_\nu` the distribution function of Student's t: with one seed it
is the paired t test over images. :math:`\theta_{\min}`, the images' noise that differs from seed to seed (for
new checkpoints also from checkpoint to checkpoint), is known from the images; a smaller spread over a few
seeds is due to chance. For new checkpoints both mean squares are used, since :math:`\theta \ge \theta_0`. If
seeds are not assigned evenly, the mean square between checkpoints is scaled by :math:`k / n_0 \ge 1`,
:math:`k = \sum_c n_c^2 / S`, :math:`n_0 = (S - k) / (C - 1)`. If each seed has a separate checkpoint, the
spread over seeds covers both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special

NODES = 400  # of the average over what mean squares leave open
REST = 1e-12  # probability beyond the outermost nodes
SURE = 1e-24  # a variance below it is rounding


@dataclass(frozen=True)
class Variance:
    """The components of the variance of mean differences ``(...)``.

    Args:
        squares: mean squares over ``S``, ``(..., J)``: each estimates the component of seeds and checkpoints.
        freedom: their J degrees of freedom; empty with one seed.
        least: minimum of the component of seeds and checkpoints ``(...)``.
        images: the component of images, common to all seeds ``(...)``.
        examples: number of images, for the degrees of freedom of that component.
    """

    squares: np.ndarray
    freedom: tuple[int, ...]
    least: np.ndarray
    images: np.ndarray
    examples: int

    @property
    def estimate(self) -> np.ndarray:
        """The estimated variance ``(...)``."""
        return np.max(self.squares, axis=-1, initial=0.0).clip(self.least) + self.images

    def p_values(self, distances: np.ndarray) -> np.ndarray:
        """Two-sided p-values ``(...)`` of differences from the truth ``(...)``."""
        distances = np.abs(np.asarray(distances, dtype=np.float64))[..., None]
        nodes, weights = self._nodes()
        variance = nodes + self.images[..., None]
        variance = np.maximum(variance, np.finfo(float).tiny)
        share = self.images[..., None] / variance
        freedom = np.minimum((self.examples - 1) / np.maximum(share, 1e-4) ** 2, 1e8)
        tails = 2 * special.stdtr(freedom, -distances / np.sqrt(variance))
        mean = np.minimum((weights * tails).sum(-1), 1.0)  # which rounding leaves by an ulp where methods tie
        return np.where(self.estimate < SURE, distances[..., 0] < SURE**0.5, mean)

    def reach(self, level: float) -> float:
        """Half the width of the confidence interval of one difference, at which p is ``1 - level``."""
        error = float(self.estimate) ** 0.5
        if error < SURE**0.5:
            return 0.0
        high = 2 * error
        while self.p_values(high) > 1 - level:
            high *= 2
        return float(optimize.brentq(lambda width: float(self.p_values(width)) - 1 + level, 0, high))

    def equivalence_p(self, difference: float, margin: float) -> float:
        """p-value of two one-sided tests that the truth is within ± ``margin`` of 0: the larger one, which is
        that of the nearer end (Schuirmann, J. Pharmacokinetics and Biopharmaceutics 15, 1987)."""
        gap = margin - abs(difference)
        p = float(self.p_values(np.asarray(gap)))
        return p / 2 if gap >= 0 else 1 - p / 2

    def _nodes(self) -> tuple[np.ndarray, np.ndarray]:
        """Values ``(..., NODES)`` of the component of seeds and checkpoints, evenly spaced on a logarithmic
        scale, and their probabilities.
        """
        if not self.freedom:
            return self.least[..., None], np.ones_like(self.least)[..., None]
        halves = np.array(self.freedom) / 2
        sums = self.squares * halves  # half the sums of squares
        low = np.max(sums / special.gammainccinv(halves, REST), axis=-1).clip(self.least)
        low = np.maximum(low, np.finfo(float).tiny)
        high = np.maximum(np.max(sums / special.gammaincinv(halves, REST), axis=-1), low)
        steps = np.linspace(0, 1, NODES)
        nodes = low[..., None] * np.exp(steps * np.log(high / low)[..., None])
        below = np.prod(special.gammaincc(halves[:, None], sums[..., None] / nodes[..., None, :]), axis=-2)
        edges = np.diff(below, axis=-1) / 2
        weights = np.zeros_like(below)
        weights[..., 0] = below[..., 0]
        weights[..., -1] = 1 - below[..., -1]
        weights[..., 1:] += edges
        weights[..., :-1] += edges
        return nodes, weights


def variances(
    differences: np.ndarray, covariance: np.ndarray, checkpoints: Sequence[object], examples: int
) -> tuple[Variance, Variance | None]:
    """The variance of the mean of the seeds' differences, for these and for new checkpoints.

    Args:
        differences: one per seed ``(..., S)``.
        covariance: covariance of the seeds' differences over new images ``(..., S, S)``.
        checkpoints: the checkpoint of each seed.
        examples: number of images.

    Returns:
        The variance for these checkpoints (with one seed, for this seed only), and for new ones (None with
        one checkpoint).
    """
    labels = [*dict.fromkeys(checkpoints)]
    member = np.array([[one == label for one in checkpoints] for label in labels], dtype=np.float64)  # (C, S)
    count, seeds = member.shape
    own = np.diagonal(covariance, axis1=-2, axis2=-1).mean(-1)
    if seeds == 1:
        none = np.zeros_like(own)
        return Variance(none[..., None][..., :0], (), none, own, examples), None

    centred = differences - differences.mean(-1, keepdims=True)
    total = (centred**2).sum(-1)
    same = member.T @ member - np.eye(seeds)  # pairs of different seeds of one checkpoint
    other = 1 - np.eye(seeds) - same
    across = _mean(covariance, other) if count > 1 else None
    if count in (1, seeds):
        together = _mean(covariance, 1 - np.eye(seeds))
        least = (own - together).clip(0) / seeds
        square = (total / (seeds - 1) / seeds)[..., None]
        these = Variance(square, (seeds - 1,), least, together.clip(0), examples)
        return these, (these if count > 1 else None)

    sizes = member.sum(1)
    within_pairs = _mean(covariance, same)
    spread = (sizes**2).sum() / seeds  # k
    between = (((centred @ member.T) ** 2) / sizes).sum(-1)
    within = (total - between).clip(0) / (seeds - count) / seeds
    scale = spread * (count - 1) / (seeds - spread)  # k / n_0
    between = between / (count - 1) / seeds * scale
    least = (own - within_pairs).clip(0) / seeds
    images = spread / seeds * within_pairs + (1 - spread / seeds) * across
    these = Variance(within[..., None], (seeds - count,), least, images.clip(0), examples)
    more = spread / seeds * (within_pairs - across).clip(0)
    new = Variance(
        np.stack([within, between], -1), (seeds - count, count - 1), least + more, across.clip(0), examples
    )
    return these, new


def _mean(covariance: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """The mean ``(...)`` of chosen elements of matrices ``(..., S, S)``."""
    return (covariance * chosen).sum((-2, -1)) / chosen.sum()
