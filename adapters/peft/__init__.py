"""Graph adapters as a PEFT method; importing this registers it."""

from adapters.peft.shim import register  # isort: skip
from adapters.peft.config import GraphAdapterConfig
from adapters.peft.model import GraphAdapterModel
from adapters.peft.optimizer import optimizer_groups, trainer_optimizer

register(GraphAdapterConfig, GraphAdapterModel)

__all__ = ["GraphAdapterConfig", "GraphAdapterModel", "optimizer_groups", "trainer_optimizer"]
