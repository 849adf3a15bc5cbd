"""Raw attention, rollout and relevance maps over images, and their mass inside the object of a question."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from attngraph import AttentionGraph
from attngraph.analysis.patches import map_changes, map_table, mass_table, patch_grid
from attngraph.analysis.plots.overlays import draw_maps
from attngraph.analysis.relevance import (
    Graphs,
    Route,
    capture_with_gradients,
    image_nodes,
    raw,
    relevance,
    rollout,
    route,
    valid_nodes,
)
from attngraph.analysis.viewer import Nodes, ViewerExample, cells_of
from attngraph.errors import UserError
from attngraph.experiments.inspect.regions import region
from attngraph.experiments.inspect.source import Source
from attngraph.experiments.inspect.words import Words, in_decoder, words_of
from attngraph.experiments.models.batch import Batch, Sample
from attngraph.experiments.scenes.facts import unique
from attngraph.experiments.scenes.scene import Thing

PLAIN, ADAPTED = "M", "M\u0304"

# What is asked for, what the object is called by, and the question.
QUESTIONS = {"color": ("shape", "what color is the {}?"), "shape": ("color", "what shape is the {}?")}
QUERY_TITLES = {
    "first": "the first token that sees the image",
    "answer": "the token before the answer",
    "last": "the last token",
}


def ask(samples: Sequence[Sample], seed: int) -> tuple[list[Sample], dict[str, Thing]]:
    """Questions about one object in each scene with an object that differs from all others: samples with
    question and answer, and ``{sample's name: object}``.

    Raises:
        UserError: no scene has such an object.
    """
    rng, asked, things = random.Random(seed), [], {}
    for sample in samples:
        choices = [
            (attribute, thing, words)
            for attribute, (named, _) in QUESTIONS.items()
            for thing, words in unique(sample.scene, named)
        ]
        if choices:
            attribute, thing, words = rng.choice(choices)
            question = QUESTIONS[attribute][1].format(words.one())
            asked.append(replace(sample, prompt=question, answer=getattr(thing, attribute)))
            things[sample.name] = thing
    if not asked:
        raise UserError("no scene has an object that differs from all others: use more --examples")
    return asked, things


@dataclass
class AttentionMaps:
    """Maps and masses. The mass is over all samples; maps, regions and shown are for the first ones only.

    Args:
        maps, mass: tables, see :mod:`attngraph.analysis.patches`.
        regions: ``{name: bool (patches,)}``, patches of the object of the question.
        shown: ``{name: input of the viewer}``.
        last: the layer that raw attention is read from.
        looker: name of the query node if it is a node of the image; empty if queries are tokens of a text.
    """

    maps: pd.DataFrame = field(default_factory=pd.DataFrame)
    mass: pd.DataFrame = field(default_factory=pd.DataFrame)
    regions: dict[str, Tensor] = field(default_factory=dict)
    shown: dict[str, ViewerExample] = field(default_factory=dict)
    last: str = ""
    looker: str = ""


def collect_maps(
    source: Source, tokens: list[str] | None, things: Mapping[str, Thing], pictures: int
) -> AttentionMaps:
    """Maps of all samples of a source, one per method and token, and their mass inside ``things``.

    Args:
        source: a model and its samples.
        tokens: tokens of the maps; None for the first, and the one before the answer if it is known, or else
            a decoder's last.
        things: ``{sample's name: object}``.
        pictures: number of samples to plot.
    """
    result, tables, masses = AttentionMaps(), [], []
    for batch in source.batches("reading maps"):
        if batch.pictures is None:
            raise UserError("attention maps need images: use --images, and a model with image input")
        view = read_view(source, batch, tokens)
        result.last, result.looker = view.last, view.looker
        for k, name in enumerate(batch.names):
            values = {key: nodes[k][view.image[k]][None] for key, nodes in view.values.items()}
            grid = view.grids[k][:2]
            inside = None
            if name in things and batch.pictures.whole and grid[0] == grid[1]:
                inside = region(batch.scenes[k], things[name], grid[0])
                masses.append(mass_table(values, inside[None].to(source.device), [name], grid))
            if len(result.shown) < pictures:
                tables.append(map_table(values, [name], grid))
                result.shown[name] = viewer_example(name, batch, view, k)
                if inside is not None:
                    result.regions[name] = inside
        if not masses and len(result.shown) == pictures:
            break
    result.maps = pd.concat(tables, ignore_index=True)
    if masses:
        result.mass = pd.concat(masses, ignore_index=True)
    return result


# ---- what the tokens of a batch look at -------------------------------------------------------------------


@dataclass
class View:
    """Maps of a batch's tokens.

    Args:
        kinds: the graphs by kind of weights.
        layers: layers of the viewer.
        last: the layer that raw attention is read from.
        looker: name of the query node if it is a node of the image; empty if queries are tokens of a text.
        queries: ``{token: (b,)}``, query nodes of the tokens.
        values: ``{(method, token): (b, m)}``, numbers for all value nodes.
        image: ``(b, m)``, whether these are image nodes.
        grids: for each example's image nodes: rows, columns, and the number of nodes before them.
    """

    kinds: dict[str, Graphs]
    layers: list[str]
    last: str
    looker: str
    queries: dict[str, Tensor]
    values: dict[tuple[str, str], Tensor]
    image: Tensor
    grids: list[tuple[int, int, int]]


class NoScore(Exception):
    """The model has no logits for the tokens of its text or for classes."""


def read_view(source: Source, batch: Batch, tokens: list[str] | None) -> View:
    """The maps of a batch: raw attention and, unless graphs are streamed, rollout, and relevance if the model
    has a score.

    The score is the logit of the text's next token (at the query itself, or at the beginning of the answer if
    the query comes before it), the largest of a classifier's logits, or an image's logit for its text.

    Raises:
        UserError: maps are not available for this model, or for these layers, heads or tokens.
    """
    if batch.pictures.tiled:
        raise UserError(
            f"{source.title} cuts images into tiles of unknown position: switch this off in the model's "
            "preprocessor_config.json (do_image_splitting or crop_to_patches: false)"
        )
    graphs = source.read(batch)
    try:
        path = route(graphs)
        image = image_nodes(graphs[path.hops[-1]], 1)
        known = batch.pictures.grids or [None] * len(batch.names)
        grids = [patch_grid(int(nodes.sum()), grid) for nodes, grid in zip(image, known)]
    except ValueError as error:
        raise UserError(f"{source.title}: {error}") from None
    layers, last = _chosen(source, graphs, path, len(batch.names))
    queries, scored_at, looker = _queries(source, batch, graphs[last], tokens, grids[0][2])

    kinds = {PLAIN: graphs}
    if source.adapters:
        adapted = {name: source.reweighted(name, graph) for name, graph in graphs.items()}
        kinds[ADAPTED] = graphs | {name: graph for name, graph in adapted.items() if graph is not None}
    examples, values = torch.arange(len(batch.names)), {}

    def keep(method: str, kind: str, of_query: Callable[[Tensor], Tensor]) -> None:
        name = f"{method} {kind}" if source.adapters else method
        values.update({(name, token): of_query(place) for token, place in queries.items()})

    for kind, weights in kinds.items():
        keep("raw", kind, partial(raw, weights, last, source.heads))
    if not source.stream:
        for kind, weights in kinds.items():
            seen = rollout(weights).seen
            keep("rollout", kind, lambda place, seen=seen: seen[examples, place])
        for token, nodes in _relevance(source, batch, scored_at).items():
            values["gradient", token] = nodes[examples, queries[token]]
    return View(kinds, layers, last, looker, queries, values, image, grids)


def _chosen(source: Source, graphs: Graphs, path: Route, samples: int) -> tuple[list[str], str]:
    """The layers of the viewer, and the layer that raw attention is read from: the last of them with the same
    nodes as the route's first hop, or that hop itself.

    Raises:
        UserError: there are no such layers, or they attend within parts of images, or lack the chosen heads.
    """
    last = path.hops[0]
    if source.layers is None:
        chosen = [name for name in graphs if name in path.layers or name in path.hops]
    else:
        matching = {
            pattern: [name for name in graphs if fnmatchcase(name, pattern)] for pattern in source.layers
        }
        for pattern, names in matching.items():
            if not names:
                raise UserError(f"--layers: no layer is called {pattern!r}; choose from {', '.join(graphs)}")
        chosen = [name for name in graphs if any(name in names for names in matching.values())]
        alike = [name for name in chosen if name in path.layers and graphs[name].kind == graphs[last].kind]
        last = alike[-1] if alike else last
    for name in (last, *chosen):
        if graphs[name].shape[0] != samples:
            raise UserError(
                f"--layers: {name} attends within parts of images (windows, tiles), which cannot be "
                "shown: choose others"
            )
        heads = graphs[name].shape[1]
        if not all(0 <= head < heads for head in source.heads or ()):
            raise UserError(f"--heads: {name} has heads 0 to {heads - 1}: use these")
    return chosen, last


def _relevance(source: Source, batch: Batch, scored_at: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gradient-weighted relevance of all nodes for each token's score; empty if the model has no score."""
    found, runs = {}, {}
    for token, place in scored_at.items():
        key = tuple(place.tolist())
        with source.reading():
            try:
                if key not in runs:  # tokens with the same score share the pass
                    score = partial(score_at, batch, place)
                    runs[key] = relevance(*capture_with_gradients(source.model, batch.inputs, score)).seen
            except NoScore:
                return {}
        found[token] = runs[key]
    return found


def _queries(
    source: Source, batch: Batch, graph: AttentionGraph, tokens: list[str] | None, others: int
) -> tuple[dict[str, Tensor], dict[str, Tensor], str]:
    """The query nodes of the tokens, the token of the text at which each one's score is computed, and the
    name of their node of the image, if any.
    """
    words, text = words_of(batch, graph, 0), batch.written
    if words is None and image_nodes(graph, 0).any(1).all():  # an image alone
        looker = _looker(source, graph, others)
        if set(tokens or ()) - {"first"}:
            raise UserError(
                f"--tokens: {source.title} encodes images separately from texts; use first ({looker})"
            )
        start = {"first": torch.zeros(len(batch.names), dtype=torch.long)}
        return start, start, looker
    if words is None or text is None:
        raise UserError(
            f"{source.title}: the query nodes of its last layer are not the tokens of the text: this model "
            "has no query token to plot a map for, choose another --model"
        )
    if tokens is None:
        tokens = ["first", *(["answer"] if text.prompt is not None else ["last"] if graph.causal else [])]
    image = image_nodes(graph, 1)
    image = image | ~image.any()  # any node, where none is known to be one of the image
    seeing = torch.cat(
        [((strip.sum(1) > 0) & image[:, None]).any(-1) for _, strip in graph.strips()], 1
    ).cpu()
    queries = {token: positions(batch.names, words, token, text.prompt, seeing) for token in tokens}
    after = queries
    if text.prompt is not None:
        start = words.node(text.prompt - 1)
        after = {token: torch.maximum(place, start) for token, place in queries.items()}
    return queries, {token: words.place(place) for token, place in after.items()}, ""


def _looker(source: Source, graph: AttentionGraph, others: int) -> str:
    """Name of the query node of an image that is encoded without text: its first node."""
    if graph.kind == "self" and others:
        return "the image's [CLS] node"
    if graph.kind == "cross" and graph.shape[2] == 1:
        return "the probe of the image's pooling head"
    raise UserError(
        f"{source.title} encodes images without text, and has neither a [CLS] node nor an attention pooling "
        "head: it has no query to plot a map for, choose another --model"
    )


def positions(
    names: Sequence[str], words: Words, token: str, prompt: Tensor | None, seeing: Tensor
) -> Tensor:
    """The node of a token (``first``, ``answer``, ``last`` or a number) in each example, ``(b,)``.

    Args:
        names: names of the examples.
        words: the words of the nodes.
        token: the token.
        prompt: number of tokens of the text before the answer.
        seeing: ``(b, nodes)``, whether a node attends to the image: the first token is the first that does.

    Raises:
        UserError: an example has no such token.
    """
    if token == "answer":
        if prompt is None:
            raise UserError(
                "--tokens answer: the position of this model's answers is unknown; use indices of tokens, or "
                "last"
            )
        return words.node(prompt - 1)
    nodes = []
    for k, name in enumerate(names):
        tokens = (words.is_token[k] & ~words.padding[k]).nonzero()[:, 0]
        if token == "first":
            tokens = tokens[seeing[k][tokens]]
            if not len(tokens):
                raise UserError(f"--tokens first: no token of example {name} sees the image: use others")
        number = {"first": 0, "last": len(tokens) - 1}.get(token)
        number = int(token) if number is None else number
        if number >= len(tokens):
            text = " ".join(words.tokens[k][tokens].tolist())
            raise UserError(
                f"--tokens {token}: example {name} has only tokens 0 to {len(tokens) - 1}: {text}"
            )
        nodes.append(tokens[number])
    return torch.stack(nodes)


def score_at(batch: Batch, place: Tensor, output) -> Tensor:
    """The score of each example, see :func:`read_view`: ``place`` ``(b,)`` is the token of the generated text
    whose next token is scored.

    Raises:
        NoScore: the model's ``output`` does not have a score.
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


# ---- samples as the viewer shows them ---------------------------------------------------------------------


def viewer_example(name: str, batch: Batch, view: View, k: int) -> ViewerExample:
    """Sample ``k`` of a batch for the viewer. If an encoder also reads a text, an arrow separates its tokens
    from those of the decoder (``[CLS] what color ... [SEP] → [CLS] red [SEP]``).
    """
    graphs = view.kinds[PLAIN]
    rows, columns, _ = view.grids[k]
    nodes = {layer: tuple(_nodes(batch, graphs[layer], side, k) for side in (0, 1)) for layer in view.layers}
    cells, others = cells_of(nodes, (rows, columns))
    picked = int(list(view.queries.values())[-1][k])
    asking = cells[view.last][0] if view.last in cells else None
    start = {layer: picked for layer in view.layers if cells[layer][0] == asking}
    kinds = {
        kind: {layer: of_kind[layer][k] for layer in view.layers} for kind, of_kind in view.kinds.items()
    }
    words = words_of(batch, graphs[view.last], 0)
    if words is not None:
        tokens = list(words.tokens[k][(words.is_token[k] & ~words.padding[k]).numpy()])
        if batch.text is not None and in_decoder(batch, graphs[view.last], 0):
            read = zip(batch.text.tokens[k], batch.text.padding[k].tolist())
            tokens = [*(token for token, pad in read if not pad), "→", *tokens]
        name = f"{name}: {' '.join(tokens)}"
    return ViewerExample(name, kinds, cells, batch.pictures.images[k], (rows, columns), others, start)


def _nodes(batch: Batch, graph: AttentionGraph, side: int, k: int) -> Nodes:
    """The nodes of a side that represent parts of an image, and names of the others."""
    words, valid = words_of(batch, graph, side), valid_nodes(graph, side)[k].tolist()
    names: list[str | None] = [f"node {node}" if real else None for node, real in enumerate(valid)]
    if words is not None:
        shown = [real and not pad for real, pad in zip(valid, words.padding[k].tolist())]
        names = [words.tokens[k, node] if real else None for node, real in enumerate(shown)]
    return image_nodes(graph, side)[k].tolist(), names


# ---- figures and tables -----------------------------------------------------------------------------------


def draw_queries(result: AttentionMaps, model: str, out: Path) -> list[str]:
    """A figure for each query token in a folder, and with adapters one of M̄ − M; returns their names."""
    written = []
    pictures = {name: (shown.image, _text_of(shown.name) or name) for name, shown in result.shown.items()}
    for query, table in result.maps.groupby("query", sort=False):
        looker = result.looker or QUERY_TITLES.get(query, f"token {query}")
        changes = map_changes(table, PLAIN, ADAPTED)
        plain = table[~table["method"].str.endswith(ADAPTED)]
        for stem, maps in ((f"maps_{query}", plain), (f"changes_{query}", changes)):
            if len(maps):
                subject = f"{model}: where {looker} attends."
                draw_maps(maps, pictures, out / stem, subject, result.regions, changes=maps is changes)
                written.append(f"{stem}.png")
    return written


def _text_of(name: str) -> str:
    """The words of a sample's name in the viewer, without [CLS], <s> and other special tokens."""
    return re.sub(r"(\[[A-Z]+\]|<[^> ]+>) ?", "", name.partition(": ")[2]).strip()
