"""The post-hoc summary: weights and sign flips by hand; its numbers are tested in the pages that show it."""

import itertools

import numpy as np
import pandas as pd
import pytest

from docs.examples.post_hoc import by_mean_square, sign_flips, standardised

DIFFERENCES = pd.DataFrame({"a": [1.0, 3.0, 11.0, 13.0], "b": [0.5, 0.1, -0.2, 0.0]})


def test_columns_are_standardised_within_checkpoints():
    """What a checkpoint does to all of its seeds is no part of the spread."""
    weights = standardised(DIFFERENCES, ["x", "x", "y", "y"])
    assert weights["a"] == pytest.approx(1 / (2 * 2**0.5))
    assert weights["b"] == pytest.approx(1 / (2 * (0.1 / 2) ** 0.5))
    assert standardised(DIFFERENCES, ["x"] * 4)["a"] == pytest.approx(1 / (2 * DIFFERENCES["a"].std()))


@pytest.mark.parametrize("count", [2, 3, 7])
def test_sign_flips_are_all_choices_of_signs(count):
    values = np.random.default_rng(count).normal(0.3, 1, count)
    sums = [abs(np.dot(signs, values)) for signs in itertools.product((1, -1), repeat=count)]
    assert sign_flips(values) == np.mean([one >= abs(values.sum()) - 1e-12 for one in sums])
    assert sign_flips(np.abs(values)) == 2 / 2**count


def test_signs_do_not_change_the_weights_of_sign_flips():
    flipped = DIFFERENCES.mul([1, -1, -1, 1], axis=0)
    assert by_mean_square(flipped) == by_mean_square(DIFFERENCES)
    assert standardised(flipped, ["x"] * 4) != standardised(DIFFERENCES, ["x"] * 4)
