"""What the graph adapters in a model do to its attention, layer by layer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from adapters.effects import Effect, EffectTally
from adapters.peft.layer import OutputLayer, find_layer
from attngraph.errors import UserError
from attngraph.graph import AttentionGraph
from attngraph.reading.instrument import instrument
from attngraph.reading.outputs import matrix
from attngraph.reading.reader import record


def adapter_effects(model: nn.Module, batches: Mapping | Iterable[Mapping]) -> dict[str, Effect]:
    """What each adapted attention layer's scheme does, from one forward pass per batch.

    Every layer is looked at on the graph that it gets in the adapted model (with the weights before
    dropout), with its own learned p and μ, ``top_k`` and ``rescale``, and with the frozen :math:`W_o`.

    Args:
        model: a PEFT model with graph adapters that are switched on, or the model inside; in evaluation mode,
            as a rule.
        batches: keyword arguments of the model, for one forward pass or several.

    Returns:
        ``{attention layer, named as by attngraph.capture of the base model: effect}``.

    Raises:
        UserError: no graph adapter that is switched on follows an attention layer, or no layer ran.
    """
    with watch_effects(model) as effects, torch.no_grad():
        for batch in [batches] if isinstance(batches, Mapping) else batches:
            model(**batch)
    return effects


@contextmanager
def watch_effects(model: nn.Module) -> Iterator[dict[str, Effect]]:
    """:func:`adapter_effects` of whatever runs in the with block, for models that are not called directly.

    >>> with watch_effects(model) as effects:
    ...     loss = family.loss(batch)
    >>> effects["text_decoder.bert.encoder.layer.0.attention.self"].kappa

    Args:
        model: as for :func:`adapter_effects`. It must run inside the block, and without a key/value cache
            where the adapters have ``top_k``.

    Yields:
        what :func:`adapter_effects` returns; filled in at the end of the block.
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
    return {name: x for name, x in layers.items() if isinstance(x, OutputLayer) and x.active is not None}


def _tally(layer: OutputLayer) -> EffectTally:
    adapter = layer.active
    share = getattr(adapter.join, "share", None)
    return EffectTally(
        adapter.scheme,
        matrix(layer.projection).detach(),
        adapter.top_k,
        adapter.rescale,
        None if share is None else float(share().detach()),
        adapter.query_rows,
    )
