"""Full fine-tuning: every weight is trained, the image encoder too."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import nn

from attngraph.errors import UserError
from experiments.configs.settings import Settings
from experiments.methods.method import REFERENCE, Vision, is_number, register
from experiments.methods.own_parameters import OwnParameters, TunedModel
from experiments.models.family import ModelFamily

VISION_RATE = "vision_learning_rate"


@dataclass(frozen=True, kw_only=True)
class FullFineTuning(OwnParameters):
    """All parameters; the image encoder at a learning rate of its own where ``vision_learning_rate`` gives
    one, as mPLUG's authors do it.
    """

    vision: Vision = "trained"

    def trained(self, family: ModelFamily, parameter: str) -> bool:
        return True

    def settings(self, chosen: Settings, task: str, join: str | None = None) -> dict[str, Any]:
        choice = self.choice(chosen, task)
        given = {} if choice is None else choice.arguments
        return {VISION_RATE: given[VISION_RATE]} if VISION_RATE in given else {}

    def argument_names(self) -> list[str]:
        return [VISION_RATE]

    def further_settings(self) -> list[str]:
        return [VISION_RATE]

    def apply(self, family: ModelFamily, settings: dict[str, Any]) -> TunedModel:
        tuned, rate = super().apply(family, settings), settings.get(VISION_RATE)
        if rate is None:
            return tuned
        if not is_number(rate) or not 0 < rate < math.inf:
            raise UserError(f"{self.name}: {VISION_RATE} must be a number above 0, got {rate!r}")
        if not family.caches_features:
            raise UserError(
                f"{self.name}: {family.title} has no image encoder apart: leave {VISION_RATE} out"
            )
        return _TwoRates(family, float(rate))


class _TwoRates(TunedModel):
    """A model whose image encoder has a learning rate of its own."""

    def __init__(self, family: ModelFamily, rate: float):
        super().__init__(family)
        self.rate = rate

    def rates(self) -> dict[nn.Module, float]:
        return {self.family.image_encoder(): self.rate}


register(FullFineTuning(name="full", title="Full fine-tuning", group=REFERENCE))
