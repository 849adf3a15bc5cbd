"""Graph adapters as a method of PEFT. Importing this package registers them with PEFT."""

from adapters.peft.shim import register  # isort: skip
from adapters.peft.config import GraphAdapterConfig
from adapters.peft.effects import adapter_effects, watch_effects
from adapters.peft.learned import learned_scalars
from adapters.peft.loading import load_adapter
from adapters.peft.model import GraphAdapterModel
from adapters.peft.optimizer import optimizer_groups, trainer_optimizer

register(GraphAdapterConfig, GraphAdapterModel)

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
