"""Recompute every comparison and p value of a table from its raw results.

    attngraph significance runs/ablation-full                           # a table's folder
    attngraph significance experiments/results/full                     # archives of it
    attngraph significance runs/ablation-full --rows pgnn --baseline gcn,p2 --columns vqa.accuracy,ve.accuracy

:mod:`experiments.tables.variance` has the formulas.
"""

from __future__ import annotations

import argparse

from experiments.base.arguments import path, word
from experiments.base.files import whole, write_text
from experiments.base.outputs import Outputs
from experiments.base.progress import note
from experiments.tables.compare import BASELINE, recompute
from experiments.tables.details import significance, significance_markdown
from experiments.tables.make import names_in
from experiments.tables.render import aligned, scope
from experiments.tables.runs import PATTERN, saved_runs

TABLE, TEXT = NAMES = ("significance.csv", "significance.md")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``attngraph significance``."""
    add = parser.add_argument
    add(
        "source",
        type=path,
        metavar="FOLDER",
        help=f"Read this folder: one with a table's cells, or one with archives of them ({PATTERN}).",
    )
    add(
        "--baseline",
        type=word,
        default=BASELINE,
        metavar="NAMES",
        help=f"Compare with these rows, separated by commas. Default: {BASELINE}.",
    )
    add(
        "--rows",
        type=word,
        metavar="NAMES",
        help="Compare these rows, separated by commas; Holm's correction is over them. Default: the GNN "
        "adapters and pGNN's controls.",
    )
    add(
        "--columns",
        type=word,
        metavar="NAMES",
        help="Compare in these columns, separated by commas, such as vqa.accuracy. Default: all.",
    )
    add(
        "--out",
        type=path,
        metavar="FOLDER",
        help="Write the comparisons into this folder. Default: they are printed only.",
    )


def run(args: argparse.Namespace) -> int:
    """Read the runs, compare them, print and write what was found."""
    import pandas as pd

    asked = {name: getattr(args, name) for name in ("baseline", "rows", "columns")}
    outputs = None
    if args.out is not None:
        outputs = Outputs(args.out, "significance", {"folder": str(args.source), **asked}, NAMES)
        outputs.check()
    with saved_runs(args.source) as runs:
        lines, headings, about = recompute(runs, *map(names_in, asked.values()))
    grid = significance(lines, headings)
    print(f"{f'{scope(lines)} {about}'.strip()}\n\n{aligned([list(grid), *grid.to_numpy().tolist()])}")
    if outputs is not None:
        with outputs.alone(), outputs.writing() as part:
            with whole(part / TABLE) as file:
                pd.DataFrame(lines).to_csv(file, index=False)
            write_text(part / TEXT, significance_markdown(lines, headings, about))
        note(f"saved: {args.out / TABLE}, {args.out / TEXT}")
    return 0
