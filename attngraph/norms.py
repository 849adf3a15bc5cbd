"""Squared norms of value features that stay the same from one decoding step to the next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(eq=False)
class KeptNorms:
    r"""Keeps :math:`v_j G v_j^\top` of a graph's values, so that it is computed in the first step only: every
    new token of a decoder looks at the same image.

    Attributes:
        value: the features whose norms these are, ``(b, h, m, d)``, as the graph holds them.
        square: the norms, ``(b, h, m)``; None as long as nobody has asked for them.
    """

    value: Tensor
    square: Tensor | None = None

    def get(self, compute: Callable[[], Tensor]) -> Tensor:
        """The norms, computed if nobody has asked for them yet."""
        if self.square is None:
            self.square = compute()
        return self.square
