"""Where adapters go in a model: after which attention layers and after which feed-forward blocks."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer, check_target_module_exists
from torch import nn

from attngraph.adapters.config import POSITIONS, GraphAdapterConfig, is_all_linear
from attngraph.adapters.peft.usable import why_unusable
from attngraph.errors import UserError
from attngraph.reading.instrument import Site, attention_like, reason_unread, unread_attention, wildcards
from attngraph.reading.outputs import is_linear

# Parts of a module's name that mark cross-attention.
CROSS = {
    "crossattention",
    "cross_attn",
    "cross_attention",
    "encoder_attn",
    "encoder_decoder_attention",
    "EncDecAttention",
    "x_attn",
    "visual_attention",
    "multihead_attn",
}

# Parts that mark what is not the language side. In a model that has only these, they count like others.
OTHER_SIDES = {
    "vision_model",
    "vision_tower",
    "vision_encoder",
    "visual",
    "image_model",
    "image_encoder",
    "image_tower",
    "image_embed",
    "vision_embed_tokens",
    "video_model",
    "video_encoder",
    "video_tower",
    "audio_model",
    "audio_encoder",
    "audio_tower",
    "audio_embed",
    "speech_encoder",
    "qformer",
    "image_to_text_projection",
}
# By the model's type, parts at the top of the model; deeper in it, such a name may be that of a text stack.
# mPLUG is adapted in its decoder, as p-Adapter has it; its encoders are reached by target_modules.
OTHER_SIDES_AT_TOP = {
    "vision-encoder-decoder": ("encoder",),
    "pix2struct": ("encoder",),
    "mplug": ("text_encoder", "fusion_encoder"),
}

NO_BLOCK = "experts, or names that are not known, which ffn_modules=[...] can give"

HEADS = {"classifier", "score", "qa_outputs"}  # PEFT adds these to modules_to_save where there is a task

# Ends of the names of output projections of feed-forward blocks.
FFN_OUTPUTS = (
    "mlp.down_proj",
    "mlp.c_proj",
    "mlp.wo",
    "mlp.dense_4h_to_h",
    "fc2",
    "fc_out",
    "feed_forward.down_proj",
    "feed_forward.w2",
    "mlp_block.down_proj",
    "mlp.Wo",
    "DenseReluDense.wo",
    "ffn.lin2",
    "ffn.down_proj",
    "ffn.2",
    "ffn_output",
    "output.dense",
    "output_query.dense",
    "lang_output.dense",
    "visn_output.dense",
)


@dataclass(frozen=True)
class Place:
    """The output projection of an attention layer or of a feed-forward block, which is to be wrapped.

    Attributes:
        name: its path in the model.
        position: ``self``, ``cross`` or ``ffn``.
        site: the attention layer; None for a feed-forward block.
    """

    name: str
    position: str
    site: Site | None = None


def find_places(model: nn.Module, sites: Iterable[Site], config: GraphAdapterConfig) -> dict[str, Place]:
    """The places of one adapter, by the name of the module to wrap.

    With all positions and no names of modules, modules that no adapter can follow (a gated attention layer, a
    set of experts) are skipped, and a warning names them, as long as some attention layer can be followed.
    Attention that cannot be read is skipped with a warning for any positions and names.

    Args:
        model: the base model.
        sites: its attention layers.
        config: its positions and names of modules.

    Raises:
        UserError: no module matches, a name in the configuration matches none, or a requested module cannot
            be followed; the message lists the modules of the model.
    """
    sites = list(sites)
    linear = _linear(model, sites)
    attention = [(site.name, site.output_name) for site in sites]
    everywhere = is_all_linear(config.target_modules)
    if not everywhere:
        _check_names("target_modules", config.target_modules, attention, "attention layer", model)
    _check_names("ffn_modules", config.ffn_modules, [(name,) for name in linear], "linear layer", model)
    either = [*attention, *((name,) for name in linear)]
    unread = unread_attention(model, (site.module for site in sites))
    excludable = [*either, *((name,) for name in unread)]
    _check_names("exclude_modules", config.exclude_modules, excludable, "attention or linear layer", model)
    _check_layers(config, either, model)
    _check_saved(config, model)
    position = {site.name: position_of(site.name) for site in sites}
    named = _attention(model, sites, config)
    chosen = [x for x in named if not _matches(config.exclude_modules, x.name, x.output_name)]
    blocks = _feed_forward(sites, named, linear, config)
    kept = [name for name in blocks if not _matches(config.exclude_modules, name)]
    outputs = [name for name in kept if by_name(config, name, config.ffn_modules)]
    followed = [site for site in chosen if position[site.name] in config.positions]
    all_positions = set(config.positions) == set(POSITIONS)
    left_out = {site.name: reason for site in followed if (reason := why_unusable(site)) is not None}
    by_choice = config.target_modules and not everywhere
    if left_out and (by_choice or not all_positions or len(left_out) == len(followed)):
        name, reason = next(iter(left_out.items()))
        if len(left_out) < len(followed):
            remedy = "exclude it with exclude_modules=[...]"
        elif any(why_unusable(site) is None for site in sites):
            remedy = "choose other layers with target_modules"
        else:
            remedy = f"nor can one follow any other attention layer of {type(model).__name__}"
            remedy += ' (positions="ffn" adapts its feed-forward blocks alone)' if outputs else ""
        raise UserError(f"no adapter can follow {name}: {reason}; {remedy}")
    places = {
        site.output_name: Place(site.output_name, position[site.name], site)
        for site in followed
        if site.output_name is not None and site.name not in left_out
    }
    if "ffn" in config.positions:
        if chosen and not blocks and not (all_positions and places):
            inside = _shorten(_beside(sites, chosen, linear))
            raise UserError(
                f"no output projection of a feed-forward block is known in {type(model).__name__}: leave ffn "
                f"out of positions, or name it with ffn_modules=[...] (linear layers there: {inside})"
            )
        if not config.ffn_modules:
            done = {_layer(name) for name in blocks}
            layers = [layer for site in chosen if (layer := _layer(site.name)) and layer not in done]
            left_out |= dict.fromkeys(layers, NO_BLOCK)
        places |= {name: Place(name, "ffn") for name in outputs}
    left_out |= _unread(model, unread, named, config)
    if left_out and places:
        _warn_left_out(left_out, list(position))
    if not places and config.exclude_modules and not (chosen or outputs):
        raise UserError(
            f"exclude_modules excludes every module that an adapter could follow in {type(model).__name__}"
        )
    if not places:
        present = _shorten(f"{site.name} ({position[site.name]})" for site in sites)
        raise UserError(
            f"no attention layer for positions {', '.join(config.positions)} in {type(model).__name__}: it "
            f"has {present}; choose with target_modules"
        )
    return places


def _unread(
    model: nn.Module, unread: dict[str, nn.Module], named: list[Site], config: GraphAdapterConfig
) -> dict[str, str]:
    """Attention layers that the configuration means and that cannot be read, and why.

    Args:
        model: the base model.
        unread: its attention layers that cannot be read.
        named: those that can be read and that the configuration means.
        config: where the adapter shall sit.
    """
    names = None if is_all_linear(config.target_modules) else config.target_modules
    language_only = not config.target_modules and any(on_language_side(model, site.name) for site in named)
    meant: dict[str, str] = {}
    for name, module in unread.items():
        either = name, name.rpartition(".")[0]  # the module round it is called as those that are read
        if (
            position_of(name) in config.positions
            and any(by_name(config, x, names) for x in either if x)
            and not _matches(config.exclude_modules, *either)
            and (on_language_side(model, name) or not language_only)
        ):
            meant[name] = reason_unread(type(module))
    return meant


def _attention(model: nn.Module, sites: list[Site], config: GraphAdapterConfig) -> list[Site]:
    names = None if is_all_linear(config.target_modules) else config.target_modules
    among = sites if config.target_modules else language_sites(model, sites)
    return [
        site for site in among if any(by_name(config, x, names) for x in (site.name, site.output_name) if x)
    ]


def language_sites(model: nn.Module, sites: Iterable[Site]) -> list[Site]:
    """The attention layers on a model's language side; all of them where it has no other side.

    Args:
        model: the base model.
        sites: its attention layers.

    Raises:
        UserError: those on the language side can't be read.
    """
    sites = list(sites)
    language = [site for site in sites if on_language_side(model, site.name)]
    unread = [name for name, _ in attention_like(model) if on_language_side(model, name)]
    if unread and not language:
        raise UserError(
            f"the attention layers on the language side of {type(model).__name__} can't be read "
            f"({unread[0]} is one): choose others with target_modules (it has "
            f"{_shorten(site.name for site in sites)})"
        )
    return language or sites


def on_language_side(model: nn.Module, name: str) -> bool:
    """Whether a module does not belong to another side of the model, by its name."""
    kind: str = getattr(getattr(model, "config", None), "model_type", None) or ""
    parts = name.split(".")
    return not OTHER_SIDES & set(parts) and parts[0] not in OTHER_SIDES_AT_TOP.get(kind, ())


def position_of(name: str) -> str:
    """``cross`` for a layer whose name indicates cross-attention, else ``self``."""
    return "cross" if CROSS & set(name.split(".")) else "self"


def _linear(model: nn.Module, sites: list[Site]) -> list[str]:
    """The linear layers but for attention's output projections, without those inside PEFT's layers."""
    taken = {site.output_name for site in sites}
    tuned = tuple(f"{name}." for name, module in model.named_modules() if isinstance(module, BaseTunerLayer))
    return [
        name
        for name, module in model.named_modules()
        if _is_linear(module) and name not in taken and not name.startswith(tuned)
    ]


def by_name(config: GraphAdapterConfig, name: str, patterns: list[str] | str | None = None) -> Any:
    """Whether PEFT would select a module: by names, layers, and what is excluded or saved as a whole.

    Args:
        config: of the adapter.
        name: the module's.
        patterns: names or a regular expression. Default: any name.

    Returns:
        true or false; for a module that is excluded PEFT's own mark of these, which is false.
    """
    end = name.rpartition(".")[2]
    if patterns is None and end == name and config.layers_to_transform is not None:
        return False  # PEFT needs no number if the full name is given, as here
    rule = SimpleNamespace(
        target_modules=patterns or [end],
        target_parameters=None,
        exclude_modules=config.exclude_modules,
        modules_to_save=config.modules_to_save,
        layers_to_transform=config.layers_to_transform,
        layers_pattern=config.layers_pattern,
    )
    return check_target_module_exists(rule, name)


def _check_saved(config: GraphAdapterConfig, model: nn.Module) -> None:
    """Raise an error for an unknown module to save; PEFT, which matches the ends of names, ignores it."""
    names = [name for name, _ in model.named_modules()]
    ends = set(config.modules_to_save or ())
    missing = sorted(end for end in ends if not any(name.endswith(end) for name in names))
    heads = HEADS & ends
    if config.task_type or heads - set(missing):  # of several names of heads a model has one
        missing = [end for end in missing if end not in heads]
    if missing:
        raise UserError(
            f"modules_to_save: {missing[0]!r} matches the end of no module name in {type(model).__name__}"
        )


def _check_layers(
    config: GraphAdapterConfig, modules: Iterable[tuple[str | None, ...]], model: nn.Module
) -> None:
    """Raise an error for a layer number that no module's name has; arguments as for :func:`_check_names`."""
    names = [name for several in modules for name in several if name is not None]
    numbers: Any = config.layers_to_transform or ()
    for number in numbers:
        alone = replace(config, layers_to_transform=number, exclude_modules=None, modules_to_save=None)
        if not any(by_name(alone, name) for name in names):
            lists = f" of {config.layers_pattern}" if config.layers_pattern else ""
            raise UserError(
                f"layers_to_transform: there is no layer {number}{lists} in {type(model).__name__}: it has "
                f"{_shorten(names)}"
            )


def _check_names(
    field: str,
    patterns: list[str] | str | None,
    modules: Iterable[tuple[str | None, ...]],
    kind: str,
    model: nn.Module,
) -> None:
    """Raise an error for a name or a regular expression that matches no module.

    Args:
        field: name of the field of the configuration.
        patterns: its value.
        modules: the names by which each module can be selected.
        kind: kind of modules, for the message.
        model: the base model, for the message.
    """
    modules = list(modules)
    for pattern in [patterns] if isinstance(patterns, str) else patterns or []:
        alone = pattern if isinstance(patterns, str) else [pattern]
        if not any(_matches(alone, *names) for names in modules):
            raise UserError(
                f"{field}: {pattern!r} matches no {kind} of {type(model).__name__}: it has "
                f"{_shorten(str(names[0]) for names in modules)}"
            )


def _feed_forward(
    sites: list[Site], chosen: list[Site], linear: list[str], config: GraphAdapterConfig
) -> list[str]:
    """Output projections of feed-forward blocks: the named ones, or those in the chosen sites' layers."""
    if config.ffn_modules:
        return [name for name in linear if _matches(config.ffn_modules, name)]
    return [name for name in _beside(sites, chosen, linear) if _matches(FFN_OUTPUTS, name)]


def _beside(sites: list[Site], chosen: list[Site], linear: list[str]) -> list[str]:
    """The linear layers outside attention in the layers of the chosen sites."""
    layers = {_layer(site.name) for site in chosen}
    attention = tuple(f"{site.name}." for site in sites)
    return [name for name in linear if _layer(name) in layers and not name.startswith(attention)]


def _warn_left_out(left_out: dict[str, str], attention: list[str]) -> None:
    """Warn which attention layers and feed-forward blocks no adapter follows, and why."""
    reasons: dict[str, list[str]] = {}
    for name, reason in left_out.items():
        reasons.setdefault(reason, []).append(name)
    parts = []
    for reason, names in reasons.items():
        blocks = reason == NO_BLOCK
        alike = [_layer(name) or "" for name in attention] if blocks else attention
        shown = ", ".join(wildcards(names, set(alike) - set(names)))
        parts.append(f"{'the feed-forward blocks of ' if blocks else ''}{shown} ({reason})")
    warnings.warn(f"no graph adapter follows {'; '.join(parts)}", stacklevel=2)


def _layer(name: str) -> str | None:
    """A name up to its first number: ``decoder.block.3`` of ``decoder.block.3.layer.1.DenseReluDense``."""
    match = re.match(r"(.*?\.)?\d+(?=\.)", name)
    return match and match[0]


def _is_linear(module: nn.Module) -> bool:
    base = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
    return is_linear(base)


def _matches(patterns: Iterable[str] | str | None, *names: str | None) -> bool:
    """PEFT's rule: a string is a regular expression for the whole name, a list holds names or their ends."""
    given = [name for name in names if name is not None]
    if isinstance(patterns, str):
        return any(re.fullmatch(patterns, name) for name in given)
    return any(name == end or name.endswith("." + end) for end in patterns or () for name in given)


def _shorten(names: Iterable[str], most: int = 8) -> str:
    """The first names of a list, for a message."""
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "") or "none"
