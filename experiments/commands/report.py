"""One page for finished runs: tables, significance, curves, costs, and what adapters do.

    attngraph report runs/ablation-full --out runs/report
    attngraph report runs/ablation-full runs/mine --baseline gcn --out runs/report

The page is an HTML file that needs nothing beside it.
"""

from __future__ import annotations

import argparse

from experiments.base.arguments import path, word
from experiments.base.files import write_text
from experiments.base.outputs import Outputs
from experiments.tables.page import page_of
from experiments.tables.runs import PATTERN

HTML = "report.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``attngraph report``."""
    add = parser.add_argument
    add(
        "runs",
        nargs="+",
        type=path,
        metavar="FOLDER",
        help=f"Read these folders: of tables, of single runs, or of archives ({PATTERN}).",
    )
    add(
        "--out",
        type=path,
        required=True,
        metavar="FOLDER",
        help=f"Write {HTML} into this folder.",
    )
    add(
        "--baseline",
        type=word,
        metavar="NAME",
        help="Compare all rows that train with this method. Default: GNN adapters with gcn.",
    )


def run(args: argparse.Namespace) -> int:
    """Read the runs, then write the page."""
    settings = {"runs": [str(one) for one in args.runs], "baseline": args.baseline}
    outputs = Outputs(args.out, "report", settings, (HTML,))
    outputs.check()
    page, about = page_of(args.runs, args.baseline)
    with outputs.alone(), outputs.writing() as part:
        write_text(part / HTML, page)
    print(f"{about}\nsaved: {args.out / HTML}")
    return 0
