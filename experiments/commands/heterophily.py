"""Measure the heterophily of attention graphs, per layer and head, beside what chance gives::

    attngraph heterophily                                            # the mini-BLIP on drawn scenes
    attngraph heterophily --model NAME --images DIR --texts FILE --out runs/mine    # any transformers model
    attngraph heterophily --layers '*crossattention*' --spectra --out runs/spectra  # spectra take longer
    attngraph heterophily --adapter runs/ablation-quick/cells/pgnn/vqa/seed0 --out runs/pgnn    # M̄ too

Writes ``heterophily.csv``, ``heterophily.json``, ``heads-*.png`` and ``curves-*.png`` to
``runs/heterophily``, with ``--adapter`` ``differences-*.png`` (paired differences M̄ − M and after −
before), and with ``--spectra`` ``spectrum.csv`` and ``spectra-*.png``. ``docs/statistics.md`` says what each
statistic means and when it misleads.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from analysis.heterophily import Heterophily, Settings
from attngraph.errors import UserError
from experiments.base.arguments import Between
from experiments.base.files import write_text
from experiments.base.outputs import Outputs
from experiments.inspect.labels import Labeller, Tagger, read_own_classes
from experiments.inspect.regions import Regions, read_regions
from experiments.inspect.source import add_source_arguments, open_source, settings_of
from experiments.inspect.statistics import (
    AFTER,
    BEFORE,
    differences,
    draw_figures,
    measure,
    records,
    screen,
    with_own_heads,
)

NAMES = (
    "heterophily.csv",
    "heterophily.json",
    "spectrum.csv",
    "curves-*.png",
    "heads-*.png",
    "differences-*.png",
    "spectra-*.png",
)

BINS = 21  # of spectra


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``attngraph heterophily``."""
    add_source_arguments(parser, Path("runs/heterophily"))
    parser.add_argument(
        "--labels",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="Measure by these classes of tokens, too: JSON files {token: class}. A file's name is the "
        "labels' name.",
    )
    parser.add_argument(
        "--tagger",
        metavar="NAME",
        help="Take the parts of speech from this spaCy pipeline (installed, or its folder). Without it, only "
        "those of the drawn scenes' words are known, and only scenes are measured by them.",
    )
    parser.add_argument(
        "--regions",
        type=Path,
        metavar="FILE",
        help="Take what the words name in pictures of your own from this JSON file of boxes; "
        "docs/statistics.md shows one. In drawn scenes it is known.",
    )
    parser.add_argument(
        "--clusters",
        type=Between(0, 512),
        default=8,
        metavar="K",
        help="Label the nodes by this many clusters (k-means over queries and values); 0 for none.",
    )
    parser.add_argument(
        "--p",
        type=float,
        default=1.5,
        metavar="NUMBER",
        help="Measure the p-Dirichlet energy and pGNN's closed form with this p.",
    )
    parser.add_argument(
        "--spectra",
        action="store_true",
        help="Measure the energy over the spectrum, too, which decomposes every graph.",
    )


def run(args: argparse.Namespace) -> int:
    """``attngraph heterophily``."""
    settings = _settings(args)
    outputs = Outputs(args.out, "heterophily", settings_of(args), NAMES)
    with outputs.alone():
        return _measure(args, settings, outputs)


def _measure(args: argparse.Namespace, settings: Settings, outputs: Outputs) -> int:
    """Measure into a folder that is checked."""
    tagger = None if args.tagger is None else Tagger(args.tagger)
    labeller = Labeller(read_own_classes(args.labels), args.clusters, args.seed, tagger)
    statistics = Heterophily(settings)
    states = {BEFORE: False, AFTER: True} if args.adapter is not None else {"": True}
    regions = None
    for state, trained in states.items():
        source = open_source(args, trained)
        if regions is None:
            known = None if args.regions is None else read_regions(args.regions, source.samples)
            regions = Regions(source.samples, known)
        labeller.fit(source)
        measure(source, labeller, regions, statistics, state)
    notes = [*labeller.notes(), *regions.notes()]
    table = with_own_heads(statistics.table(differences(states)), args.heads)
    spectrum = with_own_heads(statistics.spectrum(), args.heads)

    content = {
        "model": source.title,
        "adapter": None if args.adapter is None else str(args.adapter),
        "examples": len(source),
        "skipped": source.skipped,
        "notes": notes,
        "settings": vars(settings),
        "table": records(table),
    } | ({"spectrum": records(spectrum)} if len(spectrum) else {})
    written = ["heterophily.csv", "heterophily.json"]
    with outputs.writing() as out:
        table.to_csv(out / written[0], index=False, float_format="%.6g")
        write_text(out / written[1], json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False))
        if len(spectrum):
            written.append("spectrum.csv")
            spectrum.to_csv(out / written[-1], index=False, float_format="%.6g")
        written += draw_figures(table, spectrum, source.title, out)
    print(screen(table))
    for note in notes:
        print(note)
    source.report_skipped()
    print(f"written: {args.out}/{', '.join(written)}")
    return 0


def _settings(args: argparse.Namespace) -> Settings:
    if args.device.startswith("mps"):
        raise UserError(
            "--device mps has no double precision, in which statistics are summed: use cpu or cuda"
        )
    if args.clusters == 1:
        raise UserError("--clusters 1 tells no nodes apart: give 2 or more, or 0 for none")
    if not 1 <= args.p <= 16:
        raise UserError(f"--p must lie between 1 and 16, got {args.p:g}")
    return Settings(p=args.p, seed=args.seed, bins=BINS if args.spectra else 0)
