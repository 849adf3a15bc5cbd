"""One page for finished runs: tables, significance, curves, costs, and what adapters do.

    attngraph report runs/ablation-full --out runs/report
    attngraph report runs/ablation-full runs/mine --baseline gcn --title "My adapters" --out runs/report

The page is an HTML file that needs nothing beside it, and the same as Markdown with its figures as PNG.
"""

from __future__ import annotations

import argparse

from experiments.base.arguments import path, word
from experiments.base.files import write_bytes, write_text
from experiments.base.outputs import Outputs
from experiments.tables.page import TITLE, page_of
from experiments.tables.runs import PATTERN

HTML, MARKDOWN, _ = NAMES = ("report.html", "report.md", "report-*.png")


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
        help=f"Write {HTML}, {MARKDOWN} and its figures into this folder.",
    )
    add("--title", type=word, metavar="TEXT", help=f"Put this title on top. Default: {TITLE}.")
    add(
        "--baseline",
        type=word,
        metavar="NAME",
        help="Compare all rows that train with this method. Default: GNN adapters with gcn.",
    )


def run(args: argparse.Namespace) -> int:
    """Read the runs, then write the page."""
    about = {"title": args.title, "baseline": args.baseline}
    outputs = Outputs(args.out, "report", {"runs": [str(one) for one in args.runs], **about}, NAMES)
    outputs.check()
    with page_of(args.runs, args.title, args.baseline) as page, outputs.alone(), outputs.writing() as part:
        from experiments.tables.figure import png  # matplotlib is slow to import

        write_text(part / HTML, page.html())
        write_text(part / MARKDOWN, page.markdown())
        for picture in page.pictures:
            write_bytes(part / f"{picture.name}.png", png(picture.figure))
    print(f"{page.about}\nsaved: {args.out / HTML}, {args.out / MARKDOWN}")
    return 0
