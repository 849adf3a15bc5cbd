"""The query, key, value and output projections of attention layers, by what they are called."""

from __future__ import annotations

import re
from collections.abc import Collection

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

from adapters.peft.places import language_sites
from attngraph.errors import UserError
from attngraph.reading.calls import Site
from attngraph.reading.instrument import instrument

ROLES = ("query", "key", "value", "output")
LETTERS = {"query": "q", "key": "k", "value": "v"}
TOGETHER = re.compile(
    r"^(c_attn|qkv|w_?qkv|qkv_proj|query_key_value|in_proj|w_pack|att_proj)$", re.IGNORECASE
)
"""Names of layers that project to queries, keys and values at once (in GPT-2's cross-attention: to keys and
values)."""


def attention_projections(model: nn.Module, roles: Collection[str]) -> list[str]:
    """Names of the projections of the language side's attention layers, of self- and cross-attention.

    A layer that projects to several of them at once is taken if one of its roles is.

    Args:
        model: without adapters.
        roles: which of :data:`ROLES`.

    Raises:
        UserError: an unknown role, or an attention layer without such a projection.
    """
    unknown = [role for role in roles if role not in ROLES]
    if unknown or not roles:
        raise UserError(
            f"targets must be one or more of {', '.join(ROLES)}, got {', '.join(map(str, unknown)) or 'none'}"
        )
    handle = instrument(model)
    try:
        sites = language_sites(model, handle.sites.values())
        return [name for site in sites for name in _of_site(site, roles)]
    finally:
        handle.remove()


def _of_site(site: Site, roles: Collection[str]) -> list[str]:
    linear = [name for name, module in site.module.named_modules() if name and _is_linear(module)]
    found: dict[str, None] = {}
    for role in roles:
        if role == "output":
            names = [site.output_name] if site.output_name else []
        else:
            own = [name for name in linear if _has_role(name, role)]
            names = [f"{site.name}.{name}" for name in own or filter(_is_joint, linear)]
        if not names:
            raise UserError(
                f"{site.name} ({type(site.module).__name__}) has no {role} projection that is known by its "
                f"name: it has {', '.join(linear) or 'no linear layer'}; choose other targets"
            )
        found |= dict.fromkeys(names)
    return list(found)


def _has_role(name: str, role: str) -> bool:
    """``query``, ``q``, ``q_proj``, ``to_q``, ``q_lin``, ``Wq``, ``q_attn``, ``query_proj``."""
    last, letter = name.rpartition(".")[2].lower(), LETTERS[role]
    return not _is_joint(name) and (
        last in (role, letter, f"w{letter}", f"to_{letter}") or last.startswith((f"{role}_", f"{letter}_"))
    )


def _is_joint(name: str) -> bool:
    return TOGETHER.match(name.rpartition(".")[2]) is not None


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, (nn.Linear, Conv1D)) and not isinstance(module, BaseTunerLayer)
