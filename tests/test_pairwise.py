"""The covering arrays that thin out the products of parameters."""

from itertools import combinations, product

import pytest

from tests.pairwise import pairwise, pairwise_params


@pytest.mark.parametrize("sizes", [(3, 1, 4), (2,) * 7, (9, 5, 2, 2, 2, 2)], ids=str)
def test_every_pair_of_values_occurs_in_few_cases(sizes):
    values = {f"p{k}": [f"{k}:{x}" for x in range(size)] for k, size in enumerate(sizes)}
    cases = pairwise(**values)
    for a, b in combinations(values, 2):
        assert {(case[a], case[b]) for case in cases} == set(product(values[a], values[b]))
    assert all(
        list(case) == list(values) and all(case[name] in values[name] for name in case) for case in cases
    )
    largest = sorted(sizes)[-2:]
    assert largest[0] * largest[1] <= len(cases) <= 2 * largest[0] * largest[1]
    assert cases == pairwise(**values)


def test_values_need_not_be_hashable_and_one_parameter_takes_each_value_once():
    assert pairwise(shape=[[1, 2], [3]]) == [{"shape": [1, 2]}, {"shape": [3]}]
    cases = pairwise(shape=[[1], [2]], options=({"a": 1}, {}))
    assert len(cases) == 4 and {"shape": [2], "options": {"a": 1}} in cases


def test_without_values_there_are_no_cases_to_make():
    with pytest.raises(ValueError, match="no values for b"):
        pairwise(a=[1], b=[])
    with pytest.raises(ValueError, match="no parameters"):
        pairwise()


def test_params_carry_ids_that_name_each_value():
    params = pairwise_params(kind=[int, "edge"], causal=[True, False], size=[3])
    assert [param.values for param in params] == [
        tuple(c.values()) for c in pairwise(kind=[int, "edge"], causal=[True, False], size=[3])
    ]
    assert {param.id for param in params} == {
        "int-causal=True-size=3",
        "int-causal=False-size=3",
        "edge-causal=True-size=3",
        "edge-causal=False-size=3",
    }
    assert pairwise_params(name_of=repr, kind=["a"])[0].id == "'a'"
