"""Full fine-tuning, with or without the image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from experiments.methods.method import Method, Tuned


@dataclass(frozen=True)
class FullFineTuning(Method):
    """Every weight is trained, the image encoder too.

    Args:
        text_only: the image states are zero, so the score is what the text alone gives away; the image encoder then gets
            no gradient and is left out of the count.
    """

    text_only: bool = False

    def put_on(self, model: nn.Module) -> Tuned:
        return _TunedModel(model, self.text_only)


class _TunedModel(Tuned):
    def __init__(self, model: nn.Module, text_only: bool):
        self.vision = "zero" if text_only else "trained"
        part = model.text_decoder if text_only else model
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        self._named = dict(part.named_parameters())  # tied weights once
        for parameter in self._named.values():
            parameter.requires_grad_(True)

    def parameters(self) -> list[nn.Parameter]:
        return list(self._named.values())

    def state_dict(self) -> dict[str, Tensor]:
        return {name: parameter.detach() for name, parameter in self._named.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self._named.items():
                parameter.copy_(state[name])

    def save(self, folder: Path) -> None:
        part = folder / "model.safetensors.part"
        save_file({name: tensor.half().contiguous() for name, tensor in self.state_dict().items()}, part)
        part.replace(folder / "model.safetensors")
