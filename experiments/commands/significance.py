"""Recompute every comparison of a table from its raw results (:mod:`experiments.tables.variance`)."""

from __future__ import annotations

from experiments.base.files import whole, write_text
from experiments.base.outputs import Outputs
from experiments.base.progress import note
from experiments.commands.options import SignificanceOptions
from experiments.tables.compare import recompute
from experiments.tables.details import significance, significance_markdown
from experiments.tables.render import aligned, scope
from experiments.tables.runs import saved_runs

TABLE, TEXT = NAMES = ("significance.csv", "significance.md")


def run(options: SignificanceOptions) -> int:
    """Read the runs, compare them, print and write what was found."""
    import pandas as pd

    asked = {name: getattr(options, name) for name in ("baseline", "rows", "columns")}
    outputs = None
    if options.out is not None:
        outputs = Outputs(options.out, "significance", {"folder": str(options.source), **asked}, NAMES)
        outputs.check()
    with saved_runs(options.source) as runs:
        lines, headings = recompute(runs, options.baseline, options.rows, options.columns)
    grid = significance(lines, headings)
    print(f"{scope(lines)}\n\n{aligned([list(grid), *grid.to_numpy().tolist()])}")
    if outputs is not None:
        with outputs.alone(), outputs.writing() as part:
            with whole(part / TABLE) as file:
                pd.DataFrame(lines).to_csv(file, index=False)
            write_text(part / TEXT, significance_markdown(lines, headings))
        note(f"saved: {options.out / TABLE}, {options.out / TEXT}")
    return 0
