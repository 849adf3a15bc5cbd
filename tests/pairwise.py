"""Covering arrays of strength two: few cases that contain each pair of values of any two parameters.

A full product of parameters grows with the product of their numbers of values; a covering array with the
product of the two largest only. A mistake that shows whenever two parameters take certain values is still
caught.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations, product

import pytest


def pairwise(**values) -> list[dict]:
    """Cases that together contain every pair of values of any two parameters.

    Each case is built greedily: it starts from the first pair that no earlier case has, and every other
    parameter takes the value that adds the most new pairs (the least used one among equals). The result is
    the same in every run.

    Args:
        values: ``{parameter: its values}``, in any iterable; the values need not be hashable. With a single
            parameter there is one case per value.

    Returns:
        ``[{parameter: value}]``, the parameters in the order of the arguments.

    Raises:
        ValueError: a parameter has no values, or there are no parameters.
    """
    lists = {name: list(options) for name, options in values.items()}
    empty = [name for name, options in lists.items() if not options]
    if empty or not lists:
        raise ValueError(f"no values for {', '.join(empty)}" if empty else "no parameters")
    sizes = [len(options) for options in lists.values()]
    cases = [(k,) for k in range(sizes[0])] if len(sizes) == 1 else _cover(sizes)
    return [{name: options[k] for (name, options), k in zip(lists.items(), case)} for case in cases]


def pairwise_params(name_of: Callable[[object], str] | None = None, **values) -> list:
    """:func:`pairwise` for ``@pytest.mark.parametrize``, which has to name the parameters in the same order.

    Args:
        name_of: makes the part of a case's id that stands for one value. Default: ``__name__`` where a value
            has one (classes and functions), ``name=value`` for bool, None and numbers, else ``str``.

    Returns:
        ``pytest.param(*values, id="value-value-...")`` per case.

    Example::

        @pytest.mark.parametrize("backend, causal", pairwise_params(backend=BACKENDS, causal=[False, True]))
    """
    cases = pairwise(**values)
    params = []
    for case in cases:
        parts = [name_of(value) if name_of else _part(name, value) for name, value in case.items()]
        params.append(pytest.param(*case.values(), id="-".join(parts)))
    return params


def _part(name: str, value: object) -> str:
    if value is None or isinstance(value, (bool, int, float)):
        return f"{name}={value}"
    return getattr(value, "__name__", None) or str(value)


def _cover(sizes: list[int]) -> list[tuple[int, ...]]:
    """Indices of the values of each case."""
    missing = {
        (a, x, b, y)
        for a, b in combinations(range(len(sizes)), 2)
        for x, y in product(range(sizes[a]), range(sizes[b]))
    }
    used = [[0] * size for size in sizes]
    cases = []
    while missing:
        a, x, b, y = min(missing)
        case = {a: x, b: y}
        for place in sorted(set(range(len(sizes))) - {a, b}, key=lambda place: (-sizes[place], place)):
            case[place] = max(
                range(sizes[place]),
                key=lambda k: (len(_pairs(case | {place: k}) & missing), -used[place][k], -k),
            )
        missing -= _pairs(case)
        for place, k in case.items():
            used[place][k] += 1
        cases.append(tuple(case[place] for place in range(len(sizes))))
    return cases


def _pairs(case: dict[int, int]) -> set[tuple[int, int, int, int]]:
    return {(a, case[a], b, case[b]) for a, b in combinations(sorted(case), 2)}
