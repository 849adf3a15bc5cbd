"""Linear layers that keep their weights otherwise than as numbers that layers compute with."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


class Scaled(nn.Linear):
    """Quantised weights with a scale for each output, as ``nn.Linear``."""

    def __init__(self, linear: nn.Linear, dtype: torch.dtype = torch.int8):
        super().__init__(linear.in_features, linear.out_features, device="meta")
        weight = linear.weight.detach()
        self.register_buffer("scale", weight.abs().amax(1, keepdim=True) / 127)
        self.weight = nn.Parameter((weight / self.scale).to(dtype), requires_grad=False)
        self.bias = linear.bias

    def dequantized(self) -> Tensor:
        return self.weight.float() * self.scale

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.dequantized().to(x.dtype), self.bias)


class PackedLinear(nn.Module):
    """Two weights of four bits in a byte, in no subclass of ``nn.Linear``."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight.detach()
        self.register_buffer("scale", weight.abs().amax(1, keepdim=True) / 7)
        level = (weight / self.scale).round().add(8).byte()
        self.register_buffer("qweight", level[:, ::2] * 16 + level[:, 1::2])
        self.bias = linear.bias

    def dequantized(self) -> Tensor:
        level = torch.stack([self.qweight // 16, self.qweight % 16], -1).flatten(1)
        return (level.float() - 8) * self.scale

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.dequantized().to(x.dtype), self.bias)


def quantise(model: PreTrainedModel, make: Callable[[nn.Linear], nn.Module]) -> None:
    """Put quantised layers in the place of all linear ones but that of the output words, whose weight may be
    that of the input."""
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and module is not model.get_output_embeddings():
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, make(module))
