"""What the tokens of a batch look at: raw attention, rollout and relevance, as numbers on image nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from attngraph import AttentionGraph
from attngraph.errors import UserError
from experiments.inspect.source import Source
from experiments.inspect.words import Words, words_of
from experiments.models.batch import Batch

PLAIN, ADAPTED = "M", "M\u0304"

Maps = dict[tuple[str, str], Tensor]  # (method, query): (b, m)


@dataclass
class View:
    """What a batch's tokens look at.

    Args:
        kinds: the graphs by kind of weights.
        layers: those to show.
        last: the layer that raw attention is read from.
        looker: which node of the image the query is; empty where queries are tokens of a text.
        queries: ``{token: (b,)}``, which query nodes of it they are.
        values: ``{(method, token): (b, m)}``, numbers on all nodes that are seen.
        image: ``(b, m)``, which of these are image nodes.
        grids: of each example's image nodes: rows, columns, and how many come before them.
    """

    kinds: dict[str, Graphs]
    layers: list[str]
    last: str
    looker: str
    queries: dict[str, Tensor]
    values: Maps
    image: Tensor
    grids: list[tuple[int, int, int]]


class NoScore(Exception):
    """The model gives no logits for the tokens of its text, nor for classes."""


def read_view(source: Source, batch: Batch, tokens: list[str] | None, scored: bool = True) -> View:
    """The maps of a batch: raw attention, rollout, and relevance where the model gives a score.

    That is the logit of the text's next token: at the query itself, or where the answer begins if the query
    comes before; the largest of a classifier's logits; an image's logit for its own text.

    Args:
        source: the model.
        batch: of its samples.
        tokens: see :func:`experiments.inspect.attention_maps.collect_maps`.
        scored: False for a model that is known to give no score.

    Raises:
        UserError: there are no maps of this model, or not of these layers, heads or tokens.
    """
    if batch.pictures.tiled:
        raise UserError(
            f"{source.title} cuts pictures into tiles, whose places are not known here: switch that off in "
            "its preprocessor_config.json (do_image_splitting or crop_to_patches: false)"
        )
    graphs = source.read(batch)
    try:
        path = route(graphs)
        image = image_nodes(graphs[path.hops[-1]], 1)
        known = batch.pictures.grids or [None] * len(batch.names)
        grids = [patch_grid(int(nodes.sum()), grid) for nodes, grid in zip(image, known)]
    except ValueError as error:
        raise UserError(f"{source.title}: {error}") from None
    layers, last = _chosen(source.layers, graphs, path)
    _check_layers(source, graphs, (last, *layers), len(batch.names))
    queries, scored_at = _queries(source, batch, graphs[last], tokens, grids[0][2])

    kinds = {PLAIN: graphs}
    if source.adapters:
        adapted = {name: source.reweighted(name, graph) for name, graph in graphs.items()}
        kinds[ADAPTED] = graphs | {name: graph for name, graph in adapted.items() if graph is not None}
    values = _attention(source, kinds, last, queries)
    if scored:
        values |= _relevance(source, batch, queries, scored_at)
    looker = "" if words_of(batch, graphs[last], 0) else _looker(source, graphs[last], grids[0][2])
    return View(kinds, layers, last, looker, queries, values, image, grids)


def _check_layers(source: Source, graphs: Graphs, layers: Sequence[str], samples: int) -> None:
    """Refuse layers that see parts of pictures, or that lack the chosen heads."""
    parts = [name for name in layers[1:] if graphs[name].shape[0] != samples]
    if parts:
        raise UserError(
            f"--layers: {parts[0]} sees parts of pictures one by one (windows, tiles), which cannot be "
            "shown: choose others"
        )
    for name in dict.fromkeys(layers):
        heads = graphs[name].shape[1]
        wrong = [head for head in source.heads or () if not 0 <= head < heads]
        if wrong:
            raise UserError(
                f"--heads: {name} has heads 0 to {heads - 1}, not {', '.join(map(str, wrong))}: give others"
            )


def _attention(source: Source, kinds: Mapping[str, Graphs], last: str, queries: Mapping[str, Tensor]) -> Maps:
    """Raw attention and rollout of each kind of weights."""
    values = {}
    for method in ("raw", "rollout"):
        for kind, graphs in kinds.items():
            name = f"{method} {kind}" if source.adapters else method
            seen = raw(graphs, last, source.heads) if method == "raw" else rollout(graphs).seen
            values |= {(name, token): _rows(seen, place) for token, place in queries.items()}
    return values


def _relevance(
    source: Source, batch: Batch, queries: Mapping[str, Tensor], scored_at: Mapping[str, Tensor]
) -> Maps:
    """Gradient-weighted relevance; empty where the model gives no score."""
    values, runs = {}, {}
    for token, place in queries.items():
        key = tuple(scored_at[token].tolist())
        try:
            if key not in runs:  # tokens with the same score share the pass
                score = partial(score_at, batch, scored_at[token])
                with source.reading(batch):
                    runs[key] = relevance(*capture_with_gradients(source.model, batch.inputs, score)).seen
        except NoScore:
            break
        values["gradient", token] = _rows(runs[key], place)
    return values


def _rows(seen: Tensor, place: Tensor) -> Tensor:
    """Each example's row of one query node, ``(b, m)``."""
    return seen[torch.arange(len(seen)), place]


def _queries(
    source: Source, batch: Batch, graph: AttentionGraph, tokens: list[str] | None, others: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Which query nodes the tokens are, and at which token of the text each one's score is taken."""
    words, text = words_of(batch, graph, 0), batch.written
    if words is None and image_nodes(graph, 0).any(1).all():  # an image alone
        looker = _looker(source, graph, others)
        if set(tokens or ()) - {"first"}:
            raise UserError(
                f"--tokens: {source.title} reads images apart from texts; there is only first, {looker}"
            )
        start = {"first": torch.zeros(len(batch.names), dtype=torch.long)}
        return start, start
    if words is None or text is None:
        raise UserError(
            f"{source.title}: the query nodes of its last layer are not the tokens of the text: there is "
            "nobody whose view could be drawn"
        )
    if tokens is None:
        tokens = ["first", *(["answer"] if text.prompt is not None else ["last"] if graph.causal else [])]
    queries = {token: positions(batch.names, words, token, text.prompt, _seeing(graph)) for token in tokens}
    after = queries
    if text.prompt is not None:
        start = words.node(text.prompt - 1)
        after = {token: torch.maximum(place, start) for token, place in queries.items()}
    return queries, {token: words.place(place) for token, place in after.items()}


def _looker(source: Source, graph: AttentionGraph, others: int) -> str:
    """Which node of an image that is read alone looks at the patches: its first."""
    if graph.kind == "self" and others:
        return "the image's [CLS] node"
    if graph.kind == "cross" and graph.shape[2] == 1:
        return "the probe of the image's pooling head"
    raise UserError(
        f"{source.title} reads images alone, and neither a [CLS] node comes before the patches nor a probe "
        "looks at them: there is nobody whose view could be drawn"
    )


def _seeing(graph: AttentionGraph) -> Tensor:
    """Which queries see a node of the image (any node, where none is known to be one), ``(b, n)``."""
    weight, image = graph.weight.sum(1), image_nodes(graph, 1)
    return ((weight > 0) & (image | ~image.any())[:, None]).any(-1).cpu()


def positions(
    names: Sequence[str], words: Words, token: str, prompt: Tensor | None, seeing: Tensor
) -> Tensor:
    """Which node a token is in each example, ``(b,)``.

    Args:
        names: of the examples.
        words: what the nodes are.
        token: ``first``, ``answer``, ``last`` or a number.
        prompt: where the answers begin, in tokens of the text.
        seeing: ``(b, nodes)``, which nodes see the image: the first token is the first that does.

    Raises:
        UserError: an example has no such token.
    """
    if token == "answer":
        if prompt is None:
            raise UserError(
                "--tokens answer: where this model's answers begin is not known; give numbers of tokens, or "
                "last"
            )
        return words.node(prompt - 1)
    nodes = []
    for k, name in enumerate(names):
        tokens = (words.is_token[k] & ~words.padding[k]).nonzero()[:, 0]
        if token == "first":
            tokens = tokens[seeing[k][tokens]]
            if not len(tokens):
                raise UserError(f"--tokens first: no token of example {name} sees the image")
        number = {"first": 0, "last": len(tokens) - 1}.get(token)
        number = int(token) if number is None else number
        if number >= len(tokens):
            text = " ".join(words.tokens[k][tokens].tolist())
            raise UserError(
                f"--tokens {token}: example {name} has tokens 0 to {len(tokens) - 1} only: {text}"
            )
        nodes.append(tokens[number])
    return torch.stack(nodes)


def score_at(batch: Batch, place: Tensor, output) -> Tensor:
    """One number per example: see :func:`read_view`.

    Args:
        batch: the samples.
        place: ``(b,)``, the token of the written text whose next token is scored.
        output: of the model.

    Raises:
        NoScore: there is none.
    """
    b = len(batch.names)
    pairs, logits = getattr(output, "logits_per_image", None), getattr(output, "logits", None)
    if pairs is not None and pairs.shape == (b, b):
        return pairs.diagonal()
    if logits is None or logits.shape[0] != b:
        raise NoScore
    if logits.dim() == 2:
        return logits.amax(-1)
    text = batch.written
    if text is None or logits.dim() != 3 or logits.shape[1] < text.token_ids.shape[1]:
        raise NoScore
    n = text.token_ids.shape[1]
    before = logits.shape[1] - n  # an image may come before the text
    rows, after = torch.arange(b), (place + 1).clamp(max=n - 1)
    ends = (place + 1 >= n) | text.padding[rows, after]
    at_place = logits[rows, before + place]
    device = at_place.device
    target = torch.where(ends.to(device), at_place.argmax(-1), text.token_ids[rows, after].to(device))
    return at_place[rows, target]


def _chosen(patterns: list[str] | None, graphs: Graphs, path: Route) -> tuple[list[str], str]:
    """The layers to show, and the one that raw attention is read from: the last of them that joins the same
    nodes as the route's first hop, or that hop itself."""
    if patterns is None:
        return [name for name in graphs if name in path.layers or name in path.hops], path.hops[0]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in graphs):
            raise UserError(f"--layers: no layer is called {pattern!r}; choose from {', '.join(graphs)}")
    chosen = [name for name in graphs if any(fnmatchcase(name, pattern) for pattern in patterns)]
    kind = graphs[path.hops[0]].kind
    alike = [name for name in chosen if name in path.layers and graphs[name].kind == kind]
    return chosen, alike[-1] if alike else path.hops[0]
