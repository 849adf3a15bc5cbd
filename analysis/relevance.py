r"""Which nodes a token looks at: raw attention, attention rollout, and relevance weighted by gradients.

All three read an encoder-decoder pair: the query side of cross-attention (the decoder, nodes :math:`s`) and its value
side (the encoder, nodes :math:`q`). Axes: b examples, h heads, n decoder nodes, m encoder nodes.

    >>> graphs, gradients = capture_with_gradients(model, inputs, lambda output: output.logits[:, 4, answer])
    >>> relevance(graphs, gradients).encoder[:, 4]      # (b, m): the image nodes that the answer comes from
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from attngraph import AttentionGraph, record
from attngraph.calls import Call
from attngraph.instrument import instrument

Graphs = Mapping[str, AttentionGraph]


class Stack(NamedTuple):
    """Names of the layers that relevance runs through, each in the order of the calls.

    Args:
        encoder: self-attention among the encoder's nodes; empty where its states were given.
        decoder: self- and cross-attention of the decoder.
        cross: the cross-attention layers among them.
    """

    encoder: list[str]
    decoder: list[str]
    cross: list[str]


class Relevance(NamedTuple):
    """What the decoder's nodes get from the inputs.

    Args:
        decoder: ``(b, n, n)``, from the decoder's own nodes.
        encoder: ``(b, n, m)``, from the encoder's nodes.
    """

    decoder: Tensor
    encoder: Tensor


def stack(graphs: Graphs) -> Stack:
    """Find the decoder and the encoder that belong to the last cross-attention layer, by the number, modality and order
    of their nodes.

    Raises:
        ValueError: no cross-attention layer, several that join other nodes (LXMERT attends in both directions), or an
            encoder that cannot be told from the decoder.
    """
    cross = [name for name, graph in graphs.items() if graph.kind == "cross"]
    if not cross:
        raise ValueError(f"graphs must hold a cross-attention layer; there are {', '.join(graphs) or 'none'}")
    last = graphs[cross[-1]]
    queries, values = _side(last, 0), _side(last, 1)
    others = [name for name in cross if (_side(graphs[name], 0), _side(graphs[name], 1)) != (queries, values)]
    if others:
        raise ValueError(f"graphs must hold one decoder: {others[0]} joins other nodes than {cross[-1]}; leave it out")
    own = {name: graph for name, graph in graphs.items() if graph.kind == "self"}
    decoder = [name for name, graph in own.items() if _side(graph, 0) == queries and graph.causal == last.causal]
    encoder = [name for name, graph in own.items() if _side(graph, 0) == values and name not in decoder]
    if queries == values and not last.causal and decoder:
        raise ValueError("graphs must tell the encoder from the decoder: both have the same number and kind of nodes, "
                         "in no order; give texts of another length")
    return Stack(encoder, [name for name in graphs if name in decoder or name in cross], cross)


def raw(graphs: Graphs, layer: str | None = None, heads: Sequence[int] | None = None) -> Tensor:
    r"""Attention weights themselves, the mean over heads :math:`\frac{1}{h} \sum_k M^k`, ``(b, n, m)``.

    Args:
        graphs: of one model.
        layer: which; None for the last cross-attention layer.
        heads: which; None for all.

    Raises:
        ValueError: no such layer or head.
    """
    layer = stack(graphs).cross[-1] if layer is None else layer
    if layer not in graphs:
        raise ValueError(f"layer must be one of {', '.join(graphs)}, got {layer!r}")
    weight = graphs[layer].weight
    if heads is not None and not (heads and all(0 <= head < weight.shape[1] for head in heads)):
        raise ValueError(f"heads must lie in 0..{weight.shape[1] - 1} for {layer}, got {list(heads)}")
    return _exact(weight if heads is None else weight[:, list(heads)]).mean(1)


def rollout(graphs: Graphs) -> Relevance:
    r"""Attention rollout: how inputs mix on the way up, if every layer keeps half and takes half by attention.

    With :math:`P` the mean over heads of a layer's weights, its rows divided by their sums,

    .. math::
        R^{qq} &\leftarrow \tfrac12 (P + I) R^{qq} && \text{encoder} \\
        R^{ss} &\leftarrow \tfrac12 (P + I) R^{ss}, \quad R^{sq} \leftarrow \tfrac12 (P + I) R^{sq}
            && \text{self-attention of the decoder} \\
        R^{ss} &\leftarrow \tfrac12 R^{ss}, \quad R^{sq} \leftarrow \tfrac12 (R^{sq} + P R^{qq})
            && \text{cross-attention}

    from :math:`R^{qq} = R^{ss} = I, R^{sq} = 0`. That is the product of the layers' square matrices over both sides, so
    a row of :math:`[R^{ss}, R^{sq}]` sums to 1. A row without edges (padding) is kept as it is.

    Raises:
        ValueError: see :func:`stack`.

    Source: Abnar and Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020, for self-attention;
    cross-attention is our reading of it.
    """
    layers = stack(graphs)
    own, source, encoder = _start(graphs, layers)
    for name in layers.encoder:
        weight, share = _mixing(graphs[name])
        encoder = (1 - share) * encoder + share * (weight @ encoder)
    for name in layers.decoder:
        weight, share = _mixing(graphs[name])
        if name in layers.cross:
            own, source = (1 - share) * own, (1 - share) * source + share * (weight @ encoder)
        else:
            own = (1 - share) * own + share * (weight @ own)
            source = (1 - share) * source + share * (weight @ source)
    return Relevance(own, source)


def relevance(graphs: Graphs, gradients: Mapping[str, Tensor]) -> Relevance:
    r"""Relevance weighted by gradients, for an encoder and a decoder with cross-attention.

    With a score :math:`y`, and over the heads of a layer with weights :math:`A`,

    .. math::
        \bar A &= E_h\big[ (\nabla A \odot A)^+ \big], \quad \nabla A = \partial y / \partial A && (5) \\
        R^{qq} &\leftarrow R^{qq} + \bar A R^{qq} && \text{encoder (6)} \\
        R^{ss} &\leftarrow R^{ss} + \bar A R^{ss}, \quad R^{sq} \leftarrow R^{sq} + \bar A R^{sq}
            && \text{self-attention of the decoder (6, 7)} \\
        \bar R &= I + \hat R / \textstyle\sum_k \hat R_{\cdot k}, \quad \hat R = R - I
            && \text{rows normalised (8, 9)} \\
        R^{sq} &\leftarrow R^{sq} + (\bar R^{ss})^\top \bar A \bar R^{qq} && \text{cross-attention (10)}

    from :math:`R^{qq} = R^{ss} = I, R^{sq} = 0`. A row of :math:`\hat R` that is 0 stays 0. Rule (11),
    :math:`R^{ss} \leftarrow R^{ss} + \bar A R^{qs}`, changes nothing here: the encoder never looks at the decoder, so
    :math:`R^{qs} = 0`. Numbers are at least 0 and have no upper bound; compare shares of their sum.

    Args:
        graphs, gradients: see :func:`capture_with_gradients`. Other weights than those that were differentiated (an
            adapter's :math:`\bar M`, say) have no gradients of their own here.

    Raises:
        ValueError: a layer without gradients, gradients of another shape, or see :func:`stack`.

    Source: Chefer, Gur and Wolf, "Generic Attention-model Explainability for Interpreting Bi-Modal and Encoder-Decoder
    Transformers", ICCV 2021, equations 5 to 11.
    """
    layers = stack(graphs)
    own, source, encoder = _start(graphs, layers)
    for name in layers.encoder:
        encoder = encoder + _positive(name, graphs, gradients) @ encoder
    normalised = _normalised(encoder)
    for name in layers.decoder:
        weight = _positive(name, graphs, gradients)
        if name in layers.cross:
            source = source + _normalised(own).transpose(1, 2) @ weight @ normalised
        else:
            own, source = own + weight @ own, source + weight @ source
    return Relevance(own, source)


def capture_with_gradients(model: nn.Module, inputs: Mapping, score: Callable[..., Tensor]
                           ) -> tuple[dict[str, AttentionGraph], dict[str, Tensor]]:
    r"""The graphs of one forward pass, and the gradients of a score with respect to their weights.

    :math:`\nabla A = \partial y / \partial A` is the whole derivative: through the layer's own output and through
    everything that comes after it, later attention weights included. The messages of graph adapters count too, but for
    those with the tiled backend, which never hold the weights.

    Args:
        model: any model that :func:`attngraph.capture` reads. Its parameters need not require gradients, and get none.
        inputs: keyword arguments for the model.
        score: from the model's output to ``(b,)``, one number per example that depends on that example alone.

    Returns:
        ``{layer: graph}`` as :func:`attngraph.capture` gives them, and ``{layer: (b, h, n, m)}``: gradients, 0 where
        the score does not depend on a layer.

    Raises:
        ValueError: the score is not one number per example.
        UserError: as :func:`attngraph.capture`.
    """
    graphs: dict[str, AttentionGraph] = {}
    weights: dict[str, Tensor] = {}

    def numbered(found: dict, calls: Counter, name: str, thing) -> None:
        calls[name] += 1
        found[name if calls[name] == 1 else f"{name}#{calls[name]}"] = thing

    def keep(name: str, call: Call, calls: Counter) -> None:
        numbered(weights, calls, name, call.weight)  # a graph's weights are masked anew: the model goes on with these

    handle, calls = instrument(model), Counter()
    listeners = [(site, partial(keep, name, calls=calls)) for name, site in handle.sites.items()]
    for site, listener in listeners:
        site.listeners.append(listener)
    try:
        with _all_parameters_tracked(model), torch.enable_grad(), \
                record(model, on_graph=partial(numbered, graphs, Counter())):
            value = score(model(**inputs))
            b = next(iter(graphs.values())).shape[0]
            if value.shape != (b,):
                raise ValueError(f"score must give one number per example, shape ({b},), got {tuple(value.shape)}")
            reached = [name for name in graphs if weights[name].requires_grad]
            found = torch.autograd.grad(value.sum(), [weights[name] for name in reached], materialize_grads=True)
    finally:
        for site, listener in listeners:
            site.listeners.remove(listener)
        handle.remove()
    gradients = {name: torch.zeros_like(graph.weight) for name, graph in graphs.items()}
    return graphs, gradients | dict(zip(reached, found))


@contextmanager
def _all_parameters_tracked(model: nn.Module) -> Iterator[None]:
    """In a frozen model nothing would lead from the first layers' weights to the score."""
    frozen = [p for p in model.parameters() if p.is_floating_point() and not p.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)


def _side(graph: AttentionGraph, side: int) -> tuple[int, str | None]:
    """How many nodes a side has, and what they stand for."""
    modality = (graph.query_modality, graph.value_modality)[side]
    return graph.shape[2 + side], "mixed" if isinstance(modality, Tensor) else modality


def _start(graphs: Graphs, layers: Stack) -> tuple[Tensor, Tensor, Tensor]:
    """:math:`R^{ss} = I`, :math:`R^{sq} = 0` and :math:`R^{qq} = I`."""
    graph = graphs[layers.cross[-1]]
    b, _, n, m, _ = graph.shape
    zero = _exact(graph.weight.new_zeros(b, n, m))
    own, encoder = (torch.eye(size, dtype=zero.dtype, device=zero.device).expand(b, -1, -1) for size in (n, m))
    return own, zero, encoder


def _mixing(graph: AttentionGraph) -> tuple[Tensor, Tensor]:
    """:math:`P` ``(b, n, m)``, and the share of a node's state that comes by attention, ``(b, n, 1)``: a half, or 0."""
    weight = _exact(graph.weight).mean(1)
    total = weight.sum(-1, keepdim=True)
    there = total > 0
    return weight / torch.where(there, total, torch.ones_like(total)), 0.5 * there


def _positive(name: str, graphs: Graphs, gradients: Mapping[str, Tensor]) -> Tensor:
    """Equation (5)."""
    weight = graphs[name].weight
    if name not in gradients or gradients[name].shape != weight.shape:
        got = tuple(gradients[name].shape) if name in gradients else "none"
        raise ValueError(f"gradients must hold {name} with shape {tuple(weight.shape)}, got {got}")
    return (_exact(gradients[name]) * _exact(weight)).clamp(min=0).mean(1)


def _normalised(relevance: Tensor) -> Tensor:
    """Equations (8) and (9)."""
    identity = torch.eye(relevance.shape[-1], dtype=relevance.dtype, device=relevance.device)
    gained = relevance - identity
    total = gained.sum(-1, keepdim=True)
    return identity + gained / torch.where(total > 0, total, torch.ones_like(total))


def _exact(x: Tensor) -> Tensor:
    """In double precision, where the device has it."""
    return x.float() if x.device.type == "mps" else x.double()
