"""Graph adapters in the small BLIP decoder of ``conftest.py``, with weights as if they were trained."""

from __future__ import annotations

import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn

from attngraph.adapters import GraphAdapterConfig
from attngraph.adapters.peft.layer import GraphLayer
from tests.adapters.peft.helpers import SCHEME_ARGS

VARIANTS = [
    ("pgnn", SCHEME_ARGS["pgnn"]),
    ("gcn", {"normalize": True}),
    ("appnp", {"degree": "mean"}),
    ("pgnn", {"p": 2.5, "mu": 0.0, "degree": "mean"}),
    ("rotated", {"p": 1.25, "mu": 0.1, "degree": "mean"}),
    ("pgnn", {"p": 1.25, "mu": 0.1, "query_rows": "noise"}),
]
"""Variants whose messages depend on all that a decoder can get wrong: masks, degrees, distances, places."""
JOINS = ["replace", "gated", "blend"]


def put(
    model: nn.Module, gnn: str = "pgnn", args: dict | None = None, seed: int = 0, **settings
) -> PeftModel:
    """The model with adapters none of whose weights has its neutral value."""
    args = SCHEME_ARGS[gnn] if args is None else args
    torch.manual_seed(seed)
    config = GraphAdapterConfig(gnn=gnn, **args, reduction=4, init_weights=False, **settings)
    return get_peft_model(model, config).eval()


def adapters_of(model: nn.Module) -> dict[str, nn.Module]:
    """The adapters named default, by the path of the projection that they follow."""
    return {m.name: m.gnn_adapter["default"] for m in model.modules() if isinstance(m, GraphLayer)}


def logits(
    model: nn.Module, ids: Tensor, states: Tensor, mask: Tensor | None = None, left: bool = False
) -> Tensor:
    """Logits without a cache; ``left`` numbers the positions from the first valid token."""
    more = {"position_ids": (mask.cumsum(-1) - 1).clamp(min=0)} if left else {}
    with torch.no_grad():
        return model(
            input_ids=ids, attention_mask=mask, encoder_hidden_states=states, use_cache=False, **more
        ).logits


def step(model: nn.Module, ids: Tensor, states: Tensor, cache, mask=None, positions=None) -> tuple:
    """Logits of the next tokens, and the cache after them."""
    with torch.no_grad():
        out = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            encoder_hidden_states=states,
            use_cache=True,
            cache=cache,
        )
    return out.logits, out.cache


def left_padded(words) -> tuple[Tensor, Tensor, Tensor]:
    """Nine tokens of two texts, of which the second starts with padding: ids, mask, positions."""
    ids, mask = words(2, 9), torch.ones(2, 9, dtype=torch.long)
    mask[1, :2] = 0
    return ids, mask, (mask.cumsum(-1) - 1).clamp(min=0)
