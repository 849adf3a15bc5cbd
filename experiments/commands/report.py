"""One page for any number of finished runs: tables, significance, curves, costs, and what differs from the
published setting.

    attngraph report runs/ablation-full --out runs/report
    attngraph report runs/ablation-full runs/mine --baseline gcn --title "My adapters" --out runs/report

The page is an HTML file that needs nothing beside it, and the same as Markdown with its figures as PNG.
"""

from __future__ import annotations

import argparse

from experiments.arguments import path, word
from experiments.files import write_bytes, write_text
from experiments.outputs import Outputs
from experiments.progress import note
from experiments.report.archive import PATTERN
from experiments.report.overview.found import found_runs
from experiments.report.overview.page import TITLE, page_of

HTML, MARKDOWN, FIGURES = NAMES = ("report.html", "report.md", "report-*.png")


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
    with found_runs(args.runs) as search:
        if search.unfinished:
            note(f"{search.unfinished} unfinished runs are left out")
        page, tables = page_of(search, args.title, args.baseline)
        from experiments.report.overview.drawing import png  # matplotlib is slow to import
        from experiments.report.overview.html import render_html
        from experiments.report.overview.plain import pictures, render_markdown_page

        with outputs.alone(), outputs.writing() as part:
            write_text(part / HTML, render_html(page))
            write_text(part / MARKDOWN, render_markdown_page(page))
            for picture in pictures(page):
                write_bytes(part / f"{picture.name}.png", png(picture.figure))
    print(f"{page.about[0]}\nsaved: {args.out / HTML}, {args.out / MARKDOWN}")
    return 0
