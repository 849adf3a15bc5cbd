"""Learned parameters of the graph adapters in a model, and their effect on its attention, layer by layer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from attngraph.adapters.effects import Effect, EffectTally
from attngraph.adapters.peft.layer import OutputLayer, find_layer
from attngraph.adapters.scalar import learned_values
from attngraph.errors import UserError
from attngraph.graph import AttentionGraph
from attngraph.reading.instrument import instrument
from attngraph.reading.outputs import matrix
from attngraph.reading.reader import record


def adapter_effects(model: nn.Module, batches: Mapping | Iterable[Mapping]) -> dict[str, Effect]:
    """Effect of the scheme in each adapted attention layer, from one forward pass per batch.

    Every layer is evaluated on its graph in the adapted model (with the weights before dropout), with its own
    learned p and μ, ``top_k`` and ``rescale``, and with the frozen :math:`W_o`.

    Args:
        model: a PEFT model with active graph adapters, or the model inside; usually in evaluation mode.
        batches: keyword arguments of the model, for one forward pass or several.

    Returns:
        ``{attention layer, named as by attngraph.capture of the base model: effect}``.

    Raises:
        UserError: no active graph adapter follows an attention layer, or no layer ran.
    """
    with watch_effects(model) as effects, torch.no_grad():
        for batch in [batches] if isinstance(batches, Mapping) else batches:
            model(**batch)
    return effects


@contextmanager
def watch_effects(model: nn.Module) -> Iterator[dict[str, Effect]]:
    """:func:`adapter_effects` of all passes in the with block, for models that are not called directly.

    >>> with watch_effects(model) as effects:
    ...     loss = family.loss(batch)
    >>> effects["text_decoder.bert.encoder.layer.0.attention.self"].kappa

    Args:
        model: as for :func:`adapter_effects`. It must run inside the block, and without a key/value cache
            where the adapters have ``top_k``.

    Yields:
        the dictionary that :func:`adapter_effects` returns; it is filled at the end of the block.
    """
    base: Any = model
    while hasattr(base, "get_base_model"):
        base = base.get_base_model()
    tallies = {name: _tally(layer) for name, layer in _adapted(base).items()}
    if not tallies:
        raise UserError(
            f"no graph adapter is switched on after an attention layer of {type(base).__name__}: put one in "
            "with get_peft_model, or enable it"
        )

    def add(name: str, graph: AttentionGraph) -> None:
        tallies[name].add(graph)

    effects: dict[str, Effect] = {}
    with record(base, layers=list(tallies), on_graph=add):
        yield effects
    effects.update({name: tally.effect() for name, tally in tallies.items()})


def _adapted(base: nn.Module) -> dict[str, OutputLayer]:
    """The layers with an adapter that runs, by the name of the attention layer before them."""
    handle = instrument(base)
    try:
        outputs = {name: site.output_name for name, site in handle.sites.items() if site.output_name}
    finally:
        handle.remove()
    layers = {name: find_layer(base.get_submodule(output)) for name, output in outputs.items()}
    graph_layers = {name: layer for name, layer in layers.items() if isinstance(layer, OutputLayer)}
    return {name: layer for name, layer in graph_layers.items() if layer.enabled_module is not None}


def _tally(layer: OutputLayer) -> EffectTally:
    adapter = layer.enabled_module
    share = getattr(adapter.join, "share", None)
    return EffectTally(
        adapter.scheme,
        matrix(layer.projection).detach(),
        adapter.top_k,
        adapter.rescale,
        None if share is None else float(share().detach()),
        adapter.query_rows,
    )


def learned_scalars(model: nn.Module) -> dict[str, float]:
    """Current values of the scalar parameters that the active graph adapter learns, layer by layer.

    These are the scheme's (:meth:`attngraph.adapters.scheme.Scheme.learned`: p and μ of pGNN, for example)
    and the weight of the ``blend`` join (``share``).

    Args:
        model: a PEFT model with graph adapters, or the model inside.

    Returns:
        ``{"layer.0.attention.p": 1.31, "layer.0.attention.share": 0.2, ...}``. A layer is named by the part
        of its path in the model that distinguishes it from the other adapted layers.
    """
    layers = {module.name: module for module in model.modules() if isinstance(module, OutputLayer)}
    values: dict[str, float] = {}
    for name, layer in zip(short_names(list(layers)), layers.values()):
        adapter = layer.active_module
        if adapter is None:
            continue
        for scalar, value in (adapter.scheme.learned() | learned_values(adapter.join)).items():
            values[f"{name}.{scalar}"] = value
    return values


def short_names(names: list[str]) -> list[str]:
    """Module paths without what all of them share at the start and at the end.

    The component before a path's first number stays, and so does the one after its last number:
    ``text_decoder.bert.encoder.layer.0.attention.output.dense`` becomes ``layer.0.attention``.
    """
    paths = [name.split(".") for name in names]
    numbers = [[k for k, part in enumerate(path) if part.isdigit()] for path in paths]
    if not paths or not all(numbers):
        return names
    start = min(_shared(paths), *(max(0, places[0] - 1) for places in numbers))
    end = min(
        _shared([path[::-1] for path in paths]),
        *(max(0, len(path) - places[-1] - 2) for path, places in zip(paths, numbers)),
    )
    return [".".join(path[start : len(path) - end]) for path in paths]


def _shared(paths: list[list[str]]) -> int:
    """With how many equal components all paths start."""
    different = (k for k, parts in enumerate(zip(*paths)) if len(set(parts)) > 1)
    return next(different, min(map(len, paths)))
