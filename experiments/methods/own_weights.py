"""Methods that add no parameters: some parameters of the model are trained, or none."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, FiniteFloat
from safetensors.torch import save_file
from torch import nn

from attngraph.adapters.peft.loading import read_tensors
from attngraph.errors import UserError
from attngraph.experiments.base.config import Config, checked
from attngraph.experiments.base.files import whole
from attngraph.experiments.base.reading import read_json
from attngraph.experiments.methods.method import PREDICTIONS, REMEDY, Method, Tuned, check_fit
from attngraph.experiments.methods.settings import Settings
from attngraph.experiments.models.batch import Sample
from attngraph.experiments.models.family import Answering, ModelFamily

VISION_RATE = "vision_learning_rate"


@dataclass(frozen=True, kw_only=True)
class OwnParameters(Method):
    """Some parameters of the model are trained."""

    rates: tuple[float, ...] = (1e-4, 3e-4)
    default_rate: float = 3e-4

    @abstractmethod
    def trained(self, family: ModelFamily, parameter: str) -> bool:
        """Whether a parameter is trained, by its name in the model."""

    def apply(self, family: ModelFamily, settings: dict[str, Any]) -> TunedModel:
        for name, parameter in family.model.named_parameters():
            parameter.requires_grad_(self.trained(family, name))
        return TunedModel(family)


class TunedModel(Tuned):
    """A model with some trained parameters, possibly with a separate learning rate of the image encoder."""

    file = "model.safetensors"
    vision_rate: float | None = None

    def rates(self) -> dict[nn.Module, float]:
        return {} if self.vision_rate is None else {self.family.image_encoder(): self.vision_rate}

    def save(self, folder: Path) -> None:
        """Write the trained parameters to one file."""
        tensors = {name: p.detach().cpu().contiguous() for name, p in self.parameters().items()}
        with whole(folder / self.file) as part:
            save_file(tensors, part)

    def load(self, folder: Path) -> None:
        weights, parameters = read_tensors(folder / self.file), self.parameters()
        check_fit(folder / self.file, weights, parameters)
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(weights[name])


@dataclass(frozen=True, kw_only=True)
class LanguageSide(OwnParameters):
    """The parameters of the modules that read and write text."""

    def trained(self, family: ModelFamily, parameter: str) -> bool:
        return bool(family.on_language_side([parameter]))


class _Rate(Config):
    vision_learning_rate: Annotated[FiniteFloat, Field(gt=0)] | None = None


@dataclass(frozen=True, kw_only=True)
class FullFineTuning(OwnParameters):
    """All parameters are trained; the image encoder with a separate learning rate if ``vision_learning_rate``
    is set, as in the code of mPLUG.
    """

    def trained(self, family: ModelFamily, parameter: str) -> bool:
        return True

    def settings(self, chosen: Settings, task: str) -> dict[str, Any]:
        choice = self.choice(chosen, task)
        given = {} if choice is None else choice.arguments
        return {VISION_RATE: given[VISION_RATE]} if VISION_RATE in given else {}

    def argument_names(self) -> list[str]:
        return [VISION_RATE]

    def apply(self, family: ModelFamily, settings: dict[str, Any]) -> TunedModel:
        own = checked(settings, _Rate, lambda _: f"settings of {self.name}", REMEDY)
        if own.vision_learning_rate is not None and not family.caches_features:
            raise UserError(
                f"{self.name}: {family.title} has no separate image encoder: remove {VISION_RATE}"
            )
        tuned = super().apply(family, settings)
        tuned.vision_rate = own.vision_learning_rate
        return tuned


@dataclass(frozen=True, kw_only=True)
class Frozen(Method):
    """Nothing is trained."""

    def apply(self, family: ModelFamily, settings: dict[str, Any]) -> Tuned:
        family.model.requires_grad_(False)
        return Tuned(family)


@dataclass(frozen=True, kw_only=True)
class Majority(Frozen):
    """Nothing is trained; the training answers are counted."""

    def apply(self, family: ModelFamily, settings: dict[str, Any]) -> Tuned:
        super().apply(family, settings)
        return Constant(family)


class Constant(Tuned):
    """The same answer to every input."""

    def observe(self, targets: Iterable[str]) -> None:
        self.text = Counter(targets).most_common(1)[0][0]

    def load(self, folder: Path) -> None:
        """Read the answer from the run's predictions."""
        self.text = next(iter(read_json(folder / PREDICTIONS).values()))

    def answer(self, samples: Sequence[Sample], way: Answering) -> list[str]:
        return [self.text] * len(samples)
