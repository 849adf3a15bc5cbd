"""The most frequent training answer, whatever the input."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.methods.method import REFERENCE, Method, Tuned, freeze, register
from experiments.models.batch import Sample
from experiments.models.family import Answering, ModelFamily
from experiments.tasks.task import majority


@dataclass(frozen=True, kw_only=True)
class Majority(Method):
    """Nothing is trained; the training answers are counted."""

    def apply(self, family: ModelFamily, settings: dict[str, Any]) -> Tuned:
        freeze(family)
        return Constant(family)


class Constant(Tuned):
    """One answer to everything."""

    def observe(self, targets: Iterable[str]) -> None:
        self.text = majority(targets)

    def answer(self, samples: Sequence[Sample], way: Answering) -> list[str]:
        return [self.text] * len(samples)


register(
    Majority(
        name="majority",
        title="Majority class",
        group=REFERENCE,
        trains=False,
        note="the most frequent training answer for every input",
    )
)
