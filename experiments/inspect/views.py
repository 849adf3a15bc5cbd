"""What the tokens of a batch look at: raw attention, rollout and relevance, as numbers on image nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial

import torch
from torch import Tensor

from analysis.maps import patch_grid
from analysis.relevance import (
    Graphs,
    Route,
    capture_with_gradients,
    image_nodes,
    raw,
    relevance,
    rollout,
    route,
)
from attngraph import AttentionGraph, capture
from attngraph.errors import UserError
from experiments.inspect.source import Batch, Source
from experiments.inspect.stacking import unpacked
from experiments.inspect.words import Words, words_of

PLAIN, ADAPTED = "M", "M\u0304"

Maps = dict[tuple[str, str], Tensor]  # (method, query): (b, m)


@dataclass
class View:
    """What a batch's tokens look at.

    Args:
        kinds: the graphs by kind of weights.
        layers: those to show.
        last: the layer that raw attention is read from.
        alone: whether the queries are nodes of the image.
        queries: ``{token: (b,)}``, which query nodes of it they are.
        values: ``{(method, token): (b, m)}``, numbers on all nodes that are seen.
        image: ``(b, m)``, which of these are image nodes.
        grids: of each example's image nodes: rows, columns, and how many come before them.
    """

    kinds: dict[str, Graphs]
    layers: list[str]
    last: str
    alone: bool
    queries: dict[str, Tensor]
    values: Maps
    image: Tensor
    grids: list[tuple[int, int, int]]


def read(source: Source, batch: Batch, tokens: list[str] | None, scored: bool = True) -> View:
    """The maps of a batch: raw attention, rollout, and relevance where the model gives a score.

    That is the logit of the text's next token: at the query itself, or where the answer begins if the query comes
    before; the largest of a classifier's logits; an image's logit for its own text.

    Args:
        tokens: see :func:`experiments.commands.attention.look`.
        scored: False for a model that is known to give no score.
    """
    if batch.pictures.tiled:
        raise UserError(
            f"{source.title} cuts pictures into tiles, whose places are not known here: switch that off in its "
            "preprocessor_config.json (do_image_splitting or crop_to_patches: false)"
        )
    with source.running():
        graphs = unpacked(capture(source.model, batch.inputs), batch.inputs)
    try:
        found = route(graphs)
        image = image_nodes(graphs[found.hops[-1]], 1)
        told = batch.pictures.grids or [None] * len(batch.names)
        grids = [patch_grid(int(nodes.sum()), grid) for nodes, grid in zip(image, told)]
    except ValueError as error:
        raise UserError(f"{source.title}: {error}") from None
    layers, last = _chosen(source.layers, graphs, found)
    parts = [name for name in layers if graphs[name].shape[0] != len(batch.names)]
    if parts:
        raise UserError(
            f"--layers: {parts[0]} sees parts of pictures one by one (windows, tiles), which cannot be shown: choose "
            "others"
        )
    for name in dict.fromkeys((last, *layers)):
        wrong = [head for head in source.heads or () if not 0 <= head < graphs[name].shape[1]]
        if wrong:
            raise UserError(
                f"--heads: {name} has heads 0 to {graphs[name].shape[1] - 1}, not {', '.join(map(str, wrong))}"
            )
    queries, scores = _queries(source, batch, graphs[last], tokens, grids[0][2])

    kinds = {PLAIN: graphs}
    if source.adapters:
        adapted = {name: source.reweighted(name, graph) for name, graph in graphs.items()}
        kinds[ADAPTED] = graphs | {name: graph for name, graph in adapted.items() if graph is not None}
    each, values = torch.arange(len(batch.names)), {}
    for method, compute in (
        ("raw", lambda some: raw(some, last, source.heads)),
        ("rollout", lambda some: rollout(some).seen),
    ):
        for kind, some in kinds.items():
            name, nodes = f"{method} {kind}" if source.adapters else method, compute(some)
            values |= {(name, token): nodes[each, place] for token, place in queries.items()}
    runs: dict[tuple[int, ...], Tensor] = {}
    for token, place in queries.items() if scored else ():
        key = tuple(scores[token].tolist())
        try:
            if key not in runs:
                with source.running():
                    runs[key] = relevance(
                        *capture_with_gradients(
                            source.model, batch.inputs, partial(_score, batch, scores[token])
                        )
                    ).seen
        except _NoScore:
            break
        values["gradient", token] = runs[key][each, place]
    return View(kinds, layers, last, words_of(batch, graphs[last], 0) is None, queries, values, image, grids)


class _NoScore(Exception):
    """The model gives no logits for the tokens of its text, nor for classes."""


def _queries(
    source: Source, batch: Batch, graph: AttentionGraph, tokens: list[str] | None, others: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Which query nodes the tokens are, and at which token of the text each one's score is taken."""
    words, text = words_of(batch, graph, 0), batch.written
    if words is None and image_nodes(graph, 0).any(1).all():  # an image alone
        if others == 0 and graph.kind == "self":  # else the probe of a pooling head looks at the patches
            raise UserError(
                f"{source.title} reads images alone, and no [CLS] node whose view could be drawn comes before the "
                "patches"
            )
        if set(tokens or ()) - {"first"}:
            raise UserError(
                f"--tokens: {source.title} reads images apart from texts; there is only first, its [CLS] node or probe"
            )
        start = {"first": torch.zeros(len(batch.names), dtype=torch.long)}
        return start, start
    if words is None or text is None:
        raise UserError(
            f"{source.title}: the query nodes of its last layer are not the tokens of the text: there is nobody "
            "whose view could be drawn"
        )
    if tokens is None:
        tokens = ["first", *(["answer"] if text.prompt is not None else ["last"] if graph.causal else [])]
    queries = {token: positions(batch.names, words, token, text.prompt, _seeing(graph)) for token in tokens}
    after = (
        queries
        if text.prompt is None
        else {token: torch.maximum(place, words.node(text.prompt - 1)) for token, place in queries.items()}
    )
    return queries, {token: words.place(place) for token, place in after.items()}


def _seeing(graph: AttentionGraph) -> Tensor:
    """Which queries see a node of the image (any node, where none is known to be one), ``(b, n)``."""
    weight, image = graph.weight.sum(1), image_nodes(graph, 1)
    return ((weight > 0) & (image | ~image.any())[:, None]).any(-1).cpu()


def positions(
    names: Sequence[str], words: Words, token: str, prompt: Tensor | None, seeing: Tensor
) -> Tensor:
    """Which node a token is in each example, ``(b,)``.

    Args:
        prompt: where the answers begin, in tokens of the text.
        seeing: ``(b, nodes)``, which nodes see the image: the first token is the first that does.

    Raises:
        UserError: an example has no such token.
    """
    if token == "answer":
        if prompt is None:
            raise UserError(
                "--tokens answer: where this model's answers begin is not known; give numbers of tokens, or last"
            )
        return words.node(prompt - 1)
    found = []
    for k, name in enumerate(names):
        there = (words.there[k] & ~words.padding[k]).nonzero()[:, 0]
        if token == "first":
            there = there[seeing[k][there]]
            if not len(there):
                raise UserError(f"--tokens first: no token of example {name} sees the image")
        number = {"first": 0, "last": len(there) - 1}.get(token)
        number = int(token) if number is None else number
        if number >= len(there):
            told = " ".join(words.tokens[k][there].tolist())
            raise UserError(f"--tokens {token}: example {name} has tokens 0 to {len(there) - 1} only: {told}")
        found.append(there[number])
    return torch.stack(found)


def _score(batch: Batch, place: Tensor, output) -> Tensor:
    """One number per example: see :func:`read`.

    Raises:
        _NoScore: there is none.
    """
    b, pairs, logits = (
        len(batch.names),
        getattr(output, "logits_per_image", None),
        getattr(output, "logits", None),
    )
    if pairs is not None and pairs.shape == (b, b):
        return pairs.diagonal()
    if logits is None or logits.shape[0] != b:
        raise _NoScore
    if logits.dim() == 2:
        return logits.amax(-1)
    text = batch.written
    if text is None or logits.dim() != 3 or logits.shape[1] < text.token_ids.shape[1]:
        raise _NoScore
    before, n = (
        logits.shape[1] - text.token_ids.shape[1],
        text.token_ids.shape[1],
    )  # an image may come before the text
    rows, after = torch.arange(b), (place + 1).clamp(max=n - 1)
    ends = (place + 1 >= n) | text.padding[rows, after]
    there = logits[rows, before + place]
    target = torch.where(
        ends.to(there.device), there.argmax(-1), text.token_ids[rows, after].to(there.device)
    )
    return there[rows, target]


def _chosen(patterns: list[str] | None, graphs: Graphs, found: Route) -> tuple[list[str], str]:
    """The layers to show, and the one that raw attention is read from: the last of them that joins the same nodes as the
    route's first hop, or that hop itself."""
    if patterns is None:
        return [name for name in graphs if name in found.layers or name in found.hops], found.hops[0]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in graphs):
            raise UserError(f"--layers: no layer is called {pattern!r}; there are {', '.join(graphs)}")
    chosen = [name for name in graphs if any(fnmatchcase(name, pattern) for pattern in patterns)]
    kind = graphs[found.hops[0]].kind
    alike = [name for name in chosen if name in found.layers and graphs[name].kind == kind]
    return chosen, alike[-1] if alike else found.hops[0]
