"""What an attention mask says: which edges may exist, which queries are valid, and whether they are ordered
in time."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from attngraph.scores import HIDES_BELOW


class Mask(NamedTuple):
    """What an attention mask says.

    Attributes:
        visible: which values each query sees, bool ``(b, n, m)``; None without a mask.
        queries: which queries are valid, those that see themselves, bool ``(b, n)``; None without a mask, or
            where there are fewer values than queries.
        order: how it orders the queries in time: ``"causal"`` if none sees a later one, ``"none"`` if all
            that see each other do so both ways, ``"blocks"`` if blocks of queries that see each other follow
            one another, ``"unclear"`` if a query sees a later one that does not see it; None where each
            example has one valid query at most.
        span: which queries count in the degrees that each query sees, should they be ordered in time, ``(b,
            n, 2)``; None where it is the default of :class:`attngraph.AttentionGraph`.
        only_hides: it hides edges or leaves them as they are, the same for all heads.
        every_query_sees: every query sees something.
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
    # padding belongs to what comes before it
    lowest = torch.where(queries, sees.argmax(-1) - (m - n), place - 1).clamp(min=-1 if m > n else 0)
    highest = torch.where(queries, n - 1 - sees.flip(-1).argmax(-1), place).cummax(1).values
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
    # no valid query of the call is left out before the first, nor, where that is in the call, an earlier one
    whole = (before.gather(1, first.clamp(min=0)) == 0) & ((first < 0) | (m == n)) | ~queries
    if ordered and whole.all():
        return order, None
    return order, torch.stack([first, ends], -1)


def _is_symmetric(pairs: Tensor) -> bool:
    return torch.equal(pairs, pairs.transpose(1, 2))


class Order(NamedTuple):
    """What decides whether the queries of self-attention are ordered in time.

    Attributes:
        call: what this call says of itself, if anything.
        module: what the module says of itself, if anything.
        masked: whether there is a mask.
        mask: the mask's own order; see :class:`Mask`.
        queries: how many queries there are.
        cached: whether the call has a key/value cache.
        generates: whether the model generates text word by word.
        decodes: whether the innermost model that holds the module orders its queries, where neither call nor
            module says anything.
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

        Eager attention hides what its mask hides and nothing else. So a mask that hides later queries from
        earlier ones decides, and several queries without a mask are not ordered, even if the module calls
        itself causal (which transformers' SDPA would act upon). Queries that all see each other are the whole
        input of an encoder, or what others follow: so it is where there is a cache and module or model do not
        say otherwise (XLM's encoder has one too), where the call says that it is causal, and where the module
        says so in a model that generates text. A single query is ordered if it goes on from a cache, unless
        the call says that it is not, or the module does and the model does not generate text; without one if
        the module says so, or, where that says nothing, its model.
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
