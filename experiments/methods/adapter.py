"""A graph adapter on a frozen model."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from adapters.blip import attach
from adapters.config import AdapterConfig
from experiments.methods.method import Method, Tuned


@dataclass(frozen=True)
class Adapter(Method):
    """Adapters in the text decoder; the image encoder and everything else is frozen."""

    config: AdapterConfig = field(default_factory=AdapterConfig)

    def put_on(self, model: nn.Module) -> Tuned:
        return _TunedAdapter(attach(model, self.config))


class _TunedAdapter(Tuned):
    def __init__(self, adapters):
        self.adapters = adapters

    def parameters(self) -> list[nn.Parameter]:
        return self.adapters.parameters()

    def optimizer_groups(self, learning_rate: float, weight_decay: float) -> list[dict]:
        return self.adapters.optimizer_groups(learning_rate, weight_decay)

    def state_dict(self) -> dict[str, Tensor]:
        return self.adapters.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.adapters.load_state_dict(state)

    def save(self, folder: Path) -> None:
        self.adapters.save(folder / "adapter.safetensors")

    def learned(self) -> dict[str, float]:
        found = {}
        for place, module in self.adapters.modules.items():
            scheme, join = getattr(module, "scheme", None), getattr(module, "join", None)
            if getattr(scheme, "p_logit", None) is not None:
                found[f"{place}.p"] = float(torch.as_tensor(scheme.p).detach())
            if getattr(scheme, "log_mu", None) is not None:
                found[f"{place}.mu"] = float(torch.as_tensor(scheme.mu).detach())
            if hasattr(join, "share"):
                found[f"{place}.share"] = float(join.share.detach())
        return found
