"""Measure the heterophily of attention graphs, per layer and head, beside what chance gives.

    attngraph heterophily                                            # the mini-BLIP on drawn scenes
    attngraph heterophily --model NAME --images DIR --texts FILE     # any transformers model
    attngraph heterophily --layers '*crossattention*' --spectra      # spectra too, which take longer
    attngraph heterophily --adapter runs/ablation/cells/pgnn/vqa/seed0   # M̄ in place of M, before and after training

Writes runs/heterophily/{heterophily.csv,heterophily.json,heads-*.png,curves-*.png}, with --adapter differences-*.png (paired
differences M̄ − M and after − before), and with --spectra spectrum.csv and
spectra-*.png. docs/statistics.md says what each statistic means and when it misleads.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from math import ceil
from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm

from analysis.bipartite import Bipartite
from analysis.heterophily import Heterophily, Settings
from analysis.labels import Labels, SharedClusters, classes_of_tokens, modality
from analysis.plots.heterophily import (
    DIFFERENCE,
    curves,
    entries,
    heat_maps,
    is_difference,
    number,
    spectra,
    stack,
    stacks,
)
from attngraph import AttentionGraph
from attngraph.errors import UserError
from experiments.files import published
from experiments.inspect.source import PATCH_NAMES, Batch, Source, add_source_arguments, open_source
from experiments.inspect.tagger import UNIVERSAL, Tagger
from experiments.inspect.words import ROTATED, Words, patches_of, whole_words, word_spans, words_of
from experiments.scenes.facts import PLURALS
from experiments.scenes.scene import HUGE_SHAPES
from experiments.scenes.speech import parts_of_speech

BEFORE, AFTER = "before", "after"  # training
BUILT_IN = ("modality", "token", "part of speech", "patch", "named", "named shape", "cluster")
OWN = (
    "heterophily.csv",
    "heterophily.json",
    "spectrum.csv",
    "curves-*.png",
    "heads-*.png",
    "differences-*.png",
    "spectra-*.png",
)
LABELLED = ("edge", "adjusted", "label_informativeness", "aggregation")  # on screen
PLAIN = (
    "generalised_edge",
    "dirichlet_normalised",
    "entropy",
    "effective_degree",
    "neighbour_cka",
    "mmd",
    "probe_auc",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``attngraph heterophily``."""
    add_source_arguments(parser, Path("runs/heterophily"))
    parser.add_argument(
        "--labels",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="classes of tokens of your own: JSON files {token: class}; a file's name is the labels' name",
    )
    parser.add_argument(
        "--tagger",
        metavar="NAME",
        help="a spaCy pipeline (installed, or its folder) for the parts of speech of any words; without it those "
        "of the drawn scenes' words alone are known",
    )
    parser.add_argument(
        "--clusters",
        type=int,
        default=8,
        metavar="K",
        help="labels by k-means over queries and values, 0 for none (default: %(default)s)",
    )
    parser.add_argument(
        "--p", type=float, default=1.5, help="of the p-Dirichlet energy (default: %(default)s)"
    )
    parser.add_argument(
        "--spectra", action="store_true", help="energy over the spectrum too: decomposes every graph"
    )
    parser.add_argument(
        "--bins", type=int, default=21, help="of the spectra, an odd number (default: %(default)s)"
    )
    parser.add_argument(
        "--permutations", type=int, default=2, help="permuted graphs per graph (default: %(default)s)"
    )
    parser.add_argument("--replicates", type=int, default=200, help="of the bootstrap (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """``attngraph heterophily``."""
    if args.device.startswith("mps"):
        raise UserError(
            "--device mps has no double precision, in which statistics are summed: use cpu or cuda"
        )
    settings = _settings(args)
    tagger = None if args.tagger is None else Tagger(args.tagger)
    labeller = Labeller(_own_classes(args.labels), args.clusters, args.seed, tagger)
    args.heads = None if args.heads is None else list(dict.fromkeys(args.heads))
    measured = Heterophily(settings)
    states = {BEFORE: False, AFTER: True} if args.adapter is not None else {"": True}
    for state, trained in states.items():
        source = open_source(args, trained)
        labeller.fit(source)
        for name, graph, labels, weights in _graphs(source, labeller, state):
            measured.add(name, graph, labels, weights)
    table, spectrum = (
        _renumbered(one, args.heads) for one in (measured.table(_differences(states)), measured.spectrum())
    )

    written = ["heterophily.csv", "heterophily.json"]
    about = {
        "model": source.title,
        "adapter": None if args.adapter is None else str(args.adapter),
        "examples": len(source),
        "skipped": source.skipped,
        "notes": labeller.notes(),
        "settings": vars(settings),
    }
    content = about | {"table": _records(table)} | ({"spectrum": _records(spectrum)} if len(spectrum) else {})
    with published(args.out, OWN) as out:
        table.to_csv(out / written[0], index=False, float_format="%.6g")
        (out / written[1]).write_text(
            json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False), encoding="utf-8"
        )
        if len(spectrum):
            written.append("spectrum.csv")
            spectrum.to_csv(out / written[-1], index=False, float_format="%.6g")
        written += _draw(table, spectrum, source.title, out)
    print(screen(table))
    for note in labeller.notes():
        print(note)
    source.report_skipped()
    print(f"written: {args.out}/{', '.join(written)}")
    return 0


class Labeller:
    """The labels that are known of a batch's nodes.

    Args:
        classes: ``{name: {token: class}}`` of the user's own.
        clusters: of k-means, fitted on a layer's first examples; 0 for none. Adapted models share the clusters of the
            first one.
        seed: of k-means.
        tagger: of parts of speech; None for those of the scenes' words.
    """

    def __init__(
        self, classes: dict[str, dict[str, str]], clusters: int, seed: int, tagger: Tagger | None = None
    ):
        self.own, self.tagger = classes, tagger
        self.clusters = SharedClusters(clusters, seed=seed) if clusters else None
        self._small: dict[str, str] = {}  # layers with too few nodes for clusters, and why
        self._parts: dict[str, None] = {}  # stacks of layers that see parts of pictures one by one
        self._rotated: dict[str, None] = {}  # stacks of layers whose queries have rotary positions in them
        self._fitted = False

    def fit(self, source: Source) -> None:
        """Fit the clusters of every layer on the first examples of the first source that comes, however they are
        batched."""
        if self.clusters is None or self._fitted:
            return
        seen, layers, self._fitted = 0, {}, True
        for batch, graphs in source.graphs():
            for name, graph in graphs.items():
                self.clusters.gather(name, Bipartite.of(graph))
            seen, layers = seen + len(batch.names), layers | graphs
            if seen >= self.clusters.examples:
                break
        for name in layers:
            try:
                self.clusters.fit(name)
            except ValueError as error:
                self._small[name] = str(error)

    def notes(self) -> list[str]:
        """A line for each stack of layers that lacks labels by cluster, sees parts of pictures or has rotated queries."""
        return [
            *dict.fromkeys(
                f"{stack(name)}: no labels by cluster: {why}" for name, why in self._small.items()
            ),
            *(
                f"{name}: sees parts of pictures one by one (tiles, windows): each counts as an example, though those of one "
                "picture are alike: intervals are too narrow"
                for name in self._parts
            ),
            *(f"{name}: {ROTATED}" for name in self._rotated),
        ]

    def __call__(self, batch: Batch, name: str, graph: AttentionGraph) -> dict[str, Labels]:
        """``{name: labels}``: modality (text, image or special); within text: token, part of speech and the user's
        classes; within images: patch; where text looks at an image: named (the shape that a word names, the shape that a
        patch shows), and between the two each class of tokens against patch; cluster."""
        device = graph.query.device
        if graph.shape[0] != len(batch.names):
            self._parts[stack(name)] = None
        if graph.rotated:
            self._rotated[stack(name)] = None
        words, patches = ([of(batch, graph, side) for side in (0, 1)] for of in (words_of, patches_of))
        patches = [None if shown is None else shown.to(device) for shown in patches]
        found = {
            "modality": modality(graph, *(None if one is None else one.special.to(device) for one in words))
        }
        if None not in words:
            found["token"] = Labels(*(one.token_ids.to(device) for one in words))
            sides = [self._classes(one) for one in words]
            found |= {kind: Labels(*(side[kind].to(device) for side in sides)) for kind in sides[0]}
        if patches[0] is not None and patches[1] is not None:
            found["patch"] = Labels(*patches)
        if words[0] is not None and patches[1] is not None:
            named = [
                None if one is None else _classified(one, _NAMED, PATCH_NAMES).to(device) for one in words
            ]
            found["named shape"] = Labels(*(_either(*sides) for sides in zip(named, patches)))
            if words[1] is None:
                found |= {
                    f"{kind} and patch": Labels(classes.to(device), patches[1], shared=False)
                    for kind, classes in self._classes(words[0]).items()
                }
        if self.clusters is not None and name not in self._small:
            found["cluster"] = self.clusters(name, Bipartite.of(graph))
        return {one: labels for one, labels in found.items() if labels is not None}

    def _classes(self, words: Words) -> dict[str, torch.Tensor]:
        """The classes of a side's words, ``(b, nodes)``: part of speech and the user's own."""
        speech = _classified(words, parts_of_speech()) if self.tagger is None else _tagged(words, self.tagger)
        return {"part of speech": speech} | {
            kind: _classified(words, classes, own=True) for kind, classes in self.own.items()
        }


def _classified(
    words: Words, classes: dict[str, str], names: tuple[str, ...] | None = None, own: bool = False
) -> torch.Tensor:
    """Classes of words; the user's own may list tokens as the vocabulary writes them, too."""
    return classes_of_tokens(
        [
            [
                next((one for one in (token, word) if own and one in classes), word.lower())
                for token, word in zip(line[0], whole_words(*line))
            ]
            for line in words.lines()
        ],
        classes,
        names,
    )


def _tagged(words: Words, tagger: Tagger) -> torch.Tensor:
    """Places in ``UNIVERSAL``; the pieces of a word have the word's, tokens of no word have -1."""
    found = torch.full(words.there.shape, -1)
    for line, classes in zip(words.lines(), found):
        spans = word_spans(*line)
        for (span, _), tag in zip(spans, tagger([word for _, word in spans])):
            classes[span.start : span.stop] = UNIVERSAL.index(tag)
    return found


def _either(named: torch.Tensor | None, shown: torch.Tensor | None) -> torch.Tensor:
    """The classes of a side's words and of its patches."""
    return shown if named is None else named if shown is None else torch.where(shown < 0, named, shown)


_NAMED = {word: shape for shape in HUGE_SHAPES for word in (shape, PLURALS.get(shape, f"{shape}s"))}


def _graphs(
    source: Source, labeller: Labeller, state: str
) -> Iterator[tuple[str, AttentionGraph, dict[str, Labels], str]]:
    """Name, graph, labels and the name of the weights: M, and M̄ where the layer has an adapter."""
    suffix = f" {state}" if state else ""
    for batch, graphs in tqdm(
        source.graphs(), f"measuring{suffix}", ceil(len(source) / source.batch), leave=False
    ):
        for name, graph in graphs.items():
            labels = labeller(batch, name, graph)
            yield name, graph, labels, f"M{suffix}"
            reweighted = source.reweighted(name, graph)
            if reweighted is not None:
                yield name, reweighted, labels, f"M̄{suffix}"


def _differences(states: Iterable[str]) -> dict[str, tuple[str, str]]:
    """The paired differences of the table: what the adapter does to M, and what training does."""
    found = {f"M̄ − M {state}".rstrip(): (f"M̄ {state}".rstrip(), f"M {state}".rstrip()) for state in states}
    if {BEFORE, AFTER} <= set(states):
        found |= {
            f"{weights} {AFTER} − {BEFORE}": (f"{weights} {AFTER}", f"{weights} {BEFORE}")
            for weights in ("M", "M̄")
        }
    return found


def _renumbered(table: pd.DataFrame, heads: list[int] | None) -> pd.DataFrame:
    """With the chosen heads' own numbers."""
    return (
        table
        if heads is None
        else table.assign(head=[head if head == "all" else heads[head] for head in table["head"]])
    )


def _settings(args: argparse.Namespace) -> Settings:
    if args.bins < 3 or args.bins % 2 == 0:
        raise UserError(f"--bins must be an odd number from 3 on, got {args.bins}")
    if args.clusters and not 2 <= args.clusters <= 512:
        raise UserError(f"--clusters must lie in 2..512, or be 0 for none, got {args.clusters}")
    try:
        return Settings(
            permutations=args.permutations,
            replicates=args.replicates,
            p=args.p,
            seed=args.seed,
            bins=args.bins if args.spectra else 0,
        )
    except ValueError as error:
        raise UserError(f"--{error}") from None


def _own_classes(files: list[Path]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for file in files:
        if file.stem in BUILT_IN or file.stem.endswith(" and patch"):
            raise UserError(
                f"--labels {file}: {file.stem!r} is the name of labels that are there already: rename the file"
            )
        if file.stem in found:
            raise UserError(
                f"--labels {file}: two files are called {file.stem!r}, the name of their labels: rename one"
            )
        found[file.stem] = _classes(file)
    return found


def _classes(file: Path) -> dict[str, str]:
    try:
        classes = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"--labels {file} cannot be read ({error}): give a JSON file {{token: class}}"
        ) from None
    if (
        not isinstance(classes, dict)
        or not classes
        or not all(isinstance(kind, (str, int)) for kind in classes.values())
    ):
        raise UserError(f"--labels {file} must hold one JSON object {{token: class}} with at least one token")
    return {token: str(kind) for token, kind in classes.items()}


def screen(table: pd.DataFrame) -> str:
    """The table as text, a paragraph for each stack of layers: means over heads and examples, in brackets the null, and
    a star where the interval of the difference leaves out 0. Lines of differences between two kinds of weights: their
    values, with a star where the values' intervals leave out 0."""
    mean = table[table["head"] == "all"].assign(
        cell=[_cell(line) for line in table[table["head"] == "all"].itertuples()]
    )
    parts = [
        "mean over heads and examples (null); * = the interval of the difference leaves out 0; layers by number"
    ]
    if is_difference(mean).any():
        parts[0] += "\nlines with −: paired differences, without null; * = their interval leaves out 0"
    for series, layers in stacks(mean).items():
        here = mean[mean.layer.isin(layers)].assign(layer=lambda lines: lines.layer.map(number))
        lines = [series]
        for statistics, keys in ((LABELLED, ["layer", "weights", "labels"]), (PLAIN, ["layer", "weights"])):
            chosen = here[here.statistic.isin(statistics) & (here.cell != "")]
            if len(chosen):
                order = pd.MultiIndex.from_frame(chosen[keys].drop_duplicates())
                wide = (
                    chosen.pivot(index=keys, columns="statistic", values="cell")
                    .reindex(order)
                    .reindex(columns=list(statistics))
                )
                lines.append(wide.astype(object).fillna("").reset_index().to_string(index=False))
        for labels, found in here[here.labels != ""].groupby("labels"):
            if not found.examples.any():
                why = {part.partition("left out: ")[2] for note in found.note for part in note.split("; ")}
                lines.append(f"no finding by {labels}: {', '.join(sorted(why - {''}))}")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _cell(line) -> str:
    if pd.isna(line.value):
        return ""
    if DIFFERENCE in line.weights:
        return f"{line.value:+.3f}{'*' if line.low > 0 or line.high < 0 else ' '}"
    null = line.null_uniform if pd.isna(line.null_permuted) else line.null_permuted
    star = "*" if line.excess_low > 0 or line.excess_high < 0 else " "
    return f"{line.value:.3f}{star}({null:.3f})"


def _draw(table: pd.DataFrame, spectrum: pd.DataFrame, title: str, out: Path) -> list[str]:
    written = []

    def draw(function, data: pd.DataFrame, name: str, about: str) -> None:
        function(data, out / name, about)
        written.append(name)

    for series, layers in stacks(table).items():
        chosen = table[table.layer.isin(layers)]
        slug = series.replace(".*", "").replace("*", "").replace("#", "-").replace(".", "-")
        if not entries(chosen):
            continue
        differences = chosen[is_difference(chosen)]
        chosen = chosen.drop(differences.index)
        draw(curves, chosen, f"curves-{slug}.png", f"{title}: {series}")
        if entries(differences):
            draw(curves, differences, f"differences-{slug}.png", f"{title}: {series}, differences")
        for weights, part in chosen.groupby("weights", sort=False):
            name = slug + ("" if weights == "M" else "-" + weights.replace("M̄", "Mbar").replace(" ", "-"))
            draw(heat_maps, part, f"heads-{name}.png", f"{title}: {series}, {weights}")
            waves = spectrum[spectrum.layer.isin(layers) & (spectrum.weights == weights)]
            if len(waves):
                draw(spectra, waves, f"spectra-{name}.png", f"{title}: {series}, {weights}")
    return written


def _records(table: pd.DataFrame) -> list[dict]:
    return json.loads(table.to_json(orient="records", double_precision=10))
