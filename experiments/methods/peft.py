"""Methods that add parameters to a frozen model by a PEFT configuration: graph adapters, LoRA and all other
methods of PEFT.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import re
from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from peft import (
    AdaLoraConfig,
    LoraConfig,
    PeftConfig,
    PeftModel,
    PeftType,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from pydantic import Field, FiniteFloat, StrictInt
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from attngraph.adapters import SCHEMES, GraphAdapterConfig
from attngraph.adapters.config import POSITIONS
from attngraph.adapters.joins import JOINS
from attngraph.adapters.peft import GraphAdapterModel, learned_scalars, watch_effects
from attngraph.adapters.peft.loading import read_tensors
from attngraph.adapters.peft.places import language_sites
from attngraph.errors import UserError
from attngraph.experiments.base.config import Config, checked
from attngraph.experiments.base.files import published
from attngraph.experiments.base.messages import first_line
from attngraph.experiments.methods.method import (
    ADAPTERS,
    METHODS,
    OTHERS,
    REMEDY,
    Method,
    Tuned,
    check_fit,
    peft_types,
)
from attngraph.experiments.methods.prompt import PROMPTS, PromptTuned
from attngraph.experiments.methods.settings import Settings
from attngraph.experiments.models.batch import Sample
from attngraph.experiments.models.family import ModelFamily
from attngraph.reading.instrument import instrument

WEIGHTS = "adapter_model.safetensors"
Arguments = Mapping[str, Any]
FURTHER = ("positions", "backend", "shared", "top_k", "rescale", "query_rows")
"""Options of :class:`attngraph.adapters.GraphAdapterConfig` that a run's settings may have."""

#: Suffixes of names of projections (``query``, ``q``, ``q_proj``, ``to_q``, ``q_lin``, ``Wq``), and of those
#: to queries, keys and values at once (in GPT-2's cross-attention: to keys and values).
ROLES = {
    role: rf"{role}|(w|to_)?{role[0]}|({role}|{role[0]})_.*" for role in ("query", "key", "value", "output")
}
TOGETHER = re.compile(r"c_attn|qkv|w_?qkv|qkv_proj|query_key_value|in_proj|w_pack|att_proj")


@dataclass(frozen=True, kw_only=True)
class PeftMethod(Method):
    """The pre-trained model is frozen; PEFT adds parameters to it."""

    @abstractmethod
    def config(self, family: ModelFamily, settings: dict[str, Any]) -> PeftConfig:
        """The configuration for a model."""

    def apply(self, family: ModelFamily, settings: dict[str, Any]) -> PeftTuned:
        return PeftTuned(family, get_peft_model(family.model, self.config(family, settings)))


class PeftTuned(Tuned):
    """A model with parameters added by PEFT."""

    def __init__(self, family: ModelFamily, model: PeftModel):
        super().__init__(family)
        self.model = model
        family.unadapted = model.disable_adapter

    def save(self, folder: Path) -> None:
        """Write ``adapter_config.json`` and ``adapter_model.safetensors``."""
        with published(folder) as part:
            self.model.save_pretrained(str(part))
            (part / "README.md").unlink(missing_ok=True)  # PEFT's empty model card

    def load(self, folder: Path) -> None:
        file = folder / WEIGHTS
        weights = read_tensors(file)
        check_fit(file, weights, get_peft_model_state_dict(self.model))
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


class AdaLoraTuned(PeftTuned):
    r"""A model with PEFT's AdaLoRA: updates :math:`P \Lambda Q` of low rank, whose ranks the training loop
    reduces from ``init_r`` to ``target_r`` on average, by the importance of singular values.

    Source: Zhang et al., "Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning", ICLR 2023.
    """

    @property
    def config(self) -> AdaLoraConfig:
        return self.model.active_peft_config

    def penalty(self) -> Tensor:
        r"""The mean of :math:`\|P^\top P - I\|_F` and :math:`\|Q Q^\top - I\|_F` over all updates, times
        ``orth_reg_weight``.
        """
        parameters = self.parameters().items()
        bases = [p if "lora_A" in name else p.T for name, p in parameters if re.search("lora_[AB]", name)]
        norms = [torch.dist(base @ base.T, torch.eye(len(base), device=base.device)) for base in bases]
        return self.config.orth_reg_weight * torch.stack(norms).mean()

    def after_step(self, step: int, steps: int) -> None:
        first, last = self.config.tinit, steps - self.config.tfinal
        if first >= last:
            raise UserError(
                f"AdaLoRA: ranks are reduced between step tinit = {first} and {steps} - tfinal = {last}: "
                "choose smaller ones, or more steps"
            )
        self.config.total_step = steps
        self.model.base_model.update_and_allocate(step)

    def state_dict(self) -> dict[str, Any]:
        allocator = self.model.base_model.rankallocator
        return {
            "importance": allocator.exp_avg_ipt,
            "uncertainty": allocator.exp_avg_unc,
            "ranks": self.config.rank_pattern,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        allocator, device = self.model.base_model.rankallocator, self.family.device
        allocator.exp_avg_ipt = {name: x.to(device) for name, x in state["importance"].items()}
        allocator.exp_avg_unc = {name: x.to(device) for name, x in state["uncertainty"].items()}
        allocator.ipt = dict(allocator.exp_avg_ipt)  # PEFT starts anew for names that this one lacks
        self.config.rank_pattern = state["ranks"]

    def save(self, folder: Path) -> None:
        """Write the updates without zero singular values, and remove those from the model, so that the file
        gives its outputs to the bit.
        """
        values = {name: p for name, p in self.family.model.named_parameters() if "lora_E" in name}
        self.config.rank_pattern = {name: (p != 0).view(-1).tolist() for name, p in values.items()}
        super().save(folder)
        self.model.base_model.resize_modules_by_rank_pattern(
            self.config.rank_pattern, self.model.active_adapter
        )

    def load(self, folder: Path) -> None:
        saved, ending = read_tensors(folder / WEIGHTS), f".{self.model.active_adapter}"
        ranks = {
            name: len(saved.get(f"base_model.model.{name}", ()))
            for name in (name.removesuffix(ending) for name, _ in self.family.model.named_parameters())
            if name.endswith("lora_E")
        }
        every = range(self.config.init_r)
        self.config.rank_pattern = {name: [k < rank for k in every] for name, rank in ranks.items()}
        super().load(folder)


@dataclass(frozen=True, kw_only=True)
class GraphAdapter(PeftMethod):
    """Adapters after self-attention, cross-attention and the feed-forward blocks of the language side.

    Args:
        gnn: the scheme's name in ``attngraph.adapters.SCHEMES``.
        tried: arguments that ``attngraph search`` tries, with every join; the first ones are the defaults if
            none were chosen. None for a method that uses those of the one that it follows.
        joins: joins that the search tries.
        fixed: arguments of the row, which replace the scheme's chosen ones.
        join: join of the row, which replaces the chosen one.
        rescale, positions, query_rows: see :class:`attngraph.adapters.GraphAdapterConfig`. The settings of a
            run contain them if they differ from its defaults.
        reduction: reduction of the row; None for the chosen one.
    """

    gnn: str
    group: str = ADAPTERS
    tried: tuple[Arguments, ...] = ()
    joins: tuple[str, ...] = tuple(JOINS)
    fixed: Arguments = field(default_factory=dict)
    join: str | None = None
    rescale: bool = False
    positions: tuple[str, ...] = POSITIONS
    query_rows: str = GraphAdapterConfig.query_rows
    reduction: int | None = None

    def arguments(self, chosen: Settings, task: str) -> dict[str, Any]:
        """The scheme's arguments: the chosen ones that the scheme has, and those of the row."""
        known = self.argument_names()
        carried = {name: value for name, value in self._carried(chosen, task).items() if name in known}
        return {**carried, **self.fixed}

    def argument_names(self) -> list[str]:
        return list(inspect.signature(SCHEMES[self.gnn]).parameters)

    def _carried(self, chosen: Settings, task: str) -> Arguments:
        """The arguments chosen for this method, or for the method that it follows."""
        choice = self.choice(chosen, task)
        if choice is not None:
            return choice.arguments
        leader = METHODS.get(self.leader)
        return leader.tried[0] if isinstance(leader, GraphAdapter) and leader.tried else {}

    def settings(self, chosen: Settings, task: str) -> dict[str, Any]:
        choice = self.choice(chosen, task)
        settings = {
            "gnn": self.gnn,
            "gnn_args": self.arguments(chosen, task),
            "join": self.join or (choice.join if choice else "blend"),
            "reduction": self.reduction or chosen.reduction,
        }
        own = {"rescale": self.rescale, "positions": self.positions, "query_rows": self.query_rows}
        more = {name: value for name, value in own.items() if value != getattr(GraphAdapterConfig, name)}
        return settings | {name: list(x) if isinstance(x, tuple) else x for name, x in more.items()}

    def further_settings(self) -> list[str]:
        return list(FURTHER)

    def config(self, family: ModelFamily, settings: dict[str, Any]) -> GraphAdapterConfig:
        return GraphAdapterConfig(**settings)


@dataclass(frozen=True, kw_only=True)
class OtherRate(GraphAdapter):
    """A scheme with separate settings, and the learning rates of the method that it follows."""

    def settings(self, chosen: Settings, task: str) -> dict[str, Any]:
        return METHODS[self.gnn].settings(chosen, task)


@dataclass(frozen=True, kw_only=True)
class ResidualAlone(GraphAdapter):
    """The attention output plus a fraction of the query's features: pGNN's initial β, for edge weights of a
    query that sum to 1.
    """

    def arguments(self, chosen: Settings, task: str) -> dict[str, Any]:
        carried = self._carried(chosen, task)
        if "alpha" in carried:  # its own, as a sweep writes it
            return {"alpha": carried["alpha"]}
        of_pgnn = inspect.signature(SCHEMES["pgnn"]).parameters
        mu, p = (carried.get(name, of_pgnn[name].default) for name in ("mu", "p"))
        residual = 2 * mu / p
        return {"alpha": residual / (1 + residual)}


Target = Literal["query", "key", "value", "output"]


class LoraSettings(Config):
    r"""LoRA's settings: the rank, chosen so that queries and values have as many parameters as 16 prefix
    tokens; :math:`\alpha`; dropout on :math:`x`, in training; and the projections, as in Hu et al.
    """

    r: Annotated[StrictInt, Field(ge=1)] = 8
    alpha: Annotated[FiniteFloat, Field(gt=0)] = 16
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    targets: Annotated[list[Target], Field(min_length=1)] = ["query", "value"]


@dataclass(frozen=True, kw_only=True)
class Lora(PeftMethod):
    r"""PEFT's LoRA in self- and cross-attention of the language side,

    .. math:: x W + \tfrac{\alpha}{r}\, x A B ,

    with :math:`W` frozen, :math:`A` initialised randomly and :math:`B` with zeros.

    Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022.
    """

    def settings(self, chosen: Settings, task: str) -> dict[str, Any]:
        return LoraSettings().model_dump()

    def config(self, family: ModelFamily, settings: dict[str, Any]) -> LoraConfig:
        own = checked(settings, LoraSettings, lambda _: f"settings of {self.name}", REMEDY)
        names = attention_projections(family.model, own.targets)
        return LoraConfig(
            r=own.r,
            lora_alpha=own.alpha,
            lora_dropout=own.dropout,
            target_modules=names,
            fan_in_fan_out=isinstance(family.model.get_submodule(names[0]), Conv1D),
        )


def attention_projections(model: nn.Module, roles: Collection[str]) -> list[str]:
    """Names of the projections of the language side's self- and cross-attention layers: to ``query``, ``key``
    and ``value``, or the ``output``. A module that projects to several of them is included if one of its
    roles is.

    Raises:
        UserError: an attention layer has no such projection.
    """
    handle = instrument(model)
    sites = language_sites(model, handle.sites.values())
    handle.remove()
    found: list[str] = []
    for site in sites:
        modules = site.module.named_modules()
        linear = [name for name, module in modules if name and isinstance(module, (nn.Linear, Conv1D))]
        joint = [name for name in linear if TOGETHER.fullmatch(_end(name))]
        for role in roles:
            own = [name for name in linear if name not in joint and re.fullmatch(ROLES[role], _end(name))]
            names = [f"{site.name}.{name}" for name in own or joint]
            if role == "output":
                names = [site.output_name] if site.output_name else []
            if not names:
                raise UserError(
                    f"{site.name} ({type(site.module).__name__}) has no {role} projection with a known name, "
                    f"only {', '.join(linear) or 'no linear layer'}: choose other targets"
                )
            found += names
    return list(dict.fromkeys(found))


def _end(name: str) -> str:
    return name.rpartition(".")[2].lower()


# ---- PEFT's own methods, by the types of their configurations ---------------------------------------------

#: Fields of a configuration that PEFT sets itself, or that describe the base model.
OF_PEFT = (
    "peft_type task_type auto_mapping peft_version base_model_name_or_path revision inference_mode".split()
)
#: The fields of prompt learning that are those of the model.
DIMENSIONS = dict.fromkeys(("token_dim", "num_transformer_submodules", "num_attention_heads", "num_layers"))
#: Type -> fields of its configuration that training or the model sets, which no row has, with their values
#: until then.
SET_BY_TRAINING: dict[str, dict[str, Any]] = {
    "ADALORA": {"total_step": 10**9, "rank_pattern": None},
    **dict.fromkeys(PROMPTS, DIMENSIONS),
}
LONGEST = 40  # part of a name
#: Types that are not supported, with the reason.
UNFIT = {
    "ADAPTION_PROMPT": "is made for the attention layers of Llama, Mistral and GPT-2 only",
    "TRAINABLE_TOKENS": "trains single tokens, for which there is no default",
    "XLORA": "mixes LoRA adapters that are already trained",
    "POLY": "needs the number of the task as an input",
    "MULTITASK_PROMPT_TUNING": "needs the number of the task as an input",
    "CPT": "starts from labelled examples, for which there is no default",
    "PREFIX_TUNING": "fills the cache, which not every model supports",
    "CARTRIDGE": "fills the cache, which not every model supports",
}


def can_train(name: str) -> bool:
    """Whether a type of PEFT, by its row's name, can be trained here without further settings."""
    return peft_types()[name] not in UNFIT


@dataclass(frozen=True, kw_only=True)
class ConfigMethod(PeftMethod):
    """Any method of PEFT that changes layers of the model, or adds tokens to its texts, by the type of its
    configuration.

    If a configuration does not set target modules, they are those of the language side: the norms for LN
    tuning, projections to keys and values for (IA)³, and to queries and values for all others.

    Args:
        peft_type: name of the type in PEFT, such as ``IA3``.
        options: fields of the configuration that differ from PEFT's defaults.
    """

    peft_type: str
    options: Arguments = field(default_factory=dict)
    group: str = OTHERS
    default_rate: float = 3e-3
    rates: tuple[float, ...] = (1e-3, 3e-3)

    @property
    def kind(self) -> type[PeftConfig]:
        """The class of the configuration."""
        return PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(self.peft_type)]

    def settings(self, chosen: Settings, task: str) -> dict[str, Any]:
        choice = self.choice(chosen, task)
        return {"peft_type": self.peft_type, **self.options, **(choice.arguments if choice else {})}

    def argument_names(self) -> list[str]:
        unset = (*OF_PEFT, *SET_BY_TRAINING.get(self.peft_type, ()))
        return [one.name for one in fields(self.kind) if one.name not in unset]

    def config(self, family: ModelFamily, settings: dict[str, Any]) -> PeftConfig:
        own = {name: value for name, value in settings.items() if name != "peft_type"}
        if self.peft_type in UNFIT:
            raise UserError(
                f"{self.name} cannot be trained here: it {UNFIT[self.peft_type]}; choose another method"
            )
        config = self._or_error(lambda: self.kind(**SET_BY_TRAINING.get(self.peft_type, {}), **own))
        if isinstance(config, GraphAdapterConfig):
            return config
        if isinstance(config, AdaLoraConfig):
            self._check_adalora(config)
        self._check_saved_modules(config, family)
        if getattr(config, "target_modules", ()) is None:
            if getattr(config, "layers_to_transform", None) is not None:
                raise UserError(
                    f"settings of {self.name}: layers_to_transform selects among modules with a given end of "
                    "their names: set target_modules too, such as [query, value]"
                )
            config.target_modules = set(self._targets(family))
        if getattr(config, "feedforward_modules", ()) is None:
            config.feedforward_modules = set()
        first = next(iter(config.target_modules or ()), None) if hasattr(config, "fan_in_fan_out") else None
        if first in dict(family.model.named_modules()):
            config.fan_in_fan_out = isinstance(family.model.get_submodule(first), Conv1D)
        return config

    def apply(self, family: ModelFamily, settings: dict[str, Any]) -> PeftTuned | PromptTuned:
        if self.peft_type in PROMPTS:
            config = self.config(family, settings)
            return self._or_error(lambda: PromptTuned(family, config))
        tuned = self._or_error(lambda: super(ConfigMethod, self).apply(family, settings))
        return AdaLoraTuned(family, tuned.model) if self.peft_type == "ADALORA" else tuned

    def _check_adalora(self, config: AdaLoraConfig) -> None:
        """Raise a UserError for a setting that PEFT's rank allocation cannot use."""
        usable = {
            "target_r": 0 <= config.target_r < config.init_r,
            "tinit": config.tinit >= 0,
            "tfinal": config.tfinal >= 0,
            "deltaT": config.deltaT >= 1,
            "beta1": 0 < config.beta1 < 1,
            "beta2": 0 < config.beta2 < 1,
        }
        for name, fits in usable.items():
            if not fits:
                raise UserError(
                    f"settings of {self.name}: {name} is {getattr(config, name)}: choose target_r below "
                    f"init_r ({config.init_r}), tinit and tfinal from 0, deltaT from 1, and beta1 and beta2 "
                    "between 0 and 1"
                )

    def _check_saved_modules(self, config: PeftConfig, family: ModelFamily) -> None:
        """Raise a UserError for a module of ``modules_to_save`` that the model lacks, which PEFT ignores."""
        saved = getattr(config, "modules_to_save", None) or []
        modules = [name for name, _ in family.model.named_modules()]
        for name in saved:
            if isinstance(saved, str) or not any(module.endswith(name) for module in modules):
                raise UserError(
                    f"settings of {self.name}: modules_to_save is {saved!r}: choose a list of names, or ends "
                    "of names, of the model's modules"
                )

    def _targets(self, family: ModelFamily) -> list[str]:
        if self.peft_type != "LN_TUNING":
            roles = ("key", "value") if self.peft_type == "IA3" else ("query", "value")
            return attention_projections(family.model, roles)
        modules = family.model.named_modules()
        norms = [name for name, module in modules if type(module).__name__.endswith("Norm")]
        return family.on_language_side(norms)

    def _or_error(self, make: Callable[[], Any]) -> Any:
        """The result of ``make``, or PEFT's error as a UserError."""
        try:
            return make()
        except UserError:
            raise
        except Exception as error:  # PEFT raises all kinds for fields that do not fit each other or the model
            raise UserError(f"settings of {self.name}: {first_line(error)}; {REMEDY}") from error


def method_of_config(name: str, config: PeftConfig) -> ConfigMethod:
    """The row of a PEFT configuration.

    Args:
        name: of the row.
        config: whose fields that differ from its type's defaults set the row apart.

    Raises:
        UserError: a field holds what JSON cannot, such as a tensor.
    """
    kind = PeftType(config.peft_type).value
    try:
        fresh = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(kind)](**SET_BY_TRAINING.get(kind, {}))
        default = _plain(name, fresh)
    except (TypeError, ValueError):  # some have none
        default = {}
    options = {key: value for key, value in _plain(name, config).items() if default.get(key) != value}
    method = ConfigMethod(name=name, title=name, peft_type=kind, options=options)
    like = METHODS.get(kind.lower())  # the row of this type, if there is one
    return method if like is None else replace(method, rates=like.rates, default_rate=like.default_rate)


def _plain(name: str, config: PeftConfig) -> dict[str, Any]:
    """The fields of a row's configuration as JSON holds them; sets are sorted."""

    def sorted_set(value: Any) -> Any:
        if isinstance(value, (set, frozenset)):
            return sorted(value)
        raise TypeError(f"{type(value).__name__} cannot be saved")

    unset = (*OF_PEFT, *SET_BY_TRAINING.get(PeftType(config.peft_type).value, ()))
    own = {key: value for key, value in config.to_dict().items() if key not in unset}
    try:
        return json.loads(json.dumps(own, default=sorted_set))
    except TypeError as error:
        raise UserError(f"configuration of {name}: {error}; {REMEDY}") from None


def row_name(config: PeftConfig) -> str:
    """A name for the row of a configuration: its type, and what differs from the type's defaults, such as
    ``lora-r4``; a digest in the place of what is long.
    """
    method = method_of_config("", config)
    parts = [f"{key}{value}" for key, value in method.options.items()]
    said = "-".join(parts) or "default"
    plain = all(isinstance(x, (str, int, float)) for x in method.options.values())
    if not plain or len(said) > LONGEST or re.search(r"[^\w.-]", said):
        said = hashlib.sha256(json.dumps(method.options, sort_keys=True).encode()).hexdigest()[:8]
    return f"{method.peft_type.lower()}-{said}"
