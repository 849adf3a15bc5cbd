r"""Which nodes a token looks at: raw attention, attention rollout, and relevance weighted by gradients.

All three read the layers of a model in the order of their calls, whatever their sets of nodes: an encoder and
a decoder with cross-attention, one sequence of text and image tokens, two streams that attend to one another
(LXMERT), or one encoder alone. They answer for the tokens at the end of the :class:`Route`. Axes: b examples,
h heads, n tokens, m nodes that they see in the end, image nodes if there are any.

    >>> graphs, gradients = capture_with_gradients(model, inputs, lambda output: output.logits[:, 4, answer])
    >>> relevance(graphs, gradients).seen[:, 4]      # (b, m): the image nodes that the answer comes from
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
from attngraph.reading.calls import Call
from attngraph.reading.instrument import instrument

Graphs = Mapping[str, AttentionGraph]


class Nodes(NamedTuple):
    """A set of nodes, known by how many they are, what they stand for and whether they are ordered in time.

    Args:
        examples: how many examples have such nodes; more than the batch where parts of pictures are seen one
            by one.
        number: how many, padding included.
        modality: ``"text"``, ``"image"``, ``"mixed"``, or None if unknown.
        causal: a decoder's tokens.
    """

    examples: int
    number: int
    modality: str | None
    causal: bool


class Route(NamedTuple):
    """How the tokens of a model come to see what they see.

    Args:
        layers: those in which the tokens are queries, in the order of the calls.
        hops: the last layer by which the tokens look at other nodes; then, where those are no image yet, the
            last by which these look at others, and so on. One sequence of text and image looks at itself.
    """

    layers: list[str]
    hops: list[str]


class Relevance(NamedTuple):
    """What the tokens get from the inputs.

    Args:
        own: ``(b, n, n)``, from the tokens themselves.
        seen: ``(b, n, m)``, from the value nodes of the route's last hop; the same as ``own`` in one
            sequence.
    """

    own: Tensor
    seen: Tensor


def route(graphs: Graphs) -> Route:
    """Find the tokens whose view is asked for, and the layers by which they see.

    The tokens are the queries of the last layer that is cross-attention from other than image nodes, or
    self-attention in a sequence of text and image. Where there is neither, they are the image nodes that look
    at others (the probe of a pooling head, a Q-Former's queries), or those of the last image encoder, or else
    those of the last layer. Image tokens of a sequence that are as many as the queries of some
    cross-attention of image nodes (a Q-Former) are taken for those, and the route goes on by it.

    Raises:
        ValueError: no layer, or cross-attention whose sides cannot be told apart.
    """
    if not graphs:
        raise ValueError("graphs must hold a layer, got none")
    ends = _ends(graphs)
    start = next(
        iter(
            _last(graphs, lambda name: _reads(graphs[name], ends[name]))
            + _last(graphs, lambda name: ends[name][0].modality == "image" and graphs[name].kind == "cross")
            + _last(graphs, lambda name: ends[name][0].modality == "image")
            + list(graphs)[-1:]
        )
    )
    tokens = ends[start][0]
    hops, passed = [start], {tokens}
    while True:
        seen = _linked(graphs, ends, hops[-1]) or ends[hops[-1]][1]
        onward = _last(
            graphs,
            lambda name: (
                graphs[name].kind == "cross" and ends[name][0] == seen and ends[name][1] not in passed
            ),
        )
        passed.add(seen)
        if not onward or seen == tokens:
            return Route([name for name in graphs if ends[name][0] == tokens], hops)
        hops += onward


def raw(graphs: Graphs, layer: str | None = None, heads: Sequence[int] | None = None) -> Tensor:
    r"""Attention weights themselves, the mean over heads :math:`\frac{1}{h} \sum_k M^k`, ``(b, n, m)``.

    Where the route has several hops (a Q-Former, BLIP's question encoder), the product of theirs.

    Args:
        graphs: of one model.
        layer: which, in place of the first hop; it must join the same nodes.
        heads: which of that layer; None for all.

    Raises:
        ValueError: no such layer or head, or see :func:`route`.
    """
    hops, ends = route(graphs).hops, _ends(graphs)
    first = hops[0] if layer is None else layer
    if first not in graphs or ends[first] != ends[hops[0]]:
        raise ValueError(
            f"layer must be one of {', '.join(name for name in graphs if ends[name] == ends[hops[0]])}, "
            f"got {layer!r}"
        )
    weight = graphs[first].weight
    if heads is not None and not (heads and all(0 <= head < weight.shape[1] for head in heads)):
        raise ValueError(f"heads must lie in 0..{weight.shape[1] - 1} for {first}, got {list(heads)}")
    found = _exact(weight if heads is None else weight[:, list(heads)]).mean(1)
    for before, name in zip(hops, hops[1:]):
        if _linked(graphs, ends, before):
            found = _columns(found, image_nodes(graphs[before], 1))
        found = found @ _exact(graphs[name].weight).mean(1)
    return found


def rollout(graphs: Graphs) -> Relevance:
    r"""Attention rollout: how inputs mix on the way up, if every layer keeps half and takes half by
    attention.

    With :math:`P` the mean over heads of a layer's weights, its rows divided by their sums, and for every set
    of nodes :math:`c`, a layer by which the nodes :math:`a` look at :math:`b` (at themselves in
    self-attention) does

    .. math::
        R^{ac} \leftarrow \tfrac12 (R^{ac} + P R^{bc})

    from :math:`R^{aa} = I` and :math:`R^{ac} = 0`. That is the product of the layers' square matrices over
    all nodes, so a token's row over all sets sums to 1. A row without edges (padding) is kept as it is.

    Raises:
        ValueError: see :func:`route`.

    Source: Abnar and Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020, for self-attention;
    cross-attention is our reading of it.
    """

    def layer(name: str, a: Nodes, b: Nodes, maps: _Maps) -> dict[tuple[Nodes, Nodes], Tensor]:
        weight, share = _mixing(graphs[name])
        return {
            (a, c): (1 - share) * maps.of(a, c) + share * (weight @ maps.of(b, c)) for c in maps.sources(a, b)
        }

    return _walk(graphs, layer)


def relevance(graphs: Graphs, gradients: Mapping[str, Tensor]) -> Relevance:
    r"""Relevance weighted by gradients.

    With a score :math:`y`, and over the heads of a layer with weights :math:`A`, for every set of nodes
    :math:`c`,

    .. math::
        \bar A &= E_h\big[ (\nabla A \odot A)^+ \big], \quad \nabla A = \partial y / \partial A && (5) \\
        R^{ac} &\leftarrow R^{ac} + \bar A R^{ac} && \text{self-attention of } a \text{ (6, 7)} \\
        \bar R &= I + \hat R / \textstyle\sum_k \hat R_{\cdot k}, \quad \hat R = R - I
            && \text{rows normalised (8, 9)} \\
        R^{ab} &\leftarrow R^{ab} + (\bar R^{aa})^\top \bar A \bar R^{bb} && a \text{ looks at } b \text{ (10)} \\
        R^{ac} &\leftarrow R^{ac} + \bar A R^{bc}, \quad c \neq b && \text{(11)}

    from :math:`R^{aa} = I` and :math:`R^{ac} = 0`. A row of :math:`\hat R` that is 0 stays 0. The paper has
    two sets of nodes, and (11) for :math:`c = a` alone; here it also hands on what :math:`b` took from
    others. Two directions of cross-attention by one module (LXMERT) look at the same states, so both are read
    before either changes. Numbers are at least 0 and have no upper bound; compare shares of their sum.

    Args:
        graphs, gradients: see :func:`capture_with_gradients`. Other weights than those that were
            differentiated (an adapter's :math:`\bar M`, say) have no gradients of their own here.

    Raises:
        ValueError: a layer without gradients, gradients of another shape, or see :func:`route`.

    Source: Chefer, Gur and Wolf, "Generic Attention-model Explainability for Interpreting Bi-Modal and
    Encoder-Decoder Transformers", ICCV 2021, equations 5 to 11. """

    def layer(name: str, a: Nodes, b: Nodes, maps: _Maps) -> dict[tuple[Nodes, Nodes], Tensor]:
        weight = _positive(name, graphs, gradients)
        found = {(a, c): maps.of(a, c) + weight @ maps.of(b, c) for c in maps.sources(a, b)}
        if a != b:
            own, other = _normalised(maps.of(a, a)), _normalised(maps.of(b, b))
            found[a, b] = maps.of(a, b) + own.transpose(1, 2) @ weight @ other
        return found

    return _walk(graphs, layer)


def image_nodes(graph: AttentionGraph, side: int) -> Tensor:
    """Which query (0) or value nodes (1) stand for parts of an image, padding left out: bool
    ``(b, nodes)``."""
    image, valid = graph.is_image()[side], valid_nodes(graph, side)
    return torch.zeros_like(valid) if image is None else image & valid


def valid_nodes(graph: AttentionGraph, side: int) -> Tensor:
    """Which query (0) or value nodes (1) are no padding: bool ``(b, nodes)``."""
    mask = (graph.query_mask, graph.value_mask)[side]
    if mask is None:
        return torch.ones(graph.shape[0], graph.shape[2 + side], dtype=torch.bool, device=graph.query.device)
    return mask.any(1) if mask.dim() == 3 else mask


def capture_with_gradients(
    model: nn.Module, inputs: Mapping, score: Callable[..., Tensor]
) -> tuple[dict[str, AttentionGraph], dict[str, Tensor]]:
    r"""The graphs of one forward pass, and the gradients of a score with respect to their weights.

    :math:`\nabla A = \partial y / \partial A` is the whole derivative: through the layer's own output and
    through everything that comes after it, later attention weights included. The messages of graph adapters
    count too, but for those with the tiled backend, which never hold the weights.

    Args:
        model: any model that :func:`attngraph.capture` reads. Its parameters need not require gradients, and
            get none.
        inputs: keyword arguments for the model.
        score: from the model's output to ``(b,)``, one number per example that depends on that example alone.

    Returns:
        ``{layer: graph}`` as :func:`attngraph.capture` gives them, and ``{layer: (b, h, n, m)}``: gradients,
        0 where the score does not depend on a layer.

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
        numbered(
            weights, calls, name, call.weight
        )  # a graph's weights are masked anew: the model goes on with these

    handle, calls = instrument(model), Counter()
    listeners = [(site, partial(keep, name, calls=calls)) for name, site in handle.sites.items()]
    for site, listener in listeners:
        site.listeners.append(listener)
    try:
        with (
            _all_parameters_tracked(model),
            torch.enable_grad(),
            record(model, on_graph=partial(numbered, graphs, Counter())),
        ):
            value = score(model(**inputs))
            sizes = {
                graph.shape[0] for graph in graphs.values()
            }  # image encoders may read a batch's pictures one by one
            if value.dim() != 1 or len(value) not in sizes:
                raise ValueError(
                    f"score must give one number per example, shape ({max(sizes)},), got {tuple(value.shape)}"
                )
            reached = [name for name in graphs if weights[name].requires_grad]
            found = torch.autograd.grad(
                value.sum(), [weights[name] for name in reached], materialize_grads=True
            )
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


def _ends(graphs: Graphs) -> dict[str, tuple[Nodes, Nodes]]:
    """The sets that each layer's queries and values are."""
    found = {}
    for name, graph in graphs.items():
        modalities = [
            "mixed" if isinstance(side, Tensor) else side
            for side in (graph.query_modality, graph.value_modality)
        ]
        b, _, n, m, _ = graph.shape
        query = Nodes(b, n, modalities[0], graph.causal)
        found[name] = query, query if graph.kind == "self" else Nodes(b, m, modalities[1], False)
    for name, (query, value) in found.items():
        if graphs[name].kind == "cross" and query == value:
            raise ValueError(
                f"graphs must tell the two sides of {name} apart: both have the same number and kind of nodes, in "
                "no order; give texts of another length"
            )
    return found


def _last(graphs: Graphs, which: Callable[[str], bool]) -> list[str]:
    """The last layer that is such a one, or none."""
    return [name for name in graphs if which(name)][-1:]


def _reads(graph: AttentionGraph, ends: tuple[Nodes, Nodes]) -> bool:
    return ends[0].modality != "image" if graph.kind == "cross" else ends[0].modality == "mixed"


def _linked(graphs: Graphs, ends: Mapping[str, tuple[Nodes, Nodes]], name: str) -> Nodes | None:
    """The queries of cross-attention that became the image tokens among a layer's values; None if there are
    none."""
    if ends[name][1].modality != "mixed":
        return None
    many = image_nodes(graphs[name], 1).sum(1)
    queries = [
        ends[other][0]
        for other in graphs
        if graphs[other].kind == "cross" and ends[other][0].modality == "image"
    ]
    return next((nodes for nodes in reversed(queries) if (many == nodes.number).all()), None)


class _Maps:
    """What sets of nodes got from sets of nodes so far; 0, and the identity within a set, until a layer
    changes it."""

    def __init__(self, like: Tensor):
        self.like, self.found = like, {}

    def sources(self, *sets: Nodes) -> set[Nodes]:
        """The sets that any of these got something from, themselves included."""
        return {*sets, *(c for a, c in self.found if a in sets)}

    def of(self, a: Nodes, c: Nodes) -> Tensor:
        if (a, c) not in self.found:
            b, eye = self.like.shape[0], torch.eye if a == c else torch.zeros
            self.found[a, c] = eye(a.number, c.number, dtype=self.like.dtype, device=self.like.device).expand(
                b, -1, -1
            )
        return self.found[a, c]


def _walk(
    graphs: Graphs, layer: Callable[[str, Nodes, Nodes, _Maps], dict[tuple[Nodes, Nodes], Tensor]]
) -> Relevance:
    """Let every layer change the maps, in the order of the calls, and return those of the route."""
    ends, found = _ends(graphs), route(graphs)
    maps = _Maps(_exact(graphs[found.hops[0]].weight[:, 0]))
    reached, started = _reached(graphs, ends, ends[found.hops[0]][0]), set()
    for names in _calls(graphs, ends):
        if ends[names[0]][0] not in reached:
            continue
        for name in names:
            link = None if ends[name][0] in started else _linked(graphs, ends, name)
            if link is not None and graphs[name].kind == "self":
                _begin(maps, ends[name][0], link, image_nodes(graphs[name], 1))
            started.add(ends[name][0])
        changed = [layer(name, *ends[name], maps) for name in names]
        for some in changed:
            maps.found |= some
    tokens, seen = ends[found.hops[0]][0], ends[found.hops[-1]][1]
    return Relevance(maps.of(tokens, tokens), maps.of(tokens, seen))


def _reached(graphs: Graphs, ends: Mapping[str, tuple[Nodes, Nodes]], tokens: Nodes) -> set[Nodes]:
    """The sets that the tokens see, directly or through others; an image encoder whose states become a
    sequence's tokens is none of them."""
    reached, fresh = set(), {tokens}
    while fresh:
        reached |= fresh
        fresh = {
            seen
            for name in graphs
            if ends[name][0] in fresh
            for seen in (ends[name][1], _linked(graphs, ends, name))
            if seen is not None
        } - reached
    return reached


def _calls(graphs: Graphs, ends: Mapping[str, tuple[Nodes, Nodes]]) -> Iterator[list[str]]:
    """The layers one by one; together those that one module ran in both directions."""
    names = list(graphs)
    while names:
        some = names[:1]
        if graphs[some[0]].kind == "cross" and len(names) > 1:
            (one, number), (other, next_number) = (name.partition("#")[::2] for name in names[:2])
            if (
                one == other
                and int(next_number) - int(number or 1) == 1
                and ends[names[1]] == ends[some[0]][::-1]
            ):
                some = names[:2]
        names = names[len(some) :]
        yield some


def _begin(maps: _Maps, sequence: Nodes, link: Nodes, image: Tensor) -> None:
    """The image tokens of a sequence start with what the queries that became them have."""
    for c in maps.sources(link):
        whole = maps.of(sequence, c).clone()
        whole[image] = maps.of(link, c).reshape(-1, c.number)
        maps.found[sequence, c] = whole


def _columns(x: Tensor, mask: Tensor) -> Tensor:
    """The columns of ``(b, n, m)`` at a mask ``(b, m)`` with as many places in each example."""
    place = mask.nonzero()[:, 1].view(x.shape[0], 1, -1)
    return x.gather(2, place.expand(-1, x.shape[1], -1))


def _mixing(graph: AttentionGraph) -> tuple[Tensor, Tensor]:
    """:math:`P` ``(b, n, m)``, and the share of a node's state that comes by attention, ``(b, n, 1)``: a
    half, or 0."""
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
