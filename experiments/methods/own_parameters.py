"""Methods that are a rule which of the model's own parameters train."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from adapters.saved import read_tensors
from experiments.files import whole
from experiments.methods.method import Method, Tuned, check_fit, freeze
from experiments.models.family import ModelFamily

WEIGHTS = "model.safetensors"


@dataclass(frozen=True, kw_only=True)
class OwnParameters(Method):
    """Some of the model's own parameters are trained."""

    rates: tuple[float, ...] = (1e-4, 3e-4)
    default_rate: float = 3e-4

    @abstractmethod
    def trained(self, family: ModelFamily, parameter: str) -> bool:
        """Whether a parameter is trained, by its name in the model."""

    def apply(self, family: ModelFamily, settings: dict[str, Any]) -> TunedModel:
        freeze(family)
        for name, parameter in family.model.named_parameters():
            parameter.requires_grad_(self.trained(family, name))
        return TunedModel(family)


class TunedModel(Tuned):
    """A model some of whose own parameters are trained."""

    def save(self, folder: Path) -> None:
        """``model.safetensors``: the trained parameters as they are."""
        tensors = {name: p.detach().cpu().contiguous() for name, p in self.parameters().items()}
        with whole(folder / WEIGHTS) as part:
            save_file(tensors, part)

    def load(self, folder: Path) -> None:
        weights, parameters = read_tensors(folder / WEIGHTS), self.parameters()
        check_fit(folder / WEIGHTS, weights, parameters)
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(weights[name])


@dataclass(frozen=True, kw_only=True)
class LanguageSide(OwnParameters):
    """The parameters of the modules that read and write text."""

    def trained(self, family: ModelFamily, parameter: str) -> bool:
        return any(not side or parameter.startswith(f"{side}.") for side in family.language_side())
