"""Exact match: accuracy where an example has one reference answer, as in easy-VQA."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from experiments.metrics.alignment import aligned, single_reference


def exact_scores(predictions: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> np.ndarray:
    """1 where the prediction is the one reference answer, case and outer space ignored, else 0.

    Returns:
        ``(N,)`` in the order of ``references``; the accuracy of a run is the mean.

    Raises:
        UserError: the ids differ, or an example does not have exactly one reference answer.
    """
    return np.array(
        [
            float(prediction.strip().lower() == single_reference(id, references).strip().lower())
            for id, prediction in aligned(predictions, references)
        ]
    )
