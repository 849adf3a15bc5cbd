r"""The bottleneck, which all adapters train, and three ways to join a scheme's output :math:`\bar U` by it to
a frozen model whose attention output is :math:`U`.

A join is called as ``join(plain, aggregated, project, scheme)`` with both before the output projection,
``(b, n, h·d)``; ``project`` applies :math:`W_o` and its bias. It returns ``(b, n, width)``, the input of
the modules after the output projection in the frozen layer (dropout, residual connection, LayerNorm). Schemes
do not depend on the join. Every join has the attribute ``bottleneck``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from attngraph.adapters.scalar import Scalar
from attngraph.adapters.scheme import Scheme

Projection = Callable[[Tensor], Tensor]


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


class Replace(nn.Module):
    r"""The paper's: :math:`\bar U` takes the place of :math:`U`,

    .. math:: U' = \mathrm{combine}(\bar U,\; \sigma(\bar U W_{down}) W_{up}) .

    It changes the frozen model before any training (degree normalisation and residual rescale its output),
    except for GCN.
    """

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.bottleneck = Bottleneck(width, hidden)

    def forward(self, plain: Tensor, aggregated: Tensor, project: Projection, scheme: Scheme) -> Tensor:
        u = project(aggregated)
        return scheme.combine(u, self.bottleneck(u))


class Gated(nn.Module):
    r"""The released code's GELU gate, repaired: :math:`U` stays and opens a gate in the bottleneck,

    .. math:: U' = U + \big(\mathrm{GELU}(U W_{gate}) \odot \bar U W_{down}\big) W_{up} .

    :math:`W_{up}` starts at zero, so a new adapter does not change the model. It has a third more parameters
    than the others. The scheme's ``combine`` is not used: :math:`U` is never rescaled.
    """

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.bottleneck = Bottleneck(width, hidden)
        self.gate = nn.Linear(width, hidden)
        nn.init.normal_(self.gate.weight, std=width**-0.5)
        nn.init.zeros_(self.gate.bias)

    def forward(self, plain: Tensor, aggregated: Tensor, project: Projection, scheme: Scheme) -> Tensor:
        u, u_bar = project(plain), project(aggregated)
        opened = self.bottleneck.activation(self.gate(u)) * self.bottleneck.down(u_bar)
        return u + self.bottleneck.up(opened)


class Blend(nn.Module):
    r"""Learned interpolation between the vanilla adapter and the scheme, with weight :math:`g`, initially 0:

    .. math::
        H &= U + g (\bar U - U), \qquad \Delta = \sigma(H W_{down}) W_{up}, \\
        U' &= (1 - g) (H + \Delta) + g \, \mathrm{combine}(H, \Delta) .

    A new adapter does not change the model, for any scheme; :math:`g = 1` is ``replace``.
    """

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.bottleneck = Bottleneck(width, hidden)
        self.share = Scalar(0.0)

    def forward(self, plain: Tensor, aggregated: Tensor, project: Projection, scheme: Scheme) -> Tensor:
        share = self.share()
        h = project(torch.lerp(plain, aggregated, share.to(plain.dtype)))
        update = self.bottleneck(h)
        return torch.lerp(h + update, scheme.combine(h, update), share.to(h.dtype))


JOINS: dict[str, type[nn.Module]] = {"replace": Replace, "gated": Gated, "blend": Blend}
