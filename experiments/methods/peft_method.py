"""Methods that are a PEFT configuration: graph adapters, LoRA and whatever else PEFT knows."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

from adapters.peft import GraphAdapterModel, learned_scalars, watch_effects
from adapters.saved import read_tensors
from adapters.scalar import upgraded
from experiments.files import published
from experiments.methods.method import Method, Tuned, check_fit
from experiments.models.batch import Sample
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

    def load(self, folder: Path) -> None:
        file = folder / WEIGHTS
        due = get_peft_model_state_dict(self.model)
        weights = upgraded(read_tensors(file), due)
        check_fit(file, weights, due)
        set_peft_model_state_dict(self.model, weights)

    @torch.no_grad()
    def effects(self, samples: Sequence[Sample]) -> dict[str, dict[str, float]]:
        graph_adapters = self.model.base_model
        if not isinstance(graph_adapters, GraphAdapterModel) or not graph_adapters.layers():
            return {}
        inputs = self.family.to_device(self.family.training_inputs(samples))
        del inputs["labels"]
        with watch_effects(self.model) as found:
            self.family.logits(inputs)
        return {
            layer: {name: x for name, x in asdict(effect).items() if x is not None and math.isfinite(x)}
            for layer, effect in found.items()
        }

    def scalars(self) -> dict[str, float]:
        return learned_scalars(self.family.model)
