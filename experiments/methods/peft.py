"""Methods that put new parameters into a frozen model: PEFT configurations (graph adapters, LoRA and whatever
else PEFT knows), and prefix tuning.
"""

from __future__ import annotations

import math
import re
from abc import abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import (
    LoraConfig,
    PeftConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

from adapters.peft import GraphAdapterModel, learned_scalars, watch_effects
from adapters.peft.places import language_sites
from adapters.prefix import PrefixConfig, PrefixTuning
from adapters.saved import read_tensors
from adapters.scalar import upgraded
from attngraph.errors import UserError
from attngraph.reading.calls import Site
from attngraph.reading.instrument import instrument
from experiments.base.files import published
from experiments.methods.method import Method, Tuned, check_fit, is_number
from experiments.methods.settings import Settings
from experiments.models.batch import Sample
from experiments.models.family import ModelFamily

WEIGHTS = "adapter_model.safetensors"

ROLES = ("query", "key", "value", "output")
LETTERS = {"query": "q", "key": "k", "value": "v"}
TOGETHER = re.compile(
    r"^(c_attn|qkv|w_?qkv|qkv_proj|query_key_value|in_proj|w_pack|att_proj)$", re.IGNORECASE
)
"""Names of layers that project to queries, keys and values at once (in GPT-2's cross-attention: to keys and
values)."""


@dataclass(frozen=True, kw_only=True)
class PeftMethod(Method):
    """The pre-trained model is frozen; PEFT puts new parameters into it."""

    @abstractmethod
    def config(self, family: ModelFamily, settings: dict[str, Any]) -> PeftConfig:
        """The configuration for a model."""

    def apply(self, family: ModelFamily, settings: dict[str, Any]) -> PeftTuned:
        return PeftTuned(family, get_peft_model(family.model, self.config(family, settings)))


class PeftTuned(Tuned):
    """A model with PEFT's parameters in it."""

    def __init__(self, family: ModelFamily, model: PeftModel):
        super().__init__(family)
        self.model = model
        family.unadapted = model.disable_adapter

    def save(self, folder: Path) -> None:
        """``adapter_config.json`` and ``adapter_model.safetensors``, which ``PeftModel.from_pretrained``
        reads.
        """
        with published(folder) as part:
            self.model.save_pretrained(str(part))
            (part / "README.md").unlink(missing_ok=True)  # PEFT's empty model card

    def load(self, folder: Path) -> None:
        file = folder / WEIGHTS
        due = get_peft_model_state_dict(self.model)
        weights = upgraded(read_tensors(file), due)
        check_fit(file, weights, due)
        set_peft_model_state_dict(self.model, weights)

    @torch.no_grad()
    def effects(self, samples: Sequence[Sample]) -> dict[str, dict[str, float]]:
        graph_adapters = self.model.base_model
        if not isinstance(graph_adapters, GraphAdapterModel) or not graph_adapters.layers():
            return {}
        inputs = self.family.to_device(self.family.training_inputs(samples))
        del inputs["labels"]
        with watch_effects(self.model) as found:
            self.family.logits(inputs)
        return {
            layer: {name: x for name, x in asdict(effect).items() if x is not None and math.isfinite(x)}
            for layer, effect in found.items()
        }

    def scalars(self) -> dict[str, float]:
        return learned_scalars(self.family.model)


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


@dataclass(frozen=True, kw_only=True)
class PrefixMethod(Method):
    """Keys and values before those of self- and cross-attention; see :class:`adapters.prefix.PrefixTuning`.

    Args:
        tokens, projection: as in :class:`adapters.prefix.PrefixConfig`.
    """

    tokens: int = 16
    projection: int | None = None

    def settings(self, chosen: Settings, task: str, join: str | None = None) -> dict[str, Any]:
        return {"tokens": self.tokens, "projection": self.projection}

    def apply(self, family: ModelFamily, settings: dict[str, Any]) -> PrefixTuned:
        return PrefixTuned(family, PrefixTuning(family.model, PrefixConfig(**settings)))


class PrefixTuned(Tuned):
    """A model with a prefix."""

    def __init__(self, family: ModelFamily, prefix: PrefixTuning):
        super().__init__(family)
        self.prefix = prefix
        family.unadapted = prefix.disabled

    def save(self, folder: Path) -> None:
        """``prefix_config.json`` and ``prefix.safetensors``, which :func:`adapters.prefix.load_prefix`
        reads.
        """
        with published(folder) as part:
            self.prefix.save(part)

    def load(self, folder: Path) -> None:
        self.prefix.load(folder)


def attention_projections(model: nn.Module, roles: Collection[str]) -> list[str]:
    """Names of the projections of the language side's attention layers, of self- and cross-attention.

    A layer that projects to several of them at once is taken if one of its roles is.

    Args:
        model: without adapters.
        roles: which of :data:`ROLES`.

    Raises:
        UserError: an unknown role, or an attention layer without such a projection.
    """
    unknown = [role for role in roles if role not in ROLES]
    if unknown or not roles:
        raise UserError(
            f"targets must be one or more of {', '.join(ROLES)}, got {', '.join(map(str, unknown)) or 'none'}"
        )
    handle = instrument(model)
    try:
        sites = language_sites(model, handle.sites.values())
        return [name for site in sites for name in _of_site(site, roles)]
    finally:
        handle.remove()


def _of_site(site: Site, roles: Collection[str]) -> list[str]:
    linear = [name for name, module in site.module.named_modules() if name and _is_linear(module)]
    found: dict[str, None] = {}
    for role in roles:
        if role == "output":
            names = [site.output_name] if site.output_name else []
        else:
            own = [name for name in linear if _has_role(name, role)]
            names = [f"{site.name}.{name}" for name in own or filter(_is_joint, linear)]
        if not names:
            raise UserError(
                f"{site.name} ({type(site.module).__name__}) has no {role} projection that is known by its "
                f"name: it has {', '.join(linear) or 'no linear layer'}; choose other targets"
            )
        found |= dict.fromkeys(names)
    return list(found)


def _has_role(name: str, role: str) -> bool:
    """``query``, ``q``, ``q_proj``, ``to_q``, ``q_lin``, ``Wq``, ``q_attn``, ``query_proj``."""
    last, letter = name.rpartition(".")[2].lower(), LETTERS[role]
    return not _is_joint(name) and (
        last in (role, letter, f"w{letter}", f"to_{letter}") or last.startswith((f"{role}_", f"{letter}_"))
    )


def _is_joint(name: str) -> bool:
    return TOGETHER.match(name.rpartition(".")[2]) is not None


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, (nn.Linear, Conv1D)) and not isinstance(module, BaseTunerLayer)
