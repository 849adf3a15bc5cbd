"""Full fine-tuning: every weight is trained, the image encoder too."""

from __future__ import annotations

from dataclasses import dataclass

from experiments.methods.method import REFERENCE, Vision, register
from experiments.methods.own_parameters import OwnParameters
from experiments.models.family import ModelFamily


@dataclass(frozen=True, kw_only=True)
class FullFineTuning(OwnParameters):
    """All parameters."""

    vision: Vision = "trained"

    def trained(self, family: ModelFamily, parameter: str) -> bool:
        return True


register(FullFineTuning(name="full", title="Full fine-tuning", group=REFERENCE))
