"""Measure the heterophily of attention graphs, per layer and head, beside what chance gives.

    attngraph heterophily                                            # the mini-BLIP on drawn scenes
    attngraph heterophily --model NAME --images DIR --texts FILE     # any transformers model
    attngraph heterophily --layers '*crossattention*' --spectra      # spectra too, which take longer
    attngraph heterophily --adapter runs/ablation/cells/pgnn/vqa/seed0   # M̄ in place of M, before and after training

Writes runs/heterophily/{heterophily.csv,heterophily.json,heads-*.png,curves-*.png} and with --spectra spectrum.csv and
spectra-*.png. docs/statistics.md says what each statistic means and when it misleads.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from math import ceil
from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm

from analysis.bipartite import Bipartite
from analysis.heterophily import Heterophily, Settings
from analysis.labels import Labels, SharedClusters, classes_of_tokens, modality
from analysis.plots.heterophily import curves, entries, heat_maps, number, spectra, stacks
from attngraph import AttentionGraph
from attngraph.errors import UserError
from experiments.data.facts import PLURALS
from experiments.data.scenes import HUGE_SHAPES
from experiments.data.speech import parts_of_speech
from experiments.source import PATCH_NAMES, Batch, Source, add_source_arguments, open_source

BEFORE, AFTER = "before", "after"  # training
LABELLED = ("edge", "adjusted", "label_informativeness", "aggregation")  # on screen
PLAIN = ("generalised_edge", "dirichlet_normalised", "entropy", "effective_degree", "neighbour_cka", "mmd", "probe_auc")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``attngraph heterophily``."""
    add_source_arguments(parser)
    parser.add_argument("--labels", type=Path, nargs="+", default=[], metavar="FILE",
                        help="classes of tokens of your own: JSON files {token: class}; a file's name is the labels' name")
    parser.add_argument("--clusters", type=int, default=8, help="of k-means over queries and values (default: %(default)s)")
    parser.add_argument("--p", type=float, default=1.5, help="of the p-Dirichlet energy (default: %(default)s)")
    parser.add_argument("--spectra", action="store_true", help="energy over the spectrum too: decomposes every graph")
    parser.add_argument("--bins", type=int, default=21, help="of the spectra, an odd number (default: %(default)s)")
    parser.add_argument("--permutations", type=int, default=2, help="permuted graphs per graph (default: %(default)s)")
    parser.add_argument("--replicates", type=int, default=200, help="of the bootstrap (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/heterophily"), help="folder for the results (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """``attngraph heterophily``."""
    settings = _settings(args)
    labeller = Labeller({file.stem: _classes(file) for file in args.labels}, args.clusters, args.seed)
    args.heads = None if args.heads is None else list(dict.fromkeys(args.heads))
    measured = Heterophily(settings)
    states = {BEFORE: False, AFTER: True} if args.adapter is not None else {"": True}
    for state, trained in states.items():
        source = open_source(args, trained)
        for name, graph, labels, weights in _graphs(source, labeller, state):
            measured.add(name, graph, labels, weights)
    table, spectrum = (_renumbered(one, args.heads) for one in (measured.table(), measured.spectrum()))

    args.out.mkdir(parents=True, exist_ok=True)
    written = ["heterophily.csv", "heterophily.json"]
    table.to_csv(args.out / written[0], index=False, float_format="%.6g")
    about = {"model": source.title, "adapter": None if args.adapter is None else str(args.adapter), "examples": len(source),
             "skipped": source.skipped, "settings": vars(settings)}
    content = about | {"table": _records(table)} | ({"spectrum": _records(spectrum)} if len(spectrum) else {})
    (args.out / written[1]).write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False), encoding="utf-8")
    if len(spectrum):
        written.append("spectrum.csv")
        spectrum.to_csv(args.out / written[-1], index=False, float_format="%.6g")
    written += _draw(table, spectrum, source.title, args.out)
    print(screen(table))
    if source.skipped:
        print(f"{len(source.skipped)} of {len(source)} images could not be read and were left out")
    print(f"written: {args.out}/{', '.join(written)}")
    return 0


class Labeller:
    """The labels that are known of a batch's nodes.

    Args:
        classes: ``{name: {token: class}}`` of the user's own.
        clusters: of k-means, fitted on the first batch of a layer; adapted models share the clusters of the first one.
        seed: of k-means.
    """

    def __init__(self, classes: dict[str, dict[str, str]], clusters: int, seed: int):
        self.classes = {"part of speech": parts_of_speech()} | classes
        self.clusters = SharedClusters(clusters, seed=seed)

    def __call__(self, batch: Batch, name: str, graph: AttentionGraph) -> dict[str, Labels]:
        """``{name: labels}``: modality (text, image or special); within text: token, part of speech and the user's
        classes; within images: patch; from text to an image: named (the shape that a word names, the shape that a patch
        shows), and each class of tokens against patch; cluster."""
        device = graph.query.device
        special = self._special(batch, graph)
        found = {"modality": modality(graph, *special)}
        text = [self._is_text(batch, graph, side) for side in (0, 1)]
        patches = [self._patches(batch, graph, side) for side in (0, 1)]
        if text[0] and (text[1] or patches[1] is not None):
            kinds = {one: classes_of_tokens(batch.tokens, classes).to(device) for one, classes in self.classes.items()}
            if text[1]:
                kinds = {"token": batch.token_ids.to(device)} | kinds
                found |= {one: Labels(classes, classes) for one, classes in kinds.items()}
            else:
                found["named shape"] = Labels(classes_of_tokens(batch.tokens, _NAMED, PATCH_NAMES).to(device), patches[1])
                found |= {f"{one} and patch": Labels(classes, patches[1], shared=False) for one, classes in kinds.items()}
        elif patches[0] is not None and patches[1] is not None:
            found["patch"] = Labels(*patches)
        try:
            found["cluster"] = self.clusters(name, Bipartite.of(graph))
        except ValueError as error:
            raise UserError(f"--clusters, {name}: {error}") from None
        return {one: labels for one, labels in found.items() if labels is not None}

    def _is_text(self, batch: Batch, graph: AttentionGraph, side: int) -> bool:
        """Whether a side's nodes are the batch's tokens."""
        kind, nodes = ((graph.query_modality, graph.query), (graph.value_modality, graph.value))[side]
        return isinstance(kind, str) and kind == "text" and batch.token_ids is not None \
            and batch.token_ids.shape[1] == nodes.shape[2]

    def _patches(self, batch: Batch, graph: AttentionGraph, side: int) -> torch.Tensor | None:
        kind, nodes = ((graph.query_modality, graph.query), (graph.value_modality, graph.value))[side]
        if not isinstance(kind, str) or kind != "image" or batch.patches is None or batch.patches.shape[1] != nodes.shape[2]:
            return None
        return batch.patches.to(nodes.device)

    def _special(self, batch: Batch, graph: AttentionGraph) -> list[torch.Tensor | None]:
        return [batch.special.to(graph.query.device) if batch.special is not None and self._is_text(batch, graph, side) else None
                for side in (0, 1)]


_NAMED = {word: shape for shape in HUGE_SHAPES for word in (shape, PLURALS.get(shape, f"{shape}s"))}


def _graphs(source: Source, labeller: Labeller, state: str) -> Iterator[tuple[str, AttentionGraph, dict[str, Labels], str]]:
    """Name, graph, labels and the name of the weights: M, and M̄ where the layer has an adapter."""
    suffix = f" {state}" if state else ""
    for batch, graphs in tqdm(source.graphs(), f"measuring{suffix}", ceil(len(source) / source.batch), leave=False):
        for name, graph in graphs.items():
            labels = labeller(batch, name, graph)
            yield name, graph, labels, f"M{suffix}"
            reweighted = source.reweighted(name, graph)
            if reweighted is not None:
                yield name, reweighted, labels, f"M̄{suffix}"


def _renumbered(table: pd.DataFrame, heads: list[int] | None) -> pd.DataFrame:
    """With the chosen heads' own numbers."""
    return table if heads is None else table.assign(head=[head if head == "all" else heads[head] for head in table["head"]])


def _settings(args: argparse.Namespace) -> Settings:
    if args.bins < 3 or args.bins % 2 == 0:
        raise UserError(f"--bins must be an odd number from 3 on, got {args.bins}")
    if not 2 <= args.clusters <= 512:
        raise UserError(f"--clusters must lie in 2..512, got {args.clusters}")
    try:
        return Settings(permutations=args.permutations, replicates=args.replicates, p=args.p, seed=args.seed,
                        bins=args.bins if args.spectra else 0)
    except ValueError as error:
        raise UserError(f"--{error}") from None


def _classes(file: Path) -> dict[str, str]:
    try:
        classes = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"--labels {file} cannot be read ({error}): give a JSON file {{token: class}}") from None
    if not isinstance(classes, dict) or not classes or not all(isinstance(kind, (str, int)) for kind in classes.values()):
        raise UserError(f"--labels {file} must hold one JSON object {{token: class}} with at least one token")
    return {token: str(kind) for token, kind in classes.items()}


def screen(table: pd.DataFrame) -> str:
    """The table as text, a paragraph for each stack of layers: means over heads and examples, in brackets the null, and
    a star where the interval of the difference leaves out 0."""
    mean = table[table["head"] == "all"].assign(cell=[_cell(line) for line in table[table["head"] == "all"].itertuples()])
    parts = ["mean over heads and examples (null); * = the interval of the difference leaves out 0; layers by number"]
    for stack, layers in stacks(mean).items():
        here = mean[mean.layer.isin(layers)].assign(layer=lambda lines: lines.layer.map(number))
        lines = [stack]
        for statistics, keys in ((LABELLED, ["layer", "weights", "labels"]), (PLAIN, ["layer", "weights"])):
            chosen = here[here.statistic.isin(statistics) & (here.cell != "")]
            if len(chosen):
                order = pd.MultiIndex.from_frame(chosen[keys].drop_duplicates())
                wide = chosen.pivot(index=keys, columns="statistic", values="cell").reindex(order).reindex(columns=list(statistics))
                lines.append(wide.fillna("").reset_index().to_string(index=False))
        for labels, found in here[here.labels != ""].groupby("labels"):
            if not found.examples.any():
                why = {part.partition("left out: ")[2] for note in found.note for part in note.split("; ")}
                lines.append(f"no finding by {labels}: {', '.join(sorted(why - {''}))}")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _cell(line) -> str:
    if pd.isna(line.value):
        return ""
    null = line.null_uniform if pd.isna(line.null_permuted) else line.null_permuted
    star = "*" if line.excess_low > 0 or line.excess_high < 0 else " "
    return f"{line.value:.3f}{star}({null:.3f})"


def _draw(table: pd.DataFrame, spectrum: pd.DataFrame, title: str, out: Path) -> list[str]:
    written = []

    def draw(function, data: pd.DataFrame, name: str, about: str) -> None:
        function(data, out / name, about)
        written.append(name)

    for stack, layers in stacks(table).items():
        chosen = table[table.layer.isin(layers)]
        slug = stack.replace(".*", "").replace("*", "").replace("#", "-").replace(".", "-")
        if not entries(chosen):
            continue
        draw(curves, chosen, f"curves-{slug}.png", f"{title}: {stack}")
        for weights, part in chosen.groupby("weights", sort=False):
            name = slug + ("" if weights == "M" else "-" + weights.replace("M̄", "Mbar").replace(" ", "-"))
            draw(heat_maps, part, f"heads-{name}.png", f"{title}: {stack}, {weights}")
            waves = spectrum[spectrum.layer.isin(layers) & (spectrum.weights == weights)]
            if len(waves):
                draw(spectra, waves, f"spectra-{name}.png", f"{title}: {stack}, {weights}")
    return written


def _records(table: pd.DataFrame) -> list[dict]:
    return json.loads(table.to_json(orient="records", double_precision=10))
