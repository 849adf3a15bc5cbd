"""Attention to further keys and values that stand before a call's own."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from attngraph.errors import UserError

TOLERANCE = 1e-3  # by which shares of weights may differ; in half precision eight of its steps
LEAST = 1e-3  # what a query must leave for a call's own values to tell their shares apart


def prepended(eager: partial, key: Tensor, value: Tensor) -> partial:
    r"""A call's eager attention with keys and values before its own, which every query sees whatever the
    mask,

    .. math:: \mathrm{softmax}\big(Q [K_p; K]^\top/\sqrt d + [0, \mathrm{mask}]\big) [V_p; V] .

    A position bias gets zeros for them: they have no position.

    Args:
        eager: ``(..., query, key, value, mask, **settings)`` to context and weights, all given.
        key, value: :math:`K_p` and :math:`V_p`, ``(b, g, t, d)``.
    """
    *bound, query, own_key, own_value, mask = eager.args
    t, m = key.shape[2], own_key.shape[2]
    settings = {name: _padded(x, t, m) for name, x in eager.keywords.items()}
    keys, values = torch.cat([key, own_key], 2), torch.cat([value, own_value], 2)
    mask = None if mask is None else torch.nn.functional.pad(mask, (t, 0))
    return partial(eager.func, *bound, query, keys, values, mask, **settings)


def _padded(setting: Any, t: int, m: int) -> Any:
    """A bias of all keys with zeros for those that are added."""
    bias = isinstance(setting, Tensor) and setting.is_floating_point() and setting.shape[-1:] == (m,)
    return torch.nn.functional.pad(setting, (t, 0)) if bias else setting


@torch.no_grad()
def check_prepended(name: str, before: partial, after: partial, t: int) -> None:
    """Check that a module's own attention function leaves its own values the shares that they had among
    themselves, and lets queries see the further ones.

    Args:
        name: of the attention layer.
        before: its eager attention of a call.
        after: :func:`prepended` of it.
        t: how many keys were added.

    Raises:
        UserError: it does not.
    """
    try:
        old, new = before()[1].float(), after()[1].float()
    except (RuntimeError, ValueError, IndexError):
        old, new = torch.zeros(1, 1), torch.zeros(1, 1)
    if old.shape[-1] + t == new.shape[-1]:
        own = new[..., t:].sum(-1, keepdim=True)
        rows = (own > LEAST).expand_as(old)
        shares, due = new[..., t:] / own, old / old.sum(-1, keepdim=True)
        slack = max(TOLERANCE, 8 * torch.finfo(before.args[-4].dtype).eps)
        seen = (new[..., :t] > 0).any()
        if seen and bool(((shares - due).abs() <= slack)[rows].all()):
            return
    raise UserError(
        f"{name}: its attention is more than a softmax to which keys can be added (positions inside its own "
        "function, say), so the model can't be given a prefix"
    )
