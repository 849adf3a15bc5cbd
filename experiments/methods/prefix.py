"""Prefix tuning: learned keys and values in self- and cross-attention, a baseline of the tables."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import torch
from pydantic import Field, StrictInt
from torch import Tensor, nn
from torch.nn.functional import pad

from attngraph.adapters.peft.places import language_sites
from attngraph.errors import UserError
from attngraph.experiments.base.config import Config, checked
from attngraph.experiments.methods.method import REMEDY, Method
from attngraph.experiments.methods.own_weights import TunedModel
from attngraph.experiments.methods.settings import Settings
from attngraph.experiments.models.family import ModelFamily
from attngraph.reading.calls import Call
from attngraph.reading.instrument import Instrument, Site, instrument
from attngraph.reading.outputs import place, widths

ATTRIBUTE = "kv_prefix"
"""The attribute of an attention module that holds its prefix; part of the names of its parameters."""
FEATURES = ("head_dim", "attention_head_size", "key_value_proj_dim", "d_head")
"""Attributes of attention modules with the number of features of a head."""
TOLERANCE = 1e-3  # by which shares of weights may differ; in half precision eight of its steps
LEAST = 1e-3  # what a query must leave for a call's own values to tell their shares apart


class PrefixSettings(Config):
    """Settings of a prefix: the number of keys and values of each attention layer, and the width of the
    embedding and of the hidden layer that generate them; None to learn keys and values directly.
    """

    tokens: Annotated[StrictInt, Field(ge=1)] = 16
    projection: Annotated[StrictInt, Field(ge=1)] | None = None


class Prefix(nn.Module):
    r"""The keys :math:`K_p` and values :math:`V_p` of one attention layer, per head.

    They are parameters, or with ``projection``

    .. math:: [K_p ; V_p] = W_2 \tanh(W_1 E + b_1) + b_2

    of an embedding :math:`E`, as in Li & Liang. Parameters have a standard normal initialisation, as in PEFT:
    in trials with mini-BLIP this trained faster than an initialisation near zero, at each of three learning
    rates.

    Args:
        groups: number of heads of keys and values.
        features: number of features per head.
        settings: settings of the prefix.
    """

    def __init__(self, groups: int, features: int, settings: PrefixSettings):
        super().__init__()
        self.shape, width = (groups, settings.tokens, features), settings.projection
        if width is None:
            self.key, self.value = (nn.Parameter(torch.randn(self.shape)) for _ in range(2))
        else:
            self.embedding = nn.Parameter(torch.randn(settings.tokens, width))
            self.mlp = nn.Sequential(
                nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 2 * groups * features)
            )

    def forward(self) -> tuple[Tensor, Tensor]:
        """:math:`K_p` and :math:`V_p`, ``(1, g, t, d)``."""
        if hasattr(self, "key"):
            return self.key[None], self.value[None]
        g, t, d = self.shape
        key, value = self.mlp(self.embedding).view(t, 2, g, d).permute(1, 2, 0, 3)
        return key[None], value[None]


@dataclass(frozen=True, kw_only=True)
class PrefixMethod(Method):
    r"""Prefix tuning: learned keys and values, prepended to those of attention layers,

    .. math:: \mathrm{softmax}\big(Q [K_p; K]^\top/\sqrt d + [0, \mathrm{mask}]\big) [V_p; V] ,

    in self- and cross-attention of the language side (the image encoder is not changed). Every query attends
    to them, regardless of its mask. They do not have positions and are not cached: each call prepends them
    again, so that decoding with a cache, beams and left padding is that of the model. The model's parameters
    are frozen. While a prefix is active, the model's attention cannot be captured as graphs
    (:func:`attngraph.capture` raises an error), since these keys and values are not nodes; the attentions
    that a model returns have ``tokens`` more columns.

    PEFT's prefix tuning passes a filled cache to the model instead. Not every model supports this: BLIP's
    ``generate`` drops it, and caches do not contain other keys for cross-attention. If PEFT's works, both
    compute the same except for positions: PEFT's tokens shift all others by ``tokens`` positions.

    Source: Li and Liang, "Prefix-Tuning: Optimizing Continuous Prompts for Generation", ACL 2021.
    """

    def settings(self, chosen: Settings, task: str) -> dict[str, Any]:
        return PrefixSettings().model_dump()

    def apply(self, family: ModelFamily, settings: dict[str, Any]) -> PrefixTuned:
        return PrefixTuned(
            family, checked(settings, PrefixSettings, lambda _: f"settings of {self.name}", REMEDY)
        )


class PrefixTuned(TunedModel):
    """A model with a prefix.

    Args:
        family: family of the model.
        settings: settings of the prefixes.

    Attributes:
        prefixes: ``{attention layer: its prefix}``.

    Raises:
        UserError: there is no supported attention layer, or one has an unknown number of heads.
    """

    file = "prefix.safetensors"

    def __init__(self, family: ModelFamily, settings: PrefixSettings):
        super().__init__(family)
        handle = instrument(family.model)
        try:
            sites = language_sites(family.model, handle.sites.values())
            shapes = [head_shape(site) for site in sites]
        finally:
            handle.remove()
        family.model.requires_grad_(False)
        self.prefixes: dict[str, Prefix] = {}
        for site, shape in zip(sites, shapes):
            prefix = Prefix(*shape, settings)
            assert site.output is not None  # head_shape
            device, dtype = place(site.output)
            # in half precision a step of the optimiser would be lost against entries near 1
            self.prefixes[site.name] = prefix.to(device, torch.promote_types(dtype, torch.float32))
            setattr(site.module, ATTRIBUTE, prefix)
        self._checked: set[str] = set()
        self._instrument: Instrument | None = self._switched_on()
        family.unadapted = self.disabled

    def _switched_on(self) -> Instrument:
        handle = instrument(self.family.model)
        for name in self.prefixes:
            handle.sites[name].listeners.insert(0, partial(self._listen, name))
        return handle

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """A context in which the prefixes are off: attention is bitwise identical to the original model's."""
        handle, self._instrument = self._instrument, None
        if handle is None:  # inside another such context
            yield
            return
        for name in self.prefixes:
            listeners = handle.sites[name].listeners
            listeners[:] = [x for x in listeners if getattr(x, "func", None) != self._listen]
        handle.remove()
        try:
            yield
        finally:
            self._instrument = self._switched_on()

    def _listen(self, name: str, call: Call) -> None:
        prepend(call, *self.prefixes[name](), check=name not in self._checked)
        self._checked.add(name)


def head_shape(site: Site) -> tuple[int, int]:
    """Number of heads of keys and values of an attention layer, and of features per head.

    Raises:
        UserError: the module does not define them.
    """
    module: Any = site.module
    features = next((x for name in FEATURES if isinstance(x := getattr(module, name, None), int)), None)
    if site.output is None or not features or widths(site.output)[0] % features:
        raise UserError(
            f"{site.name} ({type(module).__name__}) has no attribute with its number of heads, so prefix "
            "tuning is not supported: choose another method"
        )
    heads = widths(site.output)[0] // features
    return heads // int(getattr(module, "num_key_value_groups", 1)), features


def prepend(call: Call, key: Tensor, value: Tensor, check: bool = False) -> None:
    """Let every query of a call attend to additional keys and values, prepended to those of the call.

    Args:
        call: an attention call.
        key, value: ``(1, g, t, d)``, with as many heads as the model's keys and values.
        check: whether the module's attention function is tested; see :func:`check_prepended`.

    Raises:
        UserError: the numbers of heads or features differ from the call's, or the test failed.
    """
    own, t = call.eager.args[-3:-1], key.shape[2]
    for name, more, x in (("keys", key, own[0]), ("values", value, own[1])):
        if (more.shape[1], more.shape[3]) != (x.shape[1], x.shape[3]):
            raise UserError(
                f"{call.site.name}: {more.shape[1]} heads of {more.shape[3]} features of prefix {name} "
                f"cannot be prepended to {x.shape[1]} of {x.shape[3]}"
            )
    first = [more.to(x.dtype).expand(x.shape[0], -1, -1, -1) for x, more in zip(own, (key, value))]
    eager = prepended(call.eager, *first)
    if check:
        check_prepended(call.site.name, call.eager, eager, t)
    call.replace_eager(
        eager,
        f"{t} learned keys and values of prefix tuning are prepended, which are not nodes of a graph: switch "
        "the prefix off to capture the model's graphs",
    )


def prepended(eager: partial, key: Tensor, value: Tensor) -> partial:
    """A call's eager attention with prepended keys and values, visible to every query regardless of the mask.

    A position bias is padded with zeros, since they do not have positions.

    Args:
        eager: see :attr:`attngraph.reading.calls.Call.eager`.
        key, value: ``(b, g, t, d)``.
    """
    *bound, query, own_key, own_value, mask = eager.args
    t, m = key.shape[2], own_key.shape[2]
    settings = {name: _padded(x, t, m) for name, x in eager.keywords.items()}
    keys, values = torch.cat([key, own_key], 2), torch.cat([value, own_value], 2)
    mask = None if mask is None else pad(mask, (t, 0))
    return partial(eager.func, *bound, query, keys, values, mask, **settings)


def _padded(setting: Any, t: int, m: int) -> Any:
    """A bias of all keys with zeros for the added ones."""
    bias = isinstance(setting, Tensor) and setting.is_floating_point() and setting.shape[-1:] == (m,)
    return pad(setting, (t, 0)) if bias else setting


@torch.no_grad()
def check_prepended(name: str, before: partial, after: partial, t: int) -> None:
    """Check that a module's attention function keeps the relative weights of its values, and lets queries
    attend to the additional ones.

    Args:
        name: name of the attention layer.
        before: its eager attention of a call.
        after: :func:`prepended` for it.
        t: number of added keys.

    Raises:
        UserError: it does not.
    """
    try:
        old, new = before()[1].float(), after()[1].float()
    except (RuntimeError, ValueError, IndexError):
        old, new = torch.zeros(1, 1), torch.zeros(1, 1)
    if old.shape[-1] + t == new.shape[-1]:
        own = new[..., t:].sum(-1, keepdim=True)
        rows = (own > LEAST).expand_as(old)
        shares, due = new[..., t:] / own, old / old.sum(-1, keepdim=True)
        slack = max(TOLERANCE, 8 * torch.finfo(before.args[-4].dtype).eps)
        seen = (new[..., :t] > 0).any()
        if seen and bool(((shares - due).abs() <= slack)[rows].all()):
            return
    raise UserError(
        f"{name}: attention is not a plain softmax over keys (it may add positions inside its function), "
        "so prefix tuning is not supported: choose another method"
    )
