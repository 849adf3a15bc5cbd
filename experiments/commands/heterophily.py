"""Measure the heterophily of attention graphs, per layer and head, beside what chance gives.

With ``--adapter`` there are paired differences, M̄ − M and after − before. ``docs/statistics.md`` says what
each statistic means and when it misleads.
"""

from __future__ import annotations

import json
from pathlib import Path

from analysis.heterophily import Heterophily, Settings
from attngraph.errors import UserError
from experiments.base.files import write_text
from experiments.base.outputs import Outputs
from experiments.commands.options import HeterophilyOptions
from experiments.inspect.labels import Labeller, Tagger, read_own_classes
from experiments.inspect.regions import Regions, read_regions
from experiments.inspect.source import open_source, settings_of
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

FIGURES = ("curves-*.png", "heads-*.png", "differences-*.png", "spectra-*.png")
NAMES = ("heterophily.csv", "heterophily.json", "spectrum.csv", *FIGURES)
BINS = 21  # of spectra
SPACY = "spacy:"  # in --labels: before the name of a pipeline


def run(options: HeterophilyOptions) -> int:
    """``attngraph heterophily``."""
    settings = _settings(options)
    outputs = Outputs(options.out, "heterophily", settings_of(options), NAMES)
    with outputs.alone():
        return _measure(options, settings, outputs)


def _measure(options: HeterophilyOptions, settings: Settings, outputs: Outputs) -> int:
    """Measure into a folder that is checked."""
    pipelines = [name.removeprefix(SPACY) for name in options.labels if name.startswith(SPACY)]
    if len(pipelines) > 1:
        raise UserError(f"--labels names {len(pipelines)} pipelines: give one {SPACY}NAME")
    own = read_own_classes([Path(name) for name in options.labels if not name.startswith(SPACY)])
    labeller = Labeller(own, options.clusters, options.seed, Tagger(pipelines[0]) if pipelines else None)
    statistics = Heterophily(settings)
    states = {BEFORE: False, AFTER: True} if options.adapter is not None else {"": True}
    regions = None
    for state, trained in states.items():
        source = open_source(options, trained)
        if regions is None:
            known = None if options.regions is None else read_regions(options.regions, source.samples)
            regions = Regions(source.samples, known)
        labeller.fit(source)
        measure(source, labeller, regions, statistics, state)
    notes = [*labeller.notes(), *regions.notes()]
    table = with_own_heads(statistics.table(differences(states)), source.heads)
    spectrum = with_own_heads(statistics.spectrum(), source.heads)

    content = {
        "model": source.title,
        "adapter": None if options.adapter is None else str(options.adapter),
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
    print(f"written: {options.out}/{', '.join(written)}")
    return 0


def _settings(options: HeterophilyOptions) -> Settings:
    if options.device.startswith("mps"):
        raise UserError("--device mps has no double precision, in which sums are taken: use cpu or cuda")
    if options.clusters == 1:
        raise UserError("--clusters 1 tells no nodes apart: give 2 or more, or 0 for none")
    if not 1 <= options.p <= 16:
        raise UserError(f"--p must lie between 1 and 16, got {options.p:g}")
    return Settings(p=options.p, seed=options.seed, bins=BINS if options.spectra else 0)
