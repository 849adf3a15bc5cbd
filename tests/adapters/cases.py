"""The schemes and arguments that the contract is checked with."""

from __future__ import annotations

from tests.adapters import brute_force
from tests.adapters.contract import Case
from tests.pairwise import pairwise

DEGREES = [{}, {"degree": "mean"}]
STEPS = [{}, {"steps": 3}]
FIXED = {"p": 1.0, "learn_p": False}
MU = [{"mu": 0.0}, {"learn_mu": True}]
ARGUMENTS = {
    "gcn": [[{}, {"normalize": True}]],
    "appnp": [[{"alpha": 0.3}, {"alpha": 1.0}], STEPS, DEGREES],
    "gcnii": [[{}, {"alpha": 0.3, "theta": 1.5}], STEPS, DEGREES],
    "pgnn": [[FIXED, {"p": 1.25}, {"p": 2.5}], MU, STEPS, DEGREES],
    "residual": [[{"alpha": 0.25}, {"alpha": 1.0}]],
    "tempering": [[FIXED, {"p": 2.5}], MU, STEPS, DEGREES],
    "rotated": [[{"p": 1.25}, {"p": 2.5, "seed": 7}], MU, STEPS, DEGREES],
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


def case_of(name: str, **args) -> Case:
    return Case(name, REFERENCES[name], args)


TYPICAL = [
    case_of("gcn", normalize=True),
    case_of("appnp", alpha=0.3, steps=3, degree="mean"),
    case_of("gcnii", alpha=0.3, theta=1.5),
    case_of("pgnn", p=1.25, learn_mu=True, steps=2, degree="mean"),
    case_of("pgnn", **FIXED, mu=0.0),
    case_of("residual", alpha=0.25),
    case_of("tempering", p=2.5, learn_mu=True, degree="mean"),
    case_of("rotated", p=2.5, seed=7, steps=2),
]
"""For what hardly depends on a scheme's arguments."""

ONE_STEP = [
    case_of("pgnn", **p, **mu, **degree)
    for p, mu, degree in (
        case.values()
        for case in pairwise(
            p=[FIXED, {"p": 1.25}, {"p": 2.6}, {"p": 8.0, "learn_p": False}], mu=MU, degree=DEGREES
        )
    )
]
"""pGNN's single step, which has kernels."""


def thorough(**parameters) -> list[dict]:
    """For every scheme, cases with every pair of values of any two of its arguments and the parameters."""
    cases = []
    for name, arguments in ARGUMENTS.items():
        lists = {f"argument {k}": values for k, values in enumerate(arguments)}
        for made in pairwise(**lists, **parameters):
            parts = [made.pop(key) for key in lists]
            args = {key: value for part in parts for key, value in part.items()}
            cases.append({"case": case_of(name, **args), **made})
    return cases
