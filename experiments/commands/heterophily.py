"""Measure the heterophily of attention graphs, per layer and head, with null models.

With ``--adapter`` there are paired differences, M̄ − M and after − before. ``docs/statistics.md`` documents
each statistic and its pitfalls.
"""

from __future__ import annotations

from pathlib import Path

from attngraph.analysis.heterophily import Heterophily, Settings
from attngraph.analysis.plots.style import files
from attngraph.errors import UserError
from attngraph.experiments.base.outputs import Outputs
from attngraph.experiments.commands.options import HeterophilyOptions
from attngraph.experiments.inspect.labels import Labeller, load_tagger, read_own_classes
from attngraph.experiments.inspect.regions import Regions, read_regions
from attngraph.experiments.inspect.source import open_source, settings_of
from attngraph.experiments.inspect.statistics import (
    AFTER,
    BEFORE,
    STREAMED,
    differences,
    draw_figures,
    measure,
    screen,
)
from attngraph.experiments.inspect.verdict import verdict

TABLE, SPECTRUM = "heterophily.csv", "spectrum.csv"
FIGURES = [name for kind in ("curves", "heads", "differences", "spectra") for name in files(f"{kind}-*")]
NAMES = (TABLE, SPECTRUM, *FIGURES)
BINS = 21  # of spectra
SPACY = "spacy:"  # in --labels: before the name of a pipeline


def run(options: HeterophilyOptions) -> int:
    """``attngraph heterophily``."""
    settings = _settings(options)
    outputs = Outputs(options.out, "heterophily", settings_of(options), NAMES)
    with outputs.alone():
        pipelines = [name.removeprefix(SPACY) for name in options.labels if name.startswith(SPACY)]
        own = read_own_classes([Path(name) for name in options.labels if not name.startswith(SPACY)])
        if len(pipelines) > 1:
            raise UserError(
                f"--labels {' '.join(SPACY + name for name in pipelines)}: use one spaCy pipeline"
            )
        tagger = load_tagger(pipelines[0]) if pipelines else None
        labeller = Labeller(own, options.clusters, options.seed, tagger)
        statistics = Heterophily(settings)
        states = [BEFORE, AFTER] if options.adapter is not None else [""]
        for state in states:
            source = open_source(options, trained=state != BEFORE)
            source.stream = source.is_large()
            if source.stream and options.spectra:
                raise UserError(
                    "--spectra decomposes graphs with all their weights, and these graphs are too large: "
                    "remove it, or use a smaller --batch"
                )
            if source.stream and options.regions is not None:
                raise UserError(
                    "--regions needs graphs with all their weights, and these graphs are too large: remove "
                    "it, or use a smaller --batch"
                )
            if state == states[0]:
                known = None if options.regions is None else read_regions(options.regions, source.samples)
                regions = Regions(source.samples, known)
                labeller.fit(source)
            measure(source, labeller, regions, statistics, state)

        table, spectrum = statistics.table(differences(states)), statistics.spectrum()
        if source.heads is not None:  # by their own numbers
            own_numbers = dict(enumerate(source.heads)) | {"all": "all"}
            table, spectrum = (
                frame.assign(head=frame["head"].map(own_numbers)) for frame in (table, spectrum)
            )
        written = [TABLE]
        with outputs.writing() as out:
            table.to_csv(out / TABLE, index=False, float_format="%.6g")
            if len(spectrum):
                written.append(SPECTRUM)
                spectrum.to_csv(out / SPECTRUM, index=False, float_format="%.6g")
            written += draw_figures(table, spectrum, source.title, out)
    notes = [STREAMED] if source.stream else []
    print("\n".join([verdict(table), "", screen(table), *notes, *labeller.notes(), *regions.notes()]))
    print(f"written: {options.out}/{', '.join(written)}")
    return 0


def _settings(options: HeterophilyOptions) -> Settings:
    if options.device.startswith("mps"):
        raise UserError("--device mps has no double precision, which sums require: use cpu or cuda")
    if options.clusters == 1:
        raise UserError("--clusters 1 gives all nodes the same label: use 2 or more, or 0 for none")
    if not 1 <= options.p <= 16:
        raise UserError(f"--p must be between 1 and 16, got {options.p:g}")
    return Settings(p=options.p, seed=options.seed, bins=BINS if options.spectra else 0)
