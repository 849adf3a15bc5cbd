"""Draw where a model looks: attention, rollout and gradient-weighted relevance, over the pictures.

    attngraph attention                                                  # mini-BLIP on drawn scenes
    attngraph attention --adapter runs/ablation/cells/pgnn/vqa/seed0     # M beside the adapter's own weights
    attngraph attention --images photos --tokens first answer 4
    attngraph attention --data scenes --task vqa --layers '*layer.0*' --heads 1

Unless images, texts or a task are given, the texts are questions about one object of each scene. Where it is, is known,
and it is measured how much of each map lies inside. Written are maps_*.png, maps.csv and viewer.html, and mass.csv,
summary.csv and mass.png where something was measured. Gradients of all layers are held at once: for large models make
--batch small.

Drawn is the view of a text's tokens where text looks at the image by cross-attention (BLIP, VisionEncoderDecoder) or
shares a sequence with it (LLaVA, Qwen2-VL, ViLT), through the queries in between where there are some (BLIP-2), and that of
the image's [CLS] node where an image is read alone (ViT, CLIP). Pictures cut into tiles are not covered, nor windows (Swin).
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from unicodedata import combining

import pandas as pd
import torch
from torch import Tensor

from analysis.maps import OTHERS, map_table, mass_summary, mass_table
from analysis.plots.maps import draw_maps, draw_mass
from analysis.relevance import image_nodes, valid_nodes
from analysis.viewer import Shown, one_example, write_viewer
from attngraph import AttentionGraph
from attngraph.errors import UserError
from experiments.files import published
from experiments.inspect.encoders import Item
from experiments.inspect.source import Batch, Source, add_source_arguments, open_source
from experiments.inspect.views import PLAIN, View, read
from experiments.inspect.words import words_of
from experiments.scenes.facts import unique
from experiments.scenes.patches import patch_targets
from experiments.scenes.scene import Scene, Thing

OWN = ("maps.csv", "viewer.html", "maps_*.png", "mass.csv", "summary.csv", "mass.png")
ASKED = "questions about one object"
QUESTIONS = {"color": ("shape", "what color is the {}?"), "shape": ("color", "what shape is the {}?")}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_source_arguments(parser, Path("runs/attention"))
    parser.set_defaults(task=ASKED, examples=256, batch=8)
    parser.add_argument(
        "--tokens",
        nargs="+",
        metavar="TOKEN",
        help="whose maps: first, answer (the token from which the answer's first token is predicted), "
        "last, or numbers of tokens, from 0; first is the first that sees the image "
        "(default: first, and answer where it is known, else a decoder's last)",
    )
    parser.add_argument("--pictures", type=int, default=4, help="examples to draw (default: %(default)s)")
    parser.epilog = (
        "Whose view: a text's tokens where the text looks at the image or shares a sequence with it, the image's "
        "[CLS] node where an image is read alone. The gradient map is that of the logit of the text's next token, of "
        "a classifier's likeliest class, or of an image and its own text (CLIP); without logits there is none. "
        "--layers chooses what the viewer shows, those of image encoders too; raw attention is read from the last "
        "of them that leads to the image."
    )


def run(args: argparse.Namespace) -> int:
    if args.pictures < 1:
        raise UserError(f"--pictures must be at least 1, got {args.pictures}")
    for token in args.tokens or ():
        if token not in ("first", "answer", "last") and not token.isdecimal():
            raise UserError(f"--tokens {token}: give first, answer, last, or the number of a token, from 0")
    asked = args.task == ASKED
    source = open_source(argparse.Namespace(**vars(args) | {"task": "caption"}) if asked else args)
    things: dict[str, Thing] = {}
    if asked and all(item.scene is not None for item in source.items):
        source.items, things = ask(source.items, args.seed)
    found = look(
        source, None if args.tokens is None else list(dict.fromkeys(args.tokens)), things, args.pictures
    )

    model = f"{source.title} with adapters" if source.adapters else source.title
    summary = mass_summary(found.mass, seed=args.seed) if len(found.mass) else None
    written = ["maps.csv", "viewer.html"]
    with published(args.out, OWN) as out:
        found.maps.to_csv(out / "maps.csv", index=False, float_format="%.8g")
        write_viewer(
            out / "viewer.html",
            found.shown,
            f"Attention graphs of {model}",
            source.heads,
            first=found.last if found.last in found.shown[0].sides else None,
        )
        pictures = {
            name: (one.image, one.name.partition(": ")[2] or name)
            for name, one in zip(found.names, found.shown)
        }
        for query, table in found.maps.groupby("query", sort=False):
            written.append(f"maps_{query}.png")
            title = f"{model}: where {_called(query, found.alone)} looks"
            draw_maps(table, pictures, out / written[-1], title, found.regions)
        if summary is not None:
            found.mass.to_csv(out / "mass.csv", index=False, float_format="%.8g")
            summary.to_csv(out / "summary.csv", index=False, float_format="%.8g")
            draw_mass(summary, out / "mass.png", f"{model}: relevance inside the asked object")
            written += ["mass.csv", "summary.csv", "mass.png"]
    if summary is not None:
        print(told(summary))
    print(f"raw attention is that of {found.last}")
    if not found.scored:
        print(f"no gradient map: {source.title} gives no logits for the tokens of its text, nor for classes")
    source.report_skipped()
    print(f"written: {args.out}/{', '.join(written)}")
    return 0


def ask(items: list[Item], seed: int) -> tuple[list[Item], dict[str, Thing]]:
    """Questions about one thing in each scene that shows one unlike the others, and that thing by the item's name."""
    rng, asked, things = random.Random(seed), [], {}
    for item in items:
        found = [
            (attribute, thing, words)
            for attribute, (named, _) in QUESTIONS.items()
            for thing, words in unique(item.scene, named)
        ]
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
        names: of examples.
        maps, mass: see :mod:`analysis.maps`.
        regions: ``{example: bool (patches,)}``, where the thing is that was asked for.
        shown: what the viewer gets.
        last: the layer that raw attention is read from.
        alone: whether it is the image's own nodes that look, not a text's tokens.
        scored: whether the model gives a score, of which relevance takes the gradient.
    """

    names: list[str] = field(default_factory=list)
    maps: pd.DataFrame = field(default_factory=pd.DataFrame)
    mass: pd.DataFrame = field(default_factory=pd.DataFrame)
    regions: dict[str, Tensor] = field(default_factory=dict)
    shown: list[Shown] = field(default_factory=list)
    last: str = ""
    alone: bool = False
    scored: bool = True


def look(source: Source, tokens: list[str] | None, things: Mapping[str, Thing], pictures: int) -> Looked:
    """Maps of all examples of a source, one per method and token, and their mass inside ``things``.

    Args:
        tokens: None for the first, and the one before the answer where that is known, or else a decoder's last.
    """
    found, maps, masses, many = Looked(), [], [], Counter()
    for adapter in source.adapters.values():
        if (
            adapter.backend == "tiled"
        ):  # the numbers are the same, but tiles never hold the weights to differentiate
            adapter.backend = "dense"
    for batch in source.batches():
        if batch.pictures is None:
            raise UserError("attention maps need images: give --images, and a model that looks at them")
        view = read(source, batch, tokens, found.scored)
        found.last, found.alone = view.last, view.alone
        found.scored = any(method == "gradient" for method, _ in view.values)
        for k, name in enumerate(batch.names):
            values = {key: nodes[k][view.image[k]][None] for key, nodes in view.values.items()}
            grid = view.grids[k][:2]
            name, thing = _numbered(name, many), things.get(name)
            inside = None
            if thing is not None and batch.pictures.whole and grid[0] == grid[1]:
                inside = region(batch.scenes[k], thing, grid[0])
                masses.append(mass_table(values, inside[None].to(source.device), [name], grid))
            if len(found.names) < pictures:
                found.names.append(name)
                maps.append(map_table(values, [name], grid))
                found.shown.append(shown(name, batch, view, k))
                if inside is not None:
                    found.regions[name] = inside
        if not masses and len(found.names) == pictures:
            break
    found.maps = pd.concat(maps, ignore_index=True)
    if masses:
        found.mass = pd.concat(masses, ignore_index=True)
    return found


def shown(name: str, batch: Batch, view: View, k: int) -> Shown:
    """One example for the viewer."""
    graphs = view.kinds[PLAIN]
    rows, columns, _ = view.grids[k]
    sides = {
        layer: tuple(_cells(batch, graphs[layer], side, k, (rows, columns)) for side in (0, 1))
        for layer in view.layers
    }
    others = max((number for both in sides.values() for _, number in both), default=0)
    placed = {
        layer: tuple(
            [cell + others - own if isinstance(cell, int) and cell >= own else cell for cell in cells]
            for cells, own in both
        )
        for layer, both in sides.items()
    }
    picked = int(list(view.queries.values())[-1][k])
    asking = placed[view.last][0] if view.last in placed else None
    start = {layer: picked for layer in view.layers if placed[layer][0] == asking}
    words = words_of(batch, graphs[view.last], 0)
    text = "" if words is None else " ".join(words.tokens[k][(words.there[k] & ~words.padding[k]).numpy()])
    return Shown(
        f"{name}: {text}" if text else name,
        {
            kind: one_example({layer: some[layer] for layer in view.layers}, k)
            for kind, some in view.kinds.items()
        },
        placed,
        batch.pictures.images[k],
        (rows, columns),
        others,
        start,
    )


def _cells(
    batch: Batch, graph: AttentionGraph, side: int, k: int, grid: tuple[int, int]
) -> tuple[list[int | str | None], int]:
    """What the viewer shows for each node of a side, and how many of the image nodes come before the patches. Image nodes
    in another grid (an image encoder's before patches are merged, the queries of a Q-Former) are numbered words."""
    image, words = image_nodes(graph, side)[k].tolist(), words_of(batch, graph, side)
    many = sum(image)
    others = many - grid[0] * grid[1]
    fits = 0 <= others <= OTHERS
    valid, cells, number = valid_nodes(graph, side)[k].tolist(), [], 0
    for node, is_image in enumerate(image):
        if is_image:
            cells.append(number if fits else f"image {number}")
            number += 1
        elif not valid[node] or (words is not None and bool(words.padding[k, node])):
            cells.append(None)
        else:
            cells.append(words.tokens[k, node] if words is not None else f"node {node}")
    return cells, others if fits else 0


def told(summary: pd.DataFrame) -> str:
    """The summary as text."""
    lines = [
        f"{'method':<12} {'query':<8} {'examples':>8}  {'mass inside':>12}  {'95 % interval':>15}  "
        f"{'less uniform':>12}  {'95 % interval':>16}"
    ]
    for row in summary.itertuples():
        method = row.method + " " * (12 - sum(not combining(letter) for letter in row.method))
        lines.append(
            f"{method} {row.query:<8} {row.examples:>8}  {row.mass:>12.3f}  "
            f"[{row.low:>6.3f}, {row.high:>5.3f}]  {row.excess:>+12.3f}  [{row.excess_low:>+6.3f}, "
            f"{row.excess_high:>+6.3f}]" + (f"  ({row.empty} maps are 0 everywhere)" if row.empty else "")
        )
    return "\n".join(lines)


def _numbered(name: str, many: Counter[str]) -> str:
    """Names of examples that occur again (files in several folders) get a number."""
    many[name] += 1
    return name if many[name] == 1 else f"{name} #{many[name]}"


def _called(query: str, alone: bool) -> str:
    if alone:
        return "the image's [CLS] node or probe"
    names = {
        "first": "the first token that sees the image",
        "answer": "the token before the answer",
        "last": "the last token",
    }
    return names.get(query, f"token {query}")
