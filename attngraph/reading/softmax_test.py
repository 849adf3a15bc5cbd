"""Whether a module's eager attention is a softmax of scaled and masked scores, and nothing more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attngraph.reading.heads import repeat_heads

QUERIES, VALUES = 5, 17  # numbers of nodes that it is tried out on
TOLERANCE = 1e-4  # by which weights may differ


@dataclass(eq=False)
class SoftmaxTest:
    """Tries a module's eager attention out, once for the settings that it runs with.

    The queries and keys are made up and give scores of all sizes, so that neither the data nor their
    precision decide.

    Args:
        eager: from query, key, value and additive mask to context and weights.
        heads: number of heads.
        groups: number of heads of keys and values.
        features: per head, of queries, keys and values (values of another width give no scores).
        settings: further arguments of the eager attention.
        device: where to compute.
    """

    eager: Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
    heads: int
    groups: int
    features: int
    settings: dict[str, Any]
    device: torch.device

    def passed(self, known: dict[tuple, bool]) -> bool:
        """Whether the weights are those of a softmax.

        Args:
            known: earlier results of the module by settings; this one is added.
        """
        if any(isinstance(x, Tensor) and x.is_floating_point() for x in self.settings.values()):
            return False  # a bias, say, whose shape fits these numbers only
        key = tuple(
            sorted((name, x) for name, x in self.settings.items() if isinstance(x, (int, float, str)))
        )
        if key not in known:
            known[key] = self._try()
        return known[key]

    @torch.no_grad()
    def _try(self) -> bool:
        scale = self.settings.get("scaling") or self.features**-0.5
        draw = torch.Generator().manual_seed(0)
        spread = (4 / (abs(scale) * self.features**0.5)) ** 0.5  # scores of about 4
        query, key, value = (
            torch.randn(1, *shape, generator=draw).to(self.device) * spread
            for shape in (
                (self.heads, QUERIES, self.features),
                (self.groups, VALUES, self.features),
                (self.groups, VALUES, self.features),
            )
        )
        hidden = torch.rand(1, 1, QUERIES, VALUES, generator=draw).to(self.device) < 0.2
        mask = torch.zeros_like(hidden, dtype=query.dtype).masked_fill(hidden, torch.finfo(query.dtype).min)
        with torch.autocast(self.device.type, enabled=False):
            try:
                weight = self.eager(query, key, value, mask)[1]
            except Exception:  # it needs the numbers of a real call
                return False
            scores = query @ repeat_heads(key, 1, self.heads).transpose(-1, -2) * scale + mask
            expected = scores.softmax(-1)
            return weight.shape == expected.shape and bool((weight - expected).abs().max() < TOLERANCE)
