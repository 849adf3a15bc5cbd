"""The arguments of a forward pass."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

from torch import nn

from attngraph.errors import UserError
from attngraph.reading.hub import hub_of

HARMLESS = """
    cache_position cu_seq_lens_k cu_seq_lens_q is_causal max_length_k max_length_q num_items_in_batch
    output_attentions output_hidden_states output_router_logits position_ids return_dict seq_idx use_cache
""".split()
"""Arguments that models hand down to attention modules whose eager attention does not look at them."""


def arguments(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of ``module(*args, **kwargs)`` by name; defaults are left out."""
    kind: Any = type(module)
    bound = _signature(kind).bind_partial(module, *args, **kwargs).arguments
    return bound | bound.pop("kwargs", {})


def check_known(module: nn.Module, others: dict[str, Any]) -> None:
    """Make sure that a family's forward pass leaves out nothing that its module was given.

    Args:
        module: an instrumented attention module.
        others: the arguments that the forward pass has no use for.

    Raises:
        UserError: one that is not :data:`HARMLESS`.
    """
    unknown = [name for name, value in others.items() if value is not None and name not in HARMLESS]
    if unknown:
        raise UserError(
            f"{hub_of(module).site.name} is given {', '.join(unknown)}, which attngraph does not know and "
            "would ignore: update attngraph, or go back to an earlier transformers"
        )


@cache
def _signature(kind: Any) -> inspect.Signature:
    return inspect.signature(kind.forward)
