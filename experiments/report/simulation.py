"""How often the tests of the table are wrong: type-I error, coverage and power on made-up studies.

Two kinds. *Normal* studies draw each seed's difference, and the covariance over images that would be
estimated (Wishart), straight from the model of :mod:`experiments.report.variance`: quick, so that small
levels can be seen. *Scored* studies draw every image's answer and go through
:func:`~experiments.report.significance.paired_comparison` with the scores of real columns.

Every study is judged at 0.05 and at Holm's smallest level in a table of :data:`COMPARISONS`. For comparison
the normal studies are also judged by ``plain``, which plugs the seeds' variance and the shared covariance
into a t distribution with Satterthwaite's degrees of freedom and knows no checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import special, stats

from experiments.metrics.captions import bleu4_from_counts
from experiments.metrics.statistics import Score, mean_score, mean_statistics
from experiments.progress import Progress
from experiments.report.significance import paired_comparison
from experiments.report.variance import variances

COMPARISONS = 40
LEVELS = (0.05, 0.05 / COMPARISONS)
BLOCK = 2000  # studies at once
SCORED = 20  # a scored study for so many normal ones
GAIN = 0.9  # of which the power is asked, in points
PICTURES = 300  # of scored studies


@dataclass(frozen=True)
class Study:
    """A made-up comparison. Standard deviations are those of a seed's score, in points.

    Args:
        about: which of them matter.
        seeds, checkpoints: seed s starts from checkpoint ``s % checkpoints``.
        c, s, e, f, n: of checkpoints, seeds, images, images by checkpoint, images by seed.
        gain: the true difference.
        images: of the test set.
        kind: ``normal``, or the name of a scored column.
    """

    about: str
    seeds: int
    checkpoints: int
    c: float = 0.0
    s: float = 0.0
    e: float = 0.0
    f: float = 0.0
    n: float = 0.0
    gain: float = 0.0
    images: int = 800
    kind: str = "normal"

    @property
    def deal(self) -> list[int]:
        """Each seed's checkpoint."""
        return [seed % self.checkpoints for seed in range(self.seeds)]


MIXES = {
    "noise alone": {"n": 1.0},
    "images": {"e": 1.0, "n": 0.3},
    "seeds a little": {"s": 0.5, "e": 0.5, "n": 0.5},
    "seeds dominate": {"s": 1.0, "e": 0.2, "n": 0.3},
}
CHECKPOINTS = {"": {}, ", checkpoints a little": {"c": 0.5, "f": 0.2}, ", checkpoints dominate": {"c": 2.0}}
# Spreads of the shipped table's columns on four times its images: image x seed noise 0.45.
EXPECTED = {"e": 0.15, "n": 0.45, "images": 3200}


def studies() -> Iterator[Study]:
    """All of the report's studies."""
    for seeds, count in (
        (1, 1),
        (2, 1),
        (5, 1),
        (6, 1),
        (21, 1),
        (5, 3),
        (6, 3),
        (21, 3),
        (7, 7),
        (21, 7),
    ):
        for mix, parts in MIXES.items():
            for more, extra in CHECKPOINTS.items() if count > 1 else (("", {}),):
                yield Study(mix + more, seeds, count, **parts, **extra)
    for kind in KINDS:
        for seeds, count in ((1, 1), (6, 1), (6, 3), (21, 3), (21, 7)):
            about, s = ("all", 0.15) if seeds > 1 else ("images", 0.0)
            study = Study(about, seeds, count, s=s, e=0.5, n=0.5, images=PICTURES, kind=kind)
            yield study
            if count > 1:
                yield replace(study, about="all, checkpoints", c=0.2, f=0.3)
    for count in (1, 3, 7, 21):
        for s in (0.3, 0.6, 1.0):
            for c in (0.0, 0.3) if count > 1 else (0.0,):
                yield Study(f"seeds {s:g}, checkpoints {c:g}", 21, count, c=c, s=s, **EXPECTED, gain=GAIN)


def simulate(runs: int, seed: int) -> pd.DataFrame:
    """Judge all studies; returns one line for each.

    Args:
        runs: of each normal study; a scored one is run a twentieth as often.
        seed: of the random numbers.
    """
    asked = list(studies())
    lines = []
    with Progress(total=runs * len(asked), unit="run", unit_scale=True, desc="simulated studies") as bar:
        for number, study in enumerate(asked):
            rng = np.random.default_rng([seed, number])
            count = runs if study.kind == "normal" else max(runs // SCORED, 1)
            judged = _normal(study, count, rng) if study.kind == "normal" else _scored(study, count, rng)
            lines.append(_line(study, judged, count))
            bar.update(runs)
    return pd.DataFrame(lines)


def _line(study: Study, judged: dict[str, np.ndarray], runs: int) -> dict[str, object]:
    line: dict[str, object] = {
        "scores": study.kind,
        "varies": study.about,
        "seeds": study.seeds,
        "checkpoints": study.checkpoints,
        "gain": study.gain,
        "runs": runs,
    }
    for name in ("plain", "these", "new"):
        for level in LEVELS:
            p = judged.get(f"{name} p")
            line[f"{name} p < {level:.5g}"] = None if p is None else float(np.mean(p < level))
        covered = judged.get(f"{name} covered")
        line[f"{name} coverage"] = None if covered is None else float(np.mean(covered))
    return line


def _normal(study: Study, runs: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """p values and coverage. For these checkpoints the truth is their own mean, for new ones the gain; in
    studies of power both are asked for "no difference".
    """
    parts = [_judge(study, min(BLOCK, runs - start), rng) for start in range(0, runs, BLOCK)]
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def _judge(study: Study, runs: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    differences, covariance, of_checkpoints = normal_studies(study, runs, rng)
    mean = differences.mean(-1)
    these, new = variances(differences, covariance, study.deal, study.images)
    own, far = mean - study.gain - of_checkpoints, mean - study.gain
    judged = {"plain p": plain_p_values(differences, covariance, mean if study.gain else own, study.images)}
    for name, variance, distance in (("these", these, own), ("new", new, far)):
        if variance is not None:
            of_truth = variance.p_values(distance)
            judged[f"{name} covered"] = of_truth >= LEVELS[0]
            judged[f"{name} p"] = variance.p_values(mean) if study.gain else of_truth
    return judged


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
    return study.gain + effect + by_checkpoint + of_seeds + images, drawn, own


def plain_p_values(
    differences: np.ndarray, covariance: np.ndarray, distances: np.ndarray, images: int
) -> np.ndarray:
    """p values by Satterthwaite, without a lower bound and without checkpoints."""
    seeds = differences.shape[-1]
    if seeds == 1:
        of_seeds, shared = np.zeros(len(differences)), covariance[:, 0, 0]
    else:
        of_seeds = differences.var(-1, ddof=1) / seeds
        off = covariance.sum((-2, -1)) - np.trace(covariance, axis1=-2, axis2=-1)
        shared = (off / (seeds * (seeds - 1))).clip(0)
    variance = of_seeds + shared
    freedom = variance**2 / (of_seeds**2 / max(seeds - 1, 1) + shared**2 / (images - 1))
    return 2 * stats.t.sf(np.abs(distances) / variance**0.5, freedom)


def _bleu(latent: np.ndarray) -> np.ndarray:
    """Counts ``(..., 10)`` of captions of ten words, of which a share is right."""
    right = special.ndtr(1 + latent)[..., None] ** (1 + 0.5 * np.arange(4))
    ngrams = np.broadcast_to(np.array([10.0, 9, 8, 7]), right.shape)
    length = np.full((*latent.shape, 1), 10.0)
    return np.concatenate([np.floor(right * ngrams + 0.5), ngrams, length, length], axis=-1)


#: Column -> from latent ``(..., N)`` to statistics ``(..., N, K)``, and the score.
KINDS = {
    "right or wrong": (lambda latent: mean_statistics(latent > 0), mean_score),
    "graded": (lambda latent: mean_statistics((special.ndtr(latent) * 3).round() / 3), mean_score),
    "CIDEr": (lambda latent: mean_statistics(np.exp(latent)), mean_score),
    "BLEU@4": (_bleu, bleu4_from_counts),
    "mean of columns": (lambda latent: mean_statistics(np.exp(latent)), mean_score),
}


def _scored(study: Study, runs: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Two methods of the same kind, so that the difference is 0; for these checkpoints only where they have
    no effect of their own.
    """
    statistics, score = KINDS[study.kind]
    found: dict[str, list[float]] = {}
    for _ in range(runs):
        if study.kind == "mean of columns":
            first, second = KINDS["right or wrong"][0], KINDS["CIDEr"][0]
            parts = [_methods(study, rng) for _ in range(2)]
            sides = [[first(parts[0][k]), second(parts[1][k])] for k in range(2)]
            score_of: Score = _half_of_each
        else:
            latent = _methods(study, rng)
            sides, score_of = [statistics(latent[0]), statistics(latent[1])], score
        result = paired_comparison(*sides, score_of, checkpoints=study.deal)
        if study.c == study.f == 0:
            found.setdefault("these p", []).append(result.p_value)
            found.setdefault("these covered", []).append(result.low <= 0 <= result.high)
        if new := result.new_checkpoints:
            found.setdefault("new p", []).append(new.p_value)
            found.setdefault("new covered", []).append(new.low <= 0 <= new.high)
    return {key: np.array(values) for key, values in found.items()}


def _half_of_each(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return (mean_score(first) + mean_score(second)) / 2


def _methods(study: Study, rng: np.random.Generator) -> np.ndarray:
    """How well two methods answer ``(2, S, N)``."""
    seeds, images, deal = study.seeds, study.images, study.deal
    common = rng.normal(size=(1, 1, images))
    of_images = study.e * rng.normal(size=(2, 1, images)) + study.n * rng.normal(size=(2, seeds, images))
    of_seeds = study.s * rng.normal(size=(2, seeds, 1))
    of_checkpoints = study.c * rng.normal(size=(2, study.checkpoints, 1))
    of_checkpoints = of_checkpoints + study.f * rng.normal(size=(2, study.checkpoints, images))
    return common + of_images + of_seeds + of_checkpoints[:, deal]
