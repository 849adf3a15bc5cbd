"""All bad inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tests.experiments.bad_inputs import datasets, files, folders, models, options, predictions
from tests.experiments.bad_inputs.case import Case

#: Commands that read the same inputs through the same code.
SISTERS = (("attention", "tsne", "heterophily"), ("ablation", "search"))


def cases() -> Iterator[Case]:
    """All cases, each name once."""
    seen = set()
    for module in (options, files, models, datasets, folders, predictions):
        for case in module.cases():
            assert case.name not in seen, case.name
            seen.add(case.name)
            yield case


def repeated(all_cases: Sequence[Case]) -> set[str]:
    """The names of cases whose damage a sister of their command is tested with already."""
    firsts: set[tuple[int, str]] = set()
    again = set()
    for case in all_cases:
        command, _, damage = case.name.partition(" ")
        for group, sisters in enumerate(SISTERS):
            if command in sisters:
                if (group, damage) in firsts:
                    again.add(case.name)
                firsts.add((group, damage))
    return again
