"""Made-up studies in which the truth is known: how often are the tests of a table wrong?

*Normal* studies draw each seed's difference, and the covariance over images that would be estimated
(Wishart), straight from the model of :mod:`attngraph.experiments.tables.variance`: quick, so that small
levels can be seen. *Scored* studies draw every image's answer and go through
:func:`~attngraph.experiments.tables.compare.paired_comparison` with the scores of real columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from attngraph.experiments.metrics.captions import bleu4_from_counts
from attngraph.experiments.metrics.statistics import mean_score, mean_statistics
from attngraph.experiments.tables.compare import paired_comparison

PICTURES = 300  # of scored studies


@dataclass(frozen=True)
class Study:
    """A made-up comparison. Standard deviations are those of a seed's score, in points.

    Args:
        seeds, checkpoints: seed s starts from checkpoint ``s % checkpoints``.
        c, s, e, f, n: of checkpoints, seeds, images, images by checkpoint, images by seed.
        images: of the test set.
        kind: ``normal``, or the name of a scored column.
    """

    seeds: int
    checkpoints: int
    c: float = 0.0
    s: float = 0.0
    e: float = 0.0
    f: float = 0.0
    n: float = 0.0
    images: int = 800
    kind: str = "normal"

    @property
    def deal(self) -> list[int]:
        """Each seed's checkpoint."""
        return [seed % self.checkpoints for seed in range(self.seeds)]


MIXES = (  # noise alone; images; seeds a little; seeds dominate
    {"n": 1.0},
    {"e": 1.0, "n": 0.3},
    {"s": 0.5, "e": 0.5, "n": 0.5},
    {"s": 1.0, "e": 0.2, "n": 0.3},
)
NONE, *OF_CHECKPOINTS = {}, {"c": 0.5, "f": 0.2}, {"c": 2.0}  # a little; they dominate
COUNTS = ((1, 1), (2, 1), (5, 1), (6, 1), (21, 1), (5, 3), (6, 3), (21, 3), (7, 7), (21, 7))


def studies() -> Iterator[Study]:
    """Studies without a difference."""
    for seeds, count in COUNTS:
        for mix in MIXES:
            for extra in (NONE, *OF_CHECKPOINTS) if count > 1 else (NONE,):
                yield Study(seeds, count, **mix, **extra)
    for kind in KINDS:
        for seeds, count in ((1, 1), (6, 1), (6, 3), (21, 3), (21, 7)):
            study = Study(seeds, count, s=0.15 * (seeds > 1), e=0.5, n=0.5, images=PICTURES, kind=kind)
            yield study
            if count > 1:
                yield replace(study, c=0.2, f=0.3)


def normal_studies(
    study: Study, runs: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Differences ``(runs, S)``, estimated covariances over images ``(runs, S, S)``, and the mean effect
    ``(runs,)`` of the checkpoints; with one seed, which speaks for itself alone, of the seed too.
    """
    seeds, deal = study.seeds, study.deal
    effect = (study.c * rng.normal(size=(runs, study.checkpoints)))[:, deal]
    by_checkpoint = (study.f * rng.normal(size=(runs, study.checkpoints)))[:, deal]
    images = study.e * rng.normal(size=(runs, 1)) + study.n * rng.normal(size=(runs, seeds))
    of_seeds = study.s * rng.normal(size=(runs, seeds))
    covariance = study.e**2 + study.f**2 * np.equal.outer(deal, deal) + study.n**2 * np.eye(seeds)
    freedom = study.images - 1
    factor = np.zeros((runs, seeds, seeds))  # Bartlett's
    rows, columns = np.tril_indices(seeds, -1)
    factor[:, rows, columns] = rng.normal(size=(runs, len(rows)))
    factor[:, range(seeds), range(seeds)] = np.sqrt(rng.chisquare(freedom - np.arange(seeds), (runs, seeds)))
    drawn = np.linalg.cholesky(covariance) @ factor
    drawn = drawn @ np.swapaxes(drawn, 1, 2) / freedom
    own = effect.mean(-1) if seeds > 1 else (effect + of_seeds)[:, 0]
    return effect + by_checkpoint + of_seeds + images, drawn, own


def scored_p_values(study: Study, runs: int, rng: np.random.Generator) -> tuple[list[float], ...]:
    """p values for these checkpoints, where they have no effect of their own, and for new ones. The two
    methods are of the same kind, so that their difference is 0.
    """
    statistics, score = KINDS[study.kind]
    these: list[float] = []
    new: list[float] = []
    for _ in range(runs):
        if study.kind == "mean of columns":
            parts = [_methods(study, rng) for _ in range(2)]
            latent = [[statistics[0](parts[0][k]), statistics[1](parts[1][k])] for k in range(2)]
        else:
            latent = [statistics(side) for side in _methods(study, rng)]
        result = paired_comparison(*latent, score, checkpoints=study.deal)
        these += [result.p] * (study.c == study.f == 0)
        new += [result.new_p] if result.new_p is not None else []
    return these, new


def _methods(study: Study, rng: np.random.Generator) -> np.ndarray:
    """How well two methods answer ``(2, S, N)``."""
    seeds, images, deal = study.seeds, study.images, study.deal
    common = rng.normal(size=(1, 1, images))
    of_images = study.e * rng.normal(size=(2, 1, images)) + study.n * rng.normal(size=(2, seeds, images))
    of_seeds = study.s * rng.normal(size=(2, seeds, 1))
    of_checkpoints = study.c * rng.normal(size=(2, study.checkpoints, 1))
    of_checkpoints = of_checkpoints + study.f * rng.normal(size=(2, study.checkpoints, images))
    return common + of_images + of_seeds + of_checkpoints[:, deal]


def _bleu(latent: np.ndarray) -> np.ndarray:
    """Counts ``(..., 10)`` of captions of ten words, of which a share is right."""
    right = special.ndtr(1 + latent)[..., None] ** (1 + 0.5 * np.arange(4))
    ngrams = np.broadcast_to(np.array([10.0, 9, 8, 7]), right.shape)
    length = np.full((*latent.shape, 1), 10.0)
    return np.concatenate([np.floor(right * ngrams + 0.5), ngrams, length, length], axis=-1)


def _right(latent: np.ndarray) -> np.ndarray:
    return mean_statistics(latent > 0)


def _cider(latent: np.ndarray) -> np.ndarray:
    return mean_statistics(np.exp(latent))


#: Column -> from latent ``(..., N)`` to statistics ``(..., N, K)``, and the score.
KINDS = {
    "right or wrong": (_right, mean_score),
    "CIDEr": (_cider, mean_score),
    "BLEU@4": (_bleu, bleu4_from_counts),
    "mean of columns": ((_right, _cider), lambda a, b: (mean_score(a) + mean_score(b)) / 2),
}
