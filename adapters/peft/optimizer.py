"""Weight decay for the matrices of graph adapters, and for nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn
from transformers import Trainer, TrainingArguments


def optimizer_groups(
    model: nn.Module,
    learning_rate: float,
    weight_decay: float,
    apart: Mapping[nn.Module, float] | None = None,
) -> list[dict[str, Any]]:
    """Parameter groups for an optimiser, from all trainable parameters of a model.

    The groups are matrices, with weight decay, and all others, without: vectors (biases) and scalars (p, μ,
    the weight of a join).

    Args:
        model: for example a PEFT model with graph adapters.
        learning_rate: the learning rate.
        weight_decay: the weight decay of matrices.
        apart: modules with their own learning rates, none inside another.

    Returns:
        Two groups for any PyTorch optimiser, and two more for each module in ``apart``.
    """
    apart = apart or {}
    others = {id(parameter) for module in apart for parameter in module.parameters()}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in others]
    groups = _groups(rest, learning_rate, weight_decay)
    for module, rate in apart.items():
        groups += _groups(module.parameters(), rate, weight_decay)
    return groups


def _groups(
    parameters: Iterable[nn.Parameter], learning_rate: float, weight_decay: float
) -> list[dict[str, Any]]:
    """The two groups of parameters with one learning rate."""
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    return [
        {
            "params": [parameter for parameter in trainable if parameter.dim() > 1],
            "lr": learning_rate,
            "weight_decay": weight_decay,
        },
        {
            "params": [parameter for parameter in trainable if parameter.dim() <= 1],
            "lr": learning_rate,
            "weight_decay": 0.0,
        },
    ]


def trainer_optimizer(model: nn.Module, args: TrainingArguments) -> tuple[type, dict[str, Any]]:
    """The optimiser that ``args`` ask for, with the groups of :func:`optimizer_groups`.

    Args:
        model: the model to train.
        args: arguments of transformers' ``Trainer``.

    Returns:
        What ``Trainer`` takes as ``optimizer_cls_and_kwargs``.

    Example:
        >>> Trainer(model, args, optimizer_cls_and_kwargs=trainer_optimizer(model, args), ...)
    """
    kind, options = Trainer.get_optimizer_cls_and_kwargs(args)
    return kind, {**options, "params": optimizer_groups(model, args.learning_rate, args.weight_decay)}
