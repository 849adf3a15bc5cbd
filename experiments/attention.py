"""Draw where a model looks: attention, rollout and gradient-weighted relevance, over the pictures.

    attngraph attention                                                  # mini-BLIP on drawn scenes
    attngraph attention --adapter runs/ablation/cells/pgnn/vqa/seed0     # M beside the adapter's own weights
    attngraph attention --images photos --tokens first answer 4
    attngraph attention --data scenes --task vqa --layers '*layer.0*' --heads 1

Unless images, texts or a task are given, the texts are questions about one object of each scene. Where it is, is known,
and it is measured how much of each map lies inside. Written are maps_*.png, maps.csv and viewer.html, and mass.csv,
summary.csv and mass.png where something was measured. Gradients of all layers are held at once: for large models make
--batch small.

Covered are models whose text looks at an image by cross-attention: BLIP captioners and encoder-decoders such as
VisionEncoderDecoder. Models that read image and text as one sequence (LLaVA, ViLT) or apart (CLIP) are not.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from unicodedata import combining

import pandas as pd
import torch
from torch import Tensor

from analysis.maps import map_table, mass_summary, mass_table, patch_grid
from analysis.plots.maps import draw_maps, draw_mass
from analysis.relevance import Graphs, Stack, capture_with_gradients, raw, relevance, rollout, stack
from analysis.viewer import Shown, one_example, write_viewer
from attngraph import capture
from attngraph.errors import UserError
from experiments.data.facts import unique
from experiments.data.patches import patch_targets
from experiments.data.scenes import Scene, Thing
from experiments.encoders import Item
from experiments.source import Batch, Source, add_source_arguments, open_source
from experiments.words import Text, words_of, written

ASKED = "questions about one object"
QUESTIONS = {"color": ("shape", "what color is the {}?"), "shape": ("color", "what shape is the {}?")}
PLAIN, ADAPTED = "M", "M\u0304"

Maps = dict[tuple[str, str], Tensor]  # (method, query): (b, m)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_source_arguments(parser)
    parser.set_defaults(task=ASKED, examples=256, batch=8)
    parser.add_argument("--tokens", nargs="+", metavar="TOKEN",
                        help="whose maps: first, answer (the token from which the answer's first token is predicted), "
                             "or numbers of tokens, from 0 (default: first, and answer where it is known)")
    parser.add_argument("--pictures", type=int, default=4, help="examples to draw (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/attention"),
                        help="folder for the results (default: %(default)s)")
    parser.epilog = ("Covered are models whose text looks at an image by cross-attention: BLIP captioners and "
                     "encoder-decoders such as VisionEncoderDecoder. Models that read image and text as one sequence (LLaVA, "
                     "ViLT) or apart (CLIP) are not. Where a model gives no logits for its text, there is no gradient map.")


def run(args: argparse.Namespace) -> int:
    if args.pictures < 1:
        raise UserError(f"--pictures must be at least 1, got {args.pictures}")
    for token in args.tokens or ():
        if token not in ("first", "answer") and not token.isdecimal():
            raise UserError(f"--tokens {token}: give first, answer, or the number of a token, from 0")
    asked = args.task == ASKED
    source = open_source(argparse.Namespace(**vars(args) | {"task": "caption"}) if asked else args)
    things: dict[str, Thing] = {}
    if asked and all(item.scene is not None for item in source.items):
        source.items, things = ask(source.items, args.seed)
    found = look(source, None if args.tokens is None else list(dict.fromkeys(args.tokens)), things, args.pictures)

    model = f"{source.title} with adapters" if source.adapters else source.title
    args.out.mkdir(parents=True, exist_ok=True)
    written = ["maps.csv", "viewer.html"]
    found.maps.to_csv(args.out / "maps.csv", index=False)
    title = f"Attention graphs of {model}"
    write_viewer(args.out / "viewer.html", found.shown, title, found.layers, source.heads)
    pictures = {name: (shown.image, " ".join(shown.tokens)) for name, shown in zip(found.names, found.shown)}
    for query, table in found.maps.groupby("query", sort=False):
        written.append(f"maps_{query}.png")
        title = f"{model}: where {_called(query)} looks"
        draw_maps(table, pictures, args.out / written[-1], title, found.regions)
    if len(found.mass):
        summary = mass_summary(found.mass, seed=args.seed)
        found.mass.to_csv(args.out / "mass.csv", index=False)
        summary.to_csv(args.out / "summary.csv", index=False)
        draw_mass(summary, args.out / "mass.png", f"{model}: relevance inside the asked object")
        written += ["mass.csv", "summary.csv", "mass.png"]
        print(told(summary))
    if not found.scored:
        print(f"no gradient map: {source.title} gives no logits for the tokens of its text")
    if source.skipped:
        print(f"{len(source.skipped)} of {len(source)} images cannot be read and were left out")
    print(f"written: {args.out}/{', '.join(written)}")
    return 0


def ask(items: list[Item], seed: int) -> tuple[list[Item], dict[str, Thing]]:
    """Questions about one thing in each scene that shows one unlike the others, and that thing by the item's name."""
    rng, asked, things = random.Random(seed), [], {}
    for item in items:
        found = [(attribute, thing, words) for attribute, (named, _) in QUESTIONS.items()
                 for thing, words in unique(item.scene, named)]
        if found:
            attribute, thing, words = rng.choice(found)
            question = QUESTIONS[attribute][1].format(words.one())
            asked.append(replace(item, prompt=question, text=getattr(thing, attribute)))
            things[item.name] = thing
    if not asked:
        raise UserError("no scene shows a thing unlike the others that one could ask about: raise --examples")
    return asked, things


def region(scene: Scene, thing: Thing, side: int) -> Tensor:
    """Which patches show a thing, bool ``(patches,)``."""
    return torch.from_numpy(patch_targets(replace(scene, things=(thing,)), side)[0] > 0)


@dataclass
class Looked:
    """What was found. The mass is that of all examples; names, maps, regions and shown are of the first ones only.

    Args:
        layers: the chosen layers of the decoder.
        names: of examples.
        maps, mass: see :mod:`analysis.maps`.
        regions: ``{example: bool (patches,)}``, where the thing is that was asked for.
        shown: what the viewer gets.
        scored: whether the model gives logits for its text, of which relevance takes the gradient.
    """

    layers: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    maps: pd.DataFrame = field(default_factory=pd.DataFrame)
    mass: pd.DataFrame = field(default_factory=pd.DataFrame)
    regions: dict[str, Tensor] = field(default_factory=dict)
    shown: list[Shown] = field(default_factory=list)
    scored: bool = True


def look(source: Source, tokens: list[str] | None, things: Mapping[str, Thing], pictures: int) -> Looked:
    """Maps of all examples of a source, one per method and token, and their mass inside ``things``.

    Args:
        tokens: None for the first, and the one before the answer where that is known.
    """
    found, maps, masses, many = Looked(), [], [], Counter()
    for adapter in source.adapters.values():
        if adapter.backend == "tiled":  # the numbers are the same, but tiles never hold the weights to differentiate
            adapter.backend = "dense"
    for batch in source.batches():
        text = written(batch)
        if batch.images is None or text is None:
            raise UserError("attention maps need images and texts: give both, and a model that reads both")
        tokens = tokens or (["first"] if text.prompt is None else ["first", "answer"])
        queries = {token: positions(batch.names, text, token) for token in tokens}
        kinds, layers, values = read(source, batch, text, queries, found.scored)
        found.layers, found.scored = layers, any(method == "gradient" for method, _ in values)
        names = [_numbered(name, many) for name in batch.names]
        some = min(len(names), pictures - len(found.names))
        measured = bool(things) and batch.patches is not None
        if measured:
            inside = torch.stack([region(scene, things[name], batch.grid[0])
                                  for scene, name in zip(batch.scenes, batch.names)])
            masses.append(mass_table(values, inside.to(source.device), names, batch.grid))
            found.regions |= dict(zip(names[:some], inside))
        if some:
            maps.append(map_table({key: nodes[:some] for key, nodes in values.items()}, names[:some], batch.grid))
        found.names += names[:some]
        for k in range(some):
            graphs = {kind: one_example(graphs, k) for kind, graphs in kinds.items()}
            words = _words(text, k)
            found.shown.append(Shown(f"{names[k]}: {' '.join(words)}", words, graphs, batch.images[k],
                                     int(queries[tokens[-1]][k]), batch.grid))
        if not measured and len(found.names) == pictures:
            break
    found.maps = pd.concat(maps, ignore_index=True)
    if masses:
        found.mass = pd.concat(masses, ignore_index=True)
    return found


def read(source: Source, batch: Batch, text: Text, queries: Mapping[str, Tensor],
         scored: bool = True) -> tuple[dict[str, Graphs], list[str], Maps]:
    """What a batch's tokens look at.

    Relevance is that for the logit of the text's next token: at the query itself, or where the answer begins if the
    query comes before. There is none where the model gives no logits for its text.

    Args:
        text: that the model writes.
        queries: ``{token: (b,)}``, where it stands.
        scored: False for a model that is known to give no logits.

    Returns:
        The graphs by kind of weights, the chosen layers of the decoder, and the maps.
    """
    each = torch.arange(len(batch.names))
    graphs, gradient = None, {}
    if scored:
        try:
            graphs, gradient = _gradients(source, batch, text, queries)
        except _NoLogits:
            pass
    if graphs is None:
        with source.running():
            graphs = capture(source.model, batch.inputs)
    layers = _stack(source, batch, text, graphs)
    chosen = _chosen(source.layers, layers.decoder)
    cross = [name for name in chosen if name in layers.cross]
    if not cross:
        raise UserError(f"--layers: no cross-attention layer among them; there are {', '.join(layers.cross)}")
    kinds = {PLAIN: graphs}
    if source.adapters:
        adapted = {name: source.reweighted(name, graph) for name, graph in graphs.items()}
        kinds[ADAPTED] = graphs | {name: graph for name, graph in adapted.items() if graph is not None}
    values: Maps = {}
    for method, compute in (("raw", lambda some: raw(some, cross[-1], source.heads)),
                            ("rollout", lambda some: rollout(some).encoder)):
        for kind, some in kinds.items():
            name, nodes = f"{method} {kind}" if source.adapters else method, compute(some)
            values |= {(name, token): nodes[each, place] for token, place in queries.items()}
    return kinds, chosen, values | gradient


class _NoLogits(Exception):
    """The model gives no logits for the tokens of its text."""


def _gradients(source: Source, batch: Batch, text: Text, queries: Mapping[str, Tensor]) -> tuple[Graphs, Maps]:
    """The graphs, and the maps of relevance."""
    each = torch.arange(len(batch.names))
    found: Maps = {}
    runs: dict[tuple[int, ...], tuple] = {}
    for token, place in queries.items():
        scored = place if text.prompt is None else torch.maximum(place, text.prompt - 1)
        key = tuple(scored.tolist())
        if key not in runs:
            with source.running():
                runs[key] = capture_with_gradients(source.model, batch.inputs, partial(_logit, text, scored))
        graphs = runs[key][0]
        _stack(source, batch, text, graphs)
        found["gradient", token] = relevance(*runs[key]).encoder[each, place]
    return graphs, found


def positions(names: Sequence[str], text: Text, token: str) -> Tensor:
    """Where a token stands in each example's text, ``(b,)``.

    Raises:
        UserError: an example has no such token.
    """
    if token == "answer":
        if text.prompt is None:
            raise UserError("--tokens answer: where this model's answers begin is not known; give numbers of tokens")
        return text.prompt - 1
    there = ~text.padding
    first, number = there.int().argmax(1), 0 if token == "first" else int(token)
    for name, k, many in zip(names, range(len(names)), there.sum(1).tolist()):
        if number >= many:
            words = " ".join(_words(text, k))
            raise UserError(f"--tokens {token}: example {name} has tokens 0 to {many - 1} only: {words}")
    return first + number


def told(summary: pd.DataFrame) -> str:
    """The summary as text."""
    lines = [f"{'method':<12} {'query':<8} {'examples':>8}  {'mass inside':>12}  {'95 % interval':>15}  "
             f"{'less uniform':>12}  {'95 % interval':>16}"]
    for row in summary.itertuples():
        method = row.method + " " * (12 - sum(not combining(letter) for letter in row.method))
        lines.append(f"{method} {row.query:<8} {row.examples:>8}  {row.mass:>12.3f}  "
                     f"[{row.low:>6.3f}, {row.high:>5.3f}]  {row.excess:>+12.3f}  [{row.excess_low:>+6.3f}, "
                     f"{row.excess_high:>+6.3f}]" + (f"  ({row.empty} maps are 0 everywhere)" if row.empty else ""))
    return "\n".join(lines)


def _logit(text: Text, place: Tensor, output) -> Tensor:
    """The logit of the token that follows a place; of the likeliest where the text ends there.

    Raises:
        _NoLogits: there are none.
    """
    logits = getattr(output, "logits", None)
    b, n = text.token_ids.shape
    if logits is None or logits.dim() != 3 or logits.shape[:2] != (b, n):
        raise _NoLogits
    rows, after = torch.arange(b), (place + 1).clamp(max=n - 1)
    ends = (place + 1 >= n) | text.padding[rows, after]
    there = logits[rows, place]
    target = torch.where(ends.to(there.device), there.argmax(-1), text.token_ids[rows, after].to(there.device))
    return there[rows, target]


def _stack(source: Source, batch: Batch, text: Text, graphs: Graphs) -> Stack:
    try:
        layers = stack(graphs)
        graph = graphs[layers.cross[-1]]
        patch_grid(graph.shape[3], batch.grid)
    except ValueError as error:
        raise UserError(f"{source.title}: {error}") from None
    words = words_of(batch, graph, 0)
    if graph.shape[2] != text.token_ids.shape[1] or words is None or not torch.equal(words.token_ids, text.token_ids.cpu()):
        raise UserError(f"{source.title}: the queries of {layers.cross[-1]} are not the tokens of the text")
    wrong = [head for head in source.heads or () if not 0 <= head < graph.shape[1]]
    if wrong:
        raise UserError(f"--heads: {layers.cross[-1]} has heads 0 to {graph.shape[1] - 1}, not "
                        f"{', '.join(map(str, wrong))}")
    return layers


def _chosen(patterns: list[str] | None, names: list[str]) -> list[str]:
    for pattern in patterns or ():
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UserError(f"--layers: no layer of the decoder is called {pattern!r}; there are {', '.join(names)}")
    return [name for name in names if patterns is None or any(fnmatchcase(name, pattern) for pattern in patterns)]


def _numbered(name: str, many: Counter[str]) -> str:
    """Names of examples that occur again (files in several folders) get a number."""
    many[name] += 1
    return name if many[name] == 1 else f"{name} #{many[name]}"


def _words(text: Text, example: int) -> list[str]:
    """The tokens up to the last that is no padding."""
    return text.tokens[example][:int((~text.padding[example]).nonzero()[-1]) + 1]


def _called(query: str) -> str:
    return {"first": "the first token", "answer": "the token before the answer"}.get(query, f"token {query}")
