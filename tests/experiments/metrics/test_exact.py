"""Exact match with the one reference answer."""

import pytest

from attngraph.errors import UserError
from experiments.metrics.exact import exact_scores


def test_exact_match():
    references = {"1": ["yes"], "2": ["yes"], "3": [" Teal"]}
    assert exact_scores({"1": "Yes ", "2": "no", "3": "teal"}, references).tolist() == [1, 0, 1]


@pytest.mark.parametrize("references", [["red", "blue"], [], "red"])
def test_other_than_one_reference_is_one_clear_line(references):
    with pytest.raises(UserError, match="exactly one") as error:
        exact_scores({"q": "red"}, {"q": references})
    assert "\n" not in str(error.value)
