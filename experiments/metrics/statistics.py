"""Common functions of the metrics: predictions paired with references, means of each kind of example, and
scores as functions of sums over examples, so that a bootstrap resamples examples without scoring texts again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from attngraph.errors import UserError

T = TypeVar("T")

#: From summed statistics ``(..., K)`` to scores ``(...)``.
Score = Callable[..., np.ndarray]


def aligned(predictions: Mapping[str, T], references: Mapping[str, object]) -> list[tuple[str, T]]:
    """``(id, prediction)`` in the order of the references.

    Raises:
        UserError: there are no references, or the ids of predictions and references differ.
    """
    if not references:
        raise UserError("there are no reference answers to score with; check the annotation file")
    missing = [id for id in references if id not in predictions]
    extra = [id for id in predictions if id not in references]
    if missing or extra:
        what, ids = ("no prediction", missing) if missing else ("no reference answer", extra)
        raise UserError(
            f"{what} for {len(ids)} example(s), first {ids[0]}; score predictions and "
            "annotations of the same split"
        )
    return [(id, predictions[id]) for id in references]


def per_image(statistics: np.ndarray, images: Sequence[Hashable]) -> np.ndarray:
    """Per-example statistics ``(N, K)`` summed over the examples of each image, ``(images, K)``: the units of
    a bootstrap, since errors on questions about the same image are correlated.
    """
    places = {image: k for k, image in enumerate(dict.fromkeys(images))}
    sums = np.zeros((len(places), statistics.shape[1]))
    np.add.at(sums, [places[image] for image in images], statistics)
    return sums


def scores_by_kind(scores: Sequence[float], kinds: Iterable[str]) -> dict[str, tuple[float, int]]:
    """Mean score and number of examples of each kind, sorted by name."""
    groups = defaultdict(list)
    for score, kind in zip(scores, kinds, strict=True):
        groups[kind].append(score)
    return {kind: (float(np.mean(groups[kind])), len(groups[kind])) for kind in sorted(groups)}


def mean_statistics(scores: np.ndarray) -> np.ndarray:
    """Statistics ``(..., N, 2)`` of scores ``(..., N)`` for :func:`mean_score`: the score, and a 1."""
    scores = np.asarray(scores, dtype=np.float64)
    return np.stack([scores, np.ones_like(scores)], axis=-1)


def mean_score(totals: np.ndarray) -> np.ndarray:
    """Mean score ``(...)`` from summed :func:`mean_statistics` ``(..., 2)``."""
    return totals[..., 0] / totals[..., 1]
