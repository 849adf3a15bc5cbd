"""The bottleneck: the trainable part that all adapters have."""

from __future__ import annotations

from torch import Tensor, nn


class Bottleneck(nn.Module):
    r""":math:`\sigma(U W_{down}) W_{up}` with biases, without the residual.

    ``W_up`` and its bias start at zero, so a new bottleneck adds nothing.

    Args:
        width: feature width of the frozen model.
        hidden: width of the bottleneck.

    Source: Houlsby et al., "Parameter-Efficient Transfer Learning for NLP", ICML 2019.
    """

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.down = nn.Linear(width, hidden)
        self.up = nn.Linear(hidden, width)
        self.activation = nn.GELU()
        nn.init.normal_(self.down.weight, std=width**-0.5)
        nn.init.zeros_(self.down.bias)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, u: Tensor) -> Tensor:
        return self.up(self.activation(self.down(u)))
