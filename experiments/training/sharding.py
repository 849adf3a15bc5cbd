"""Weights, gradients and the optimiser's numbers divided among processes (FSDP, PyTorch's ``fully_shard``).

Each process keeps its part of every weight. Those of a layer are put together while it computes, and its
gradients are averaged into the parts. So a process needs memory for its share of the weights, gradients and
AdamW's numbers, and for one whole layer. For validation and in the end all weights are put together in every
process: texts of different lengths take different numbers of steps, for which no process can wait.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import Trainer
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME

from attngraph.errors import UserError
from experiments.methods.method import Method
from experiments.methods.own_weights import OwnParameters
from experiments.training.recipe import Recipe


def check_shards(method: Method, recipe: Recipe) -> None:
    """Check that a run can be divided, where its recipe wants that.

    Raises:
        UserError: there is one process; the method trains weights that it adds to the model, so few that
            nothing is gained; or the recipe wants what was never tried with it.
    """
    if not recipe.shard:
        return
    if PartialState().num_processes == 1:
        raise UserError("shard divides a run among processes, and this is one: use torchrun, or leave it out")
    if not isinstance(method, OwnParameters):
        raise UserError(
            "shard is for methods that train the model's own weights (full, decoder, text): what "
            "others train is small, leave it out"
        )
    if not hasattr(Trainer, "_sync_replicated_trainable_parameters"):
        raise UserError("shard needs a later transformers: pip install 'transformers>=5.24'")
    if recipe.compile or recipe.precision == "float16":
        raise UserError(
            f"shard goes with no {'compile' if recipe.compile else 'float16'}: leave one of them out"
        )


def shard(module: nn.Module) -> None:
    """Divide a module's weights among the processes, layer by layer; what is in no layer is one part more."""
    device = next(module.parameters()).device.type
    mesh = init_device_mesh(device, (PartialState().num_processes,))
    for layer in [each for each in module.modules() if isinstance(each, GradientCheckpointingLayer)]:
        fully_shard(layer, mesh=mesh)
    fully_shard(module, mesh=mesh)


def put_together(module: nn.Module) -> list[FSDPModule]:
    """Give every process all weights of a module, as plain tensors that no use divides again; nothing happens
    to one that is not divided. All processes call this together.

    Returns:
        Its divided parts, the whole first.
    """
    parts = [part for part in module.modules() if isinstance(part, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    return parts


@contextmanager
def together(module: nn.Module) -> Iterator[None]:
    """A block in which every process has all weights of a module, see :func:`put_together`. They are only
    read: what is written to them is lost.
    """
    parts = put_together(module)
    try:
        yield
    finally:
        for part in parts:
            part.reshard()
            part.set_reshard_after_forward(part is not parts[0], recurse=False)


def divided_like(value: Tensor, parameter: Tensor) -> Tensor:
    """A whole tensor, divided as a parameter is, if that is divided."""
    if not isinstance(parameter, DTensor):
        return value
    return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)


def whole_tensor(value: Tensor) -> Tensor:
    """A tensor put together, if it is divided."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def save_optimizer(module: nn.Module, optimizer: AcceleratedOptimizer, schedule: Any, state: Path) -> None:
    """Write all numbers of an optimiser and of the schedule into a state's folder, from the first process.
    All processes call this together.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    numbers = get_optimizer_state_dict(module, optimizer.optimizer, options=options)
    if PartialState().is_main_process:
        torch.save(numbers, state / OPTIMIZER_NAME)
        torch.save(schedule.state_dict(), state / SCHEDULER_NAME)


def load_optimizer(module: nn.Module, optimizer: AcceleratedOptimizer, schedule: Any, state: Path) -> None:
    """Take over what :func:`save_optimizer` wrote. All processes call this together."""
    numbers = torch.load(state / OPTIMIZER_NAME, map_location="cpu", weights_only=True)
    options = StateDictOptions(full_state_dict=True)
    set_optimizer_state_dict(module, optimizer.optimizer, numbers, options=options)
    schedule.load_state_dict(torch.load(state / SCHEDULER_NAME, weights_only=True))
