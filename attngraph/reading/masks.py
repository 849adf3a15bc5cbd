"""Interpretation of an attention mask: which edges may exist, which queries are valid, and whether they are
ordered in time."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from attngraph.scores import HIDES_BELOW


class Mask(NamedTuple):
    """Interpretation of an attention mask.

    Attributes:
        visible: which values each query sees, bool ``(b, n, m)``; None without a mask.
        queries: which queries are valid, bool ``(b, n)``: not those that see nothing, nor padding, which no
            query sees, itself included. If the mask hides self-loops, padding is recognised by seeing
            nothing alone. None without a mask, or where there are fewer values than queries.
        order: order of the queries in time: ``"causal"`` if none sees a later one, ``"none"`` if visibility
            is symmetric, ``"blocks"`` if blocks of queries that see each other follow one another,
            ``"unclear"`` if a query sees a later one that does not see it; None if each example has at most
            one valid query.
        span: which queries count in the degrees that each query sees, should they be ordered in time, ``(b,
            n, 2)``; None for the default of :class:`attngraph.AttentionGraph`.
        only_hides: it hides edges or does not change them, the same for all heads.
        every_query_sees: every query sees a value.
        valid: every query is valid.
    """

    visible: Tensor | None
    queries: Tensor | None
    order: str | None
    span: Tensor | None = None
    only_hides: bool = True
    every_query_sees: bool = True
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
    only_hides = visible.shape[1] == 1 and not biased
    visible = visible[..., :m].any(1).expand(b, n, m)
    sees = bool(visible.any(-1).all())
    if m < n:
        return Mask(visible, None, None, None, only_hides, sees)
    queries = visible.diagonal(m - n, -2, -1).clone()  # a view would keep the whole mask in memory
    if m == n and not queries.all():
        seeing, seen = visible.any(2), visible.any(1)
        hides_loops = (seeing & seen & ~queries).any(1, keepdim=True) | ~queries.any(1, keepdim=True)
        queries |= seeing & (seen | hides_loops)
    order, span = _read_order(visible, queries)
    return Mask(visible, queries, order, span, only_hides, sees, bool(queries.all()))


def _read_order(visible: Tensor, queries: Tensor) -> tuple[str | None, Tensor | None]:
    """How queries that see each other are ordered in time.

    A block ends with a query beyond which none of the queries up to it sees. A query's sequence begins with
    the first query that it sees, or that one's first, and so on; it is -1 where that is a value from before
    the queries.

    Args:
        visible: which values each query sees, bool ``(b, n, m)``; the last ``n`` values are the queries' own.
        queries: which queries are valid, bool ``(b, n)``.

    Returns:
        ``order`` and ``span``; see :class:`Mask`.
    """
    b, n, m = visible.shape
    if n == 1 and (m == 1 or bool((visible[:, 0, :-1].any(-1) | ~queries[:, 0]).all())):
        return None, None  # a step of decoding: a single query that sees what is before it
    place = torch.arange(n, device=visible.device).expand(b, n)
    sees = visible.byte()
    nearest, farthest = sees.argmax(-1) - (m - n), n - 1 - sees.flip(-1).argmax(-1)
    # padding belongs to what comes before it
    lowest = torch.where(queries, nearest.minimum(place), place - 1).clamp(min=-1 if m > n else 0)
    highest = torch.where(queries, farthest.maximum(place), place).cummax(1).values
    ends = torch.where(highest == place, place, n).flip(1).cummin(1).values.flip(1)
    ordered = bool(((ends == place) | ~queries).all())
    if not (queries.sum(1) > 1).any():
        order = None
    elif ordered:
        order = "causal"
    else:
        pairs = visible[..., m - n :] & queries[..., None] & queries[:, None]
        order = "none"
        if not _is_symmetric(pairs):
            order = "blocks" if _is_symmetric(pairs & (ends[..., None] == ends[:, None])) else "unclear"
    before = queries.cumsum(1) - queries.long()
    first = lowest
    while True:
        earlier = torch.where(first < 0, first, first.gather(1, first.clamp(min=0)))
        if torch.equal(earlier, first):
            break
        first = earlier
    # no valid query of the call is missing before the first, nor, where that is in the call, an earlier one
    whole = (before.gather(1, first.clamp(min=0)) == 0) & ((first < 0) | (m == n)) | ~queries
    if ordered and whole.all():
        return order, None
    return order, torch.stack([first, ends], -1)


def _is_symmetric(pairs: Tensor) -> bool:
    return torch.equal(pairs, pairs.transpose(1, 2))


class Order(NamedTuple):
    """Evidence whether the queries of self-attention are ordered in time.

    Attributes:
        call: whether this call declares itself causal; None if it does not say.
        module: whether the module declares itself causal; None if it does not say.
        masked: whether there is a mask.
        mask: the order in the mask; see :class:`Mask`.
        queries: number of queries.
        cached: whether the call has a key/value cache.
        generates: whether the model generates text word by word.
        decodes: whether the innermost model that holds the module orders its queries; used if neither call
            nor module says so.
    """

    call: bool | None
    module: bool | None
    masked: bool
    mask: str | None
    queries: int
    cached: bool
    generates: bool = False
    decodes: bool = False

    @property
    def causal(self) -> bool:
        """Whether the queries are ordered in time.

        Eager attention hides only the edges that its mask hides. So a mask that hides later queries from
        earlier ones decides, and several queries without a mask are not ordered, even if the module declares
        itself causal (which transformers' SDPA would apply). Queries that all see each other are either the
        whole input of an encoder, or a prefix that others follow. They are a prefix if there is a cache and
        neither module nor model says otherwise (XLM's encoder has a cache too), if the call declares itself
        causal, or if the module does so in a model that generates text. A single query with a cache is
        ordered, unless the call declares itself not causal, or the module does and the model does not
        generate text. Without a cache it is ordered if the module, or else its model, declares it.
        """
        word = self.module if self.call is None else self.call
        if self.mask in ("causal", "blocks"):
            return True
        if self.mask == "none":
            followed = self.cached and (self.decodes or self.generates if word is None else word)
            return followed or bool(self.call) or (self.generates and bool(self.module))
        if self.queries == 1 and self.cached:
            return word is not False or (self.generates and self.call is None)
        return self.masked and (self.decodes if word is None else word)
