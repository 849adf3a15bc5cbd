"""Settings out of range are refused by name."""

import pytest

from analysis.heterophily import Settings


@pytest.mark.parametrize(
    ("name", "value"),
    [("permutations", 0), ("replicates", 1), ("p", 0.5), ("bins", 4), ("level", 1.0), ("points", 2)],
)
def test_values_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} must .* got {value}"):
        Settings(**{name: value})


def test_unknown_degree_is_refused():
    with pytest.raises(ValueError, match="degree must be one of sum, mean, got 'max'"):
        Settings(degree="max")
