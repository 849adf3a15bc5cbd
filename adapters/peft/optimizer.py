"""Learning rates for the parameters of a PEFT model with graph adapters."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import Trainer, TrainingArguments

from adapters.adapter import parameter_groups


def optimizer_groups(model: nn.Module, learning_rate: float, weight_decay: float) -> list[dict]:
    """Groups for an optimiser from whatever is trainable in a model; see :func:`adapters.adapter.parameter_groups`."""
    return parameter_groups([p for p in model.parameters() if p.requires_grad], learning_rate, weight_decay)


def trainer_optimizer(model: nn.Module, args: TrainingArguments) -> tuple[type, dict[str, Any]]:
    """The optimiser that ``args`` ask for, with those groups.

    Example:
        >>> Trainer(model, args, optimizer_cls_and_kwargs=trainer_optimizer(model, args), ...)
    """
    kind, options = Trainer.get_optimizer_cls_and_kwargs(args)
    return kind, {**options, "params": optimizer_groups(model, args.learning_rate, args.weight_decay)}
