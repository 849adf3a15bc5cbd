"""Graph adapters as a method of PEFT. Importing this package registers them with PEFT."""

from __future__ import annotations

from typing import Any

from peft import PeftModel, mapping
from peft.utils import register_peft_method

from attngraph.adapters.card import NAME, upload_with_code
from attngraph.adapters.config import PEFT_TYPE, SAVED_NAME, GraphAdapterConfig
from attngraph.adapters.peft.effects import adapter_effects, learned_scalars, watch_effects
from attngraph.adapters.peft.loading import load_adapter
from attngraph.adapters.peft.model import GraphAdapterModel
from attngraph.adapters.peft.optimizer import optimizer_groups, trainer_optimizer

__all__ = [
    "GraphAdapterConfig",
    "GraphAdapterModel",
    "adapter_effects",
    "learned_scalars",
    "load_adapter",
    "optimizer_groups",
    "trainer_optimizer",
    "watch_effects",
]


def _register() -> None:
    """Register the method with PEFT, or register it again, as when a notebook reloads the package."""
    known: tuple[dict[Any, Any], ...] = (
        mapping.PEFT_TYPE_TO_CONFIG_MAPPING,
        mapping.PEFT_TYPE_TO_TUNER_MAPPING,
        mapping.PEFT_TYPE_TO_PREFIX_MAPPING,
    )
    for by_type in known:
        by_type.pop(PEFT_TYPE, None)
    register_peft_method(
        name=NAME, config_cls=GraphAdapterConfig, model_cls=GraphAdapterModel, prefix=GraphAdapterModel.prefix
    )
    known[0][SAVED_NAME] = GraphAdapterConfig
    PeftModel._upload_modified_files = upload_with_code  # type: ignore[assignment]


_register()
