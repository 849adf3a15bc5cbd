"""What an attention mask says: which edges may exist, which queries are valid, and whether they are ordered
in time."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

HIDES_BELOW = -9e3
"""An additive mask at or below this hides an edge: models use -1e4, -1e9, the type's lowest number and
-inf."""


class Mask(NamedTuple):
    """What an attention mask says.

    Attributes:
        visible: which values each query sees, bool ``(b, n, m)``; None without a mask.
        queries: which queries are valid, those that see themselves, bool ``(b, n)``; None without a mask, or
            where there are fewer values than queries.
        order: ``"causal"`` if all later values are hidden, ``"none"`` if none of them, ``"mixed"`` if some,
            and None if there are none.
        pure: it hides edges or leaves them as they are, the same for all heads.
        sees: every query sees something.
        valid: every query is valid.
    """

    visible: Tensor | None
    queries: Tensor | None
    order: str | None
    pure: bool = True
    sees: bool = True
    valid: bool = True


def read_mask(mask: Tensor | None, shape: tuple[int, int, int, int]) -> Mask:
    """Read an additive or bool mask. Where heads differ, an edge is visible if one of them sees it.

    Args:
        mask: broadcastable to ``shape``.
        shape: ``(b, h, n, m)``.
    """
    if mask is None:
        return Mask(None, None, None)
    b, _, n, m = shape
    visible = mask if mask.dtype == torch.bool else mask > HIDES_BELOW
    while visible.dim() < 4:
        visible = visible[None]
    biased = mask.dtype != torch.bool and bool(((mask > HIDES_BELOW) & (mask != 0)).any())
    pure = visible.shape[1] == 1 and not biased
    visible = visible[..., :m].any(1).expand(b, n, m)
    sees = bool(visible.any(-1).all())
    if m < n:
        return Mask(visible, None, None, pure, sees)
    queries = visible.diagonal(m - n, -2, -1)
    seen = visible & queries[..., None]
    later = torch.ones(n, m, dtype=torch.bool, device=mask.device).triu(m - n + 1)
    later = later & queries[..., None] & seen.any(1, keepdim=True)
    shown, possible = int((seen & later).sum()), int(later.sum())
    order = None if possible == 0 else "causal" if shown == 0 else "none" if shown == possible else "mixed"
    return Mask(visible, queries, order, pure, sees, bool(queries.all()))


class Order(NamedTuple):
    """What decides whether the queries of self-attention are ordered in time.

    Attributes:
        call: what this call says of itself, if anything.
        module: what the module says of itself, if anything.
        masked: whether there is a mask.
        mask: the mask's own order; see :class:`Mask`.
        queries: how many queries there are.
        cached: whether the call has a key/value cache.
    """

    call: bool | None
    module: bool | None
    masked: bool
    mask: str | None
    queries: int
    cached: bool

    @property
    def causal(self) -> bool:
        """Whether the queries are ordered in time.

        Eager attention hides what its mask hides and nothing else. So a mask that hides all later values or
        none of them decides, and several queries without a mask are not ordered, even if the module calls
        itself causal (which transformers' SDPA would act upon). Where a mask hides some later values, the
        call's word counts, or else the module's. A single query is ordered if it goes on from a cache.
        """
        word = self.module if self.call is None else self.call
        if self.mask in ("causal", "none"):
            return self.mask == "causal"
        if not self.masked or (word is None and self.mask is None):
            return self.queries == 1 and self.cached and word is not False
        return bool(word)
