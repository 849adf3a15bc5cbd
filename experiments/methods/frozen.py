"""The pre-trained model as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from experiments.methods.method import REFERENCE, Method, Tuned, freeze, register
from experiments.models.family import ModelFamily


@dataclass(frozen=True, kw_only=True)
class Frozen(Method):
    """Nothing is trained."""

    def apply(self, family: ModelFamily, settings: dict[str, Any]) -> Tuned:
        freeze(family)
        return Tuned(family)


register(Frozen(name="frozen", title="Frozen model", group=REFERENCE, trains=False))
