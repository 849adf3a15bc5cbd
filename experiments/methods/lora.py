"""LoRA: a low-rank update of the attention's projections."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from peft import LoraConfig
from transformers.pytorch_utils import Conv1D

from attngraph.errors import UserError
from experiments.configs.settings import Settings
from experiments.methods.method import OTHERS, is_number, register
from experiments.methods.peft_method import PeftMethod
from experiments.methods.projections import attention_projections
from experiments.models.family import ModelFamily


@dataclass(frozen=True, kw_only=True)
class Lora(PeftMethod):
    r"""PEFT's LoRA in self- and cross-attention of the language side,

    .. math:: x W + \tfrac{\alpha}{r}\, x A B ,

    with :math:`W` frozen, :math:`A` drawn at random and :math:`B` zero at the start.

    Args:
        r: the rank. Default: 8, with which queries and values have as many parameters as 16 prefix tokens.
        alpha: :math:`\alpha`.
        dropout: on :math:`x`, in training.
        targets: which projections: ``query``, ``key``, ``value``, ``output``. Default: queries and values, as
            Hu et al. choose.

    Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022.
    """

    r: int = 8
    alpha: float = 16
    dropout: float = 0.0
    targets: tuple[str, ...] = ("query", "value")

    def settings(self, chosen: Settings, task: str, join: str | None = None) -> dict[str, Any]:
        return {"r": self.r, "alpha": self.alpha, "dropout": self.dropout, "targets": list(self.targets)}

    def config(self, family: ModelFamily, settings: dict[str, Any]) -> LoraConfig:
        r, alpha, dropout, targets = (settings[name] for name in ("r", "alpha", "dropout", "targets"))
        if not isinstance(r, int) or isinstance(r, bool) or r < 1:
            raise UserError(f"lora: r must be a whole number of at least 1, got {r!r}")
        if not is_number(alpha) or not 0 < alpha < math.inf:
            raise UserError(f"lora: alpha must be a number above 0, got {alpha!r}")
        if not is_number(dropout) or not 0 <= dropout < 1:
            raise UserError(f"lora: dropout must be a number from 0 to below 1, got {dropout!r}")
        if not isinstance(targets, (list, tuple)):
            raise UserError(f"lora: targets must be a list, such as [query, value], got {targets!r}")
        names = attention_projections(family.model, targets)
        return LoraConfig(
            r=r,
            lora_alpha=alpha,
            lora_dropout=dropout,
            target_modules=names,
            fan_in_fan_out=isinstance(family.model.get_submodule(names[0]), Conv1D),
        )


register(Lora(name="lora", title="LoRA", group=OTHERS, rates=(1e-3, 3e-3), default_rate=3e-3))
