"""Prefix tuning on the level of keys and values, in self- and cross-attention."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from adapters.peft.places import language_sites, position_of
from adapters.saved import read_tensors
from attngraph.errors import UserError
from attngraph.reading.calls import Call, Site
from attngraph.reading.instrument import Instrument, instrument
from attngraph.reading.outputs import place, widths

ATTRIBUTE = "kv_prefix"
"""The attribute of an attention module that holds its prefix; part of the names of its parameters."""
CONFIG, WEIGHTS = "prefix_config.json", "prefix.safetensors"
FEATURES = ("head_dim", "attention_head_size", "key_value_proj_dim", "d_head")
"""Attributes of attention modules that say how many features a head has."""
POSITIONS = ("self", "cross")


@dataclass(frozen=True)
class PrefixConfig:
    """What a prefix is made of.

    Args:
        tokens: how many keys and values each attention layer gets.
        projection: width of the embedding and of the hidden layer from which they are made; None learns keys
            and values themselves.
        positions: in ``self``- and in ``cross``-attention. Those that a model does not have are skipped.

    Raises:
        UserError: a value out of range; the message says what is allowed.
    """

    tokens: int = 16
    projection: int | None = None
    positions: tuple[str, ...] = POSITIONS

    def __post_init__(self):
        several = isinstance(self.positions, (tuple, list))
        object.__setattr__(self, "positions", tuple(self.positions) if several else (self.positions,))
        for name, value in (("tokens", self.tokens), ("projection", self.projection)):
            if name == "projection" and value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UserError(f"prefix: {name} must be a whole number of at least 1, got {value!r}")
        if not self.positions or not all(position in POSITIONS for position in self.positions):
            got = ", ".join(map(str, self.positions)) or "none"
            raise UserError(f"prefix: positions must be one or more of {', '.join(POSITIONS)}, got {got}")


class Prefix(nn.Module):
    r"""The keys :math:`K_p` and values :math:`V_p` that one attention layer gets, per head.

    They are parameters, or with ``projection``

    .. math:: [K_p ; V_p] = W_2 \tanh(W_1 E + b_1) + b_2

    of an embedding :math:`E`, as Li & Liang train them. Parameters start standard normal, as PEFT's do: in
    trials on mini-BLIP that trained faster than starts near zero, at each of three learning rates.

    Args:
        groups: heads of keys and values.
        features: per head.
        config: what it is made of.
    """

    def __init__(self, groups: int, features: int, config: PrefixConfig):
        super().__init__()
        self.shape, width = (groups, config.tokens, features), config.projection
        if width is None:
            self.key, self.value = (nn.Parameter(torch.randn(self.shape)) for _ in range(2))
        else:
            self.embedding = nn.Parameter(torch.randn(config.tokens, width))
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


class PrefixTuning:
    r"""Learned keys and values before those of a model's attention layers,

    .. math:: \mathrm{softmax}\big(Q [K_p; K]^\top/\sqrt d + [0, \mathrm{mask}]\big) [V_p; V] ,

    in self- and cross-attention of the language side (the image encoder is left alone). Every query sees
    them, whatever its mask; they take no positions, and are in no cache: each call prepends them anew, so
    that decoding with a cache, beams and left padding are those of the model. The model's own parameters are
    frozen. While a prefix is on, the model's attention can't be read as graphs (:func:`attngraph.capture`
    refuses), since these keys and values are no nodes; the attentions that a model returns have ``tokens``
    more columns.

    PEFT's prefix tuning hands a filled cache to the model instead. Not every model takes one: BLIP's
    ``generate`` drops it, and no cache holds other keys for cross-attention. Where PEFT's works the two
    compute the same, but for positions: PEFT's tokens move all others up by ``tokens`` places.

    Args:
        model: a transformers model.
        config: what the prefixes are made of.

    Raises:
        UserError: no attention layer fits, or one whose heads are unknown; or the model has a prefix.

    Source: Li and Liang, "Prefix-Tuning: Optimizing Continuous Prompts for Generation", ACL 2021.

    >>> prefix = PrefixTuning(model, PrefixConfig(tokens=16))
    >>> optimizer = torch.optim.AdamW(prefix.parameters().values())
    >>> prefix.save(folder)
    """

    def __init__(self, model: nn.Module, config: PrefixConfig = PrefixConfig()):
        if any(hasattr(module, ATTRIBUTE) for module in model.modules()):
            raise UserError(f"{type(model).__name__} has a prefix: take it out with remove() first")
        self.model, self.config = model, config
        self._instrument: Instrument | None = None
        self._checked: set[str] = set()
        handle = instrument(model)
        try:
            sites = [
                site
                for site in language_sites(model, handle.sites.values())
                if position_of(site) in config.positions
            ]
            shapes = [head_shape(site) for site in sites]
        finally:
            handle.remove()
        if not sites:
            raise UserError(
                f"no attention layer for a prefix in {', '.join(config.positions)}-attention of "
                f"{type(model).__name__}"
            )
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        for site, shape in zip(sites, shapes):
            prefix = Prefix(*shape, config)
            assert site.output is not None  # head_shape
            device, dtype = place(site.output)
            # in half precision a step of the optimiser would be lost against entries near 1
            setattr(site.module, ATTRIBUTE, prefix.to(device, torch.promote_types(dtype, torch.float32)))
        self.layers = [site.name for site in sites]
        self.enable()

    # ---- switching ------------------------------------------------------------------------------------

    def enable(self) -> None:
        """Put the prefixes before keys and values."""
        if self._instrument is None:
            self._instrument = instrument(self.model)
            for name in self.layers:
                self._instrument.sites[name].listeners.insert(0, partial(self._listen, name))

    def disable(self) -> None:
        """Give the model its own attention back, to the last bit; the prefixes keep what they learned."""
        if self._instrument is not None:
            for name in self.layers:
                listeners = self._instrument.sites[name].listeners
                listeners[:] = [x for x in listeners if getattr(x, "func", None) != self._listen]
            self._instrument.remove()
            self._instrument = None

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """A context in which the prefixes are off."""
        was_on = self._instrument is not None
        self.disable()
        try:
            yield
        finally:
            if was_on:
                self.enable()

    def remove(self) -> nn.Module:
        """Take the prefixes out; returns the model, whose parameters stay frozen."""
        self.disable()
        for name in self.layers:
            delattr(self.model.get_submodule(name), ATTRIBUTE)
        self.layers = []
        return self.model

    def _listen(self, name: str, call: Call) -> None:
        prefix: Any = getattr(call.site.module, ATTRIBUTE)
        key, value = prefix()
        call.prepend(key, value, check=name not in self._checked)
        self._checked.add(name)

    # ---- parameters -----------------------------------------------------------------------------------

    def prefixes(self) -> dict[str, Prefix]:
        """``{attention layer: its prefix}``."""
        found: dict[str, Any] = {
            name: getattr(self.model.get_submodule(name), ATTRIBUTE) for name in self.layers
        }
        return found

    def parameters(self) -> dict[str, nn.Parameter]:
        """What is learned, by its name in the model."""
        return {
            f"{layer}.{ATTRIBUTE}.{name}": parameter
            for layer, prefix in self.prefixes().items()
            for name, parameter in prefix.named_parameters()
        }

    def save(self, folder: Path) -> None:
        """Write ``prefix_config.json`` and ``prefix.safetensors``."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: p.detach().cpu().contiguous() for name, p in self.parameters().items()}
        save_file(tensors, folder / WEIGHTS)
        (folder / CONFIG).write_text(json.dumps(asdict(self.config), indent=2) + "\n", encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Take over what :meth:`save` wrote.

        Raises:
            UserError: it does not fit this model and configuration, or cannot be read.
        """
        file = folder / WEIGHTS
        saved, own = read_tensors(file), self.parameters()
        wrong = [
            name
            for name in sorted(saved.keys() | own.keys())
            if name not in own or name not in saved or saved[name].shape != own[name].shape
        ]
        if wrong:
            raise UserError(f"{file} does not fit this model and these settings of a prefix ({wrong[0]})")
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(saved[name])


def load_prefix(model: nn.Module, folder: Path) -> PrefixTuning:
    """Put a saved prefix into a model.

    Raises:
        UserError: it cannot be read, or does not fit.
    """
    file = folder / CONFIG
    try:
        config = PrefixConfig(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError, UserError) as error:
        raise UserError(f"{file} cannot be read ({error}): restore it, or save it again") from None
    prefix = PrefixTuning(model, config)
    try:
        prefix.load(folder)
    except UserError:
        prefix.remove()
        raise
    return prefix


def head_shape(site: Site) -> tuple[int, int]:
    """Heads of keys and values of an attention layer, and features of each.

    Raises:
        UserError: they are not known from the module.
    """
    module: Any = site.module
    features = next((x for name in FEATURES if isinstance(x := getattr(module, name, None), int)), None)
    if site.output is None or not features or widths(site.output)[0] % features:
        raise UserError(
            f"{site.name} ({type(module).__name__}) does not say how many heads it has, so it can't be given "
            "a prefix"
        )
    heads = widths(site.output)[0] // features
    return heads // int(getattr(module, "num_key_value_groups", 1)), features
