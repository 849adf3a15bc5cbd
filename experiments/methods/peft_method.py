"""Methods that are a PEFT configuration: graph adapters, LoRA and whatever else PEFT knows."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftConfig, PeftModel, get_peft_model

from adapters.peft import learned_scalars
from experiments.files import published
from experiments.methods.method import Method, Tuned
from experiments.models.family import ModelFamily

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


@dataclass(frozen=True, kw_only=True)
class PeftMethod(Method):
    """The pre-trained model is frozen; PEFT puts new parameters into it."""

    @abstractmethod
    def config(self, family: ModelFamily, settings: dict[str, Any]) -> PeftConfig:
        """The configuration for a model."""

    def apply(self, family: ModelFamily, settings: dict[str, Any]) -> PeftTuned:
        return PeftTuned(family, get_peft_model(family.model, self.config(family, settings)))


class PeftTuned(Tuned):
    """A model with PEFT's parameters in it."""

    def __init__(self, family: ModelFamily, model: PeftModel):
        super().__init__(family)
        self.model = model
        family.unadapted = model.disable_adapter

    def save(self, folder: Path) -> None:
        """``adapter_config.json`` and ``adapter_model.safetensors``, which ``PeftModel.from_pretrained``
        reads.
        """
        with published(folder) as part:
            self.model.save_pretrained(str(part))
            (part / "README.md").unlink(missing_ok=True)  # PEFT's empty model card

    def scalars(self) -> dict[str, float]:
        return learned_scalars(self.family.model)
