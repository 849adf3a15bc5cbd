"""Gradients of a score with respect to the attention weights of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from attngraph import AttentionGraph, record
from attngraph.reading.calls import Call
from attngraph.reading.instrument import instrument
from attngraph.reading.reader import PerCall, check_gradients


def capture_with_gradients(
    model: nn.Module, inputs: Mapping, score: Callable[..., Tensor]
) -> tuple[dict[str, AttentionGraph], dict[str, Tensor]]:
    r"""The graphs of one forward pass, and the gradients of a score with respect to their weights.

    :math:`\nabla A = \partial y / \partial A` is the whole derivative: through the layer's own output and
    through everything that comes after it, later attention weights included. The messages of graph adapters
    count too; they are computed from the weights here, with the tiled backend as well.

    Args:
        model: any model that :func:`attngraph.capture` reads. Its parameters need not require gradients, and
            get none.
        inputs: keyword arguments for the model.
        score: from the model's output to ``(b,)``, one number per example that depends on that example alone.

    Returns:
        ``{layer: graph}`` as :func:`attngraph.capture` gives them, and ``{layer: (b, h, n, m)}``: gradients,
        0 where the score does not depend on a layer.

    Raises:
        ValueError: the score is not one number per example, or has no gradient.
        UserError: as :func:`attngraph.capture`.
    """
    check_gradients(model)
    graphs: PerCall[AttentionGraph] = PerCall()
    weights: PerCall[Tensor] = PerCall()
    with (
        _listening(model, weights),
        _all_parameters_tracked(model),
        torch.enable_grad(),
        record(model, on_graph=graphs.add),
    ):
        value = score(model(**inputs))
        # image encoders may read the images of a batch one by one, so the batch differs between layers
        sizes = {graph.shape[0] for graph in graphs.items.values()}
        if value.dim() != 1 or len(value) not in sizes:
            raise ValueError(
                f"score must return one number per example, shape ({max(sizes)},), got {tuple(value.shape)}"
            )
        if not value.requires_grad:
            raise ValueError(
                "score has no gradient: call this outside torch.inference_mode(), and detach nothing in score"
            )
        reached = [name for name in graphs.items if weights.items[name].requires_grad]
        derivatives = torch.autograd.grad(
            value.sum(), [weights.items[name] for name in reached], materialize_grads=True
        )
    gradients = {name: torch.zeros_like(graph.weight) for name, graph in graphs.items.items()}
    return graphs.items, gradients | dict(zip(reached, derivatives))


@contextmanager
def _listening(model: nn.Module, weights: PerCall[Tensor]) -> Iterator[None]:
    """Collect the weights that the model continues with; those of a graph are masked copies. This comes
    before graph adapters, which would compute the layer's output without them."""

    def keep(name: str, call: Call) -> None:
        call.hold_weights()
        weights.add(name, call.weight)

    handle = instrument(model)
    listeners = [(site, partial(keep, name)) for name, site in handle.sites.items()]
    for site, listener in listeners:
        site.listeners.insert(0, listener)
    try:
        yield
    finally:
        for site, listener in listeners:
            site.listeners.remove(listener)
        handle.remove()


@contextmanager
def _all_parameters_tracked(model: nn.Module) -> Iterator[None]:
    """Let all parameters require gradients; otherwise the first layers of a frozen model would have no
    gradients."""
    frozen = [p for p in model.parameters() if p.is_floating_point() and not p.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
