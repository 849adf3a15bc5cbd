"""Adapted models of all families, with weights as if they were trained, and how to compare their outputs."""

from __future__ import annotations

import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn

from attngraph.adapters import GraphAdapterConfig
from tests.adapters.peft_models import FAMILIES

SCHEME_ARGS = {
    "gcn": {},
    "appnp": {"alpha": 0.2, "steps": 2},
    "gcnii": {"alpha": 0.2, "theta": 1.2, "steps": 2},
    "pgnn": {"p": 1.25, "mu": 0.1, "steps": 2},
    "residual": {"alpha": 0.3},
    "tempering": {"p": 2.5, "mu": 0.1, "steps": 2},
    "rotated": {"p": 1.25, "mu": 0.1, "steps": 2, "seed": 3},
}
GENERATORS = [name for name, family in FAMILIES.items() if family.kind != "encoder"]


def config(gnn: str = "pgnn", **settings) -> GraphAdapterConfig:
    """Settings of an adapter with random weights."""
    return GraphAdapterConfig(
        **{"gnn": gnn, "reduction": 4, "init_weights": False, **SCHEME_ARGS[gnn], **settings}
    )


def put(family: str, gnn: str = "pgnn", seed: int = 0, **settings) -> PeftModel:
    """A family's model with adapters none of whose weights has its neutral value."""
    model = FAMILIES[family].make()
    torch.manual_seed(seed)
    return get_peft_model(model, config(gnn, **settings)).eval()


def run(model: nn.Module, batch: dict) -> Tensor:
    """Logits without a cache."""
    cached = "decoder_input_ids" not in batch and model.config.model_type not in ("bert", "blip")
    with torch.no_grad():
        return model(**batch, **({"use_cache": False} if cached else {})).logits


def close(got: Tensor, want: Tensor, tolerance: float = 2e-5) -> None:
    """Assert equality up to a share of the largest value."""
    torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance * float(want.abs().max()))


def differ(got: Tensor, want: Tensor) -> bool:
    """Whether outputs differ by more than rounding."""
    return bool((got - want).abs().max() > 1e-3 * want.abs().max())
