"""The schemes and arguments that the contract is checked with, pairwise with a test's own parameters."""

from __future__ import annotations

import pytest

from tests.adapters import brute_force
from tests.adapters.contract import Case
from tests.pairwise import pairwise

DEGREES = [{}, {"degree": "mean"}]
STEPS = [{}, {"steps": 3}]
ARGUMENTS = {
    "gcn": [[{}, {"normalize": True}]],
    "appnp": [[{}, {"alpha": 0.3}, {"alpha": 1.0}], STEPS, DEGREES],
    "gcnii": [[{}, {"alpha": 0.3}], [{}, {"theta": 1.5}], STEPS, DEGREES],
    "pgnn": [
        [{"p": 1.0, "learn_p": False}, {"p": 1.25}, {"p": 2.5}, {"p": 3.0, "learn_p": False}],
        [{"mu": 0.0}, {"learn_mu": True}, {"mu": 10.0}],
        [{}, {"steps": 2}, {"steps": 3}],
        DEGREES,
    ],
    "residual": [[{"alpha": 0.25}, {"alpha": 1.0}]],
    "tempering": [
        [{"p": 1.0, "learn_p": False}, {"p": 2.5}],
        [{"mu": 0.0}, {"learn_mu": True}],
        STEPS,
        DEGREES,
    ],
    "rotated": [
        [{"p": 1.0, "learn_p": False}, {"p": 1.25}, {"p": 2.5}],
        [{"mu": 0.0}, {"learn_mu": True}],
        STEPS,
        DEGREES,
        [{}, {"seed": 7}],
    ],
}
"""Per scheme, the values of each of its arguments; {} is the default."""

REFERENCES = {
    "gcn": brute_force.gcn,
    "appnp": brute_force.pagerank,
    "gcnii": brute_force.pagerank,
    "pgnn": brute_force.pgnn,
    "residual": brute_force.residual,
    "tempering": brute_force.tempering,
    "rotated": brute_force.rotated_queries,
}


def _case(name: str, parts: list[dict]) -> Case:
    return Case(name, REFERENCES[name], {key: value for part in parts for key, value in part.items()})


def every_scheme(**parameters) -> pytest.MarkDecorator:
    """``@pytest.mark.parametrize`` over ``case`` and further parameters of a test.

    For every scheme, the cases hold every pair of values of any two of its arguments and the parameters.
    """
    params = []
    for name, arguments in ARGUMENTS.items():
        lists = {f"argument {k}": values for k, values in enumerate(arguments)}
        for made in pairwise(**lists, **parameters):
            case = _case(name, [made.pop(key) for key in lists])
            label = "-".join([str(case), *(f"{key}={value}" for key, value in made.items())])
            params.append(pytest.param(case, *made.values(), id=label))
    return pytest.mark.parametrize(["case", *parameters], params)


ONE_EACH = [_case(name, [values[-1] for values in arguments]) for name, arguments in ARGUMENTS.items()]
"""One case per scheme, for what does not depend on its arguments."""
