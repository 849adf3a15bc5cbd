"""Recompute every comparison of a table from its raw results
(:mod:`attngraph.experiments.tables.variance`)."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from attngraph.analysis.plots.style import files, save
from attngraph.errors import UserError
from attngraph.experiments.base.files import write_text
from attngraph.experiments.base.outputs import Outputs
from attngraph.experiments.commands.options import SignificanceOptions
from attngraph.experiments.tables.compare import recompute
from attngraph.experiments.tables.details import significance, significance_markdown
from attngraph.experiments.tables.figure import caption_of_differences, draw_differences
from attngraph.experiments.tables.render import aligned, scope
from attngraph.experiments.tables.runs import saved_runs

STEM = "significance"
TABLE, TEXT = f"{STEM}.csv", f"{STEM}.md"
NAMES = (TABLE, TEXT, *files(STEM))


def run(options: SignificanceOptions) -> int:
    """Read and compare the runs, then print and write the comparisons."""
    if options.margin is not None and options.margin <= 0:
        raise UserError(f"--margin must be above 0, got {options.margin:g}")
    asked = {name: getattr(options, name) for name in ("baseline", "rows", "columns", "margin")}
    outputs = Outputs(options.out, "significance", {"folder": str(options.source), **asked}, NAMES)
    outputs.check()
    with saved_runs(options.source) as runs:
        margin = None if options.margin is None else options.margin / 100
        lines, headings = recompute(runs, options.baseline, options.rows, options.columns, margin)
    grid = significance(lines, headings)
    print(f"{scope(lines)}\n\n{aligned([list(grid), *grid.to_numpy().tolist()])}")

    def write(folder: Path) -> None:
        pd.DataFrame(lines).to_csv(folder / TABLE, index=False)
        write_text(folder / TEXT, significance_markdown(lines, headings))
        if (figure := draw_differences(lines, headings)) is not None:
            save(figure, folder / STEM, caption_of_differences(lines))

    outputs.save(write)
    return 0
