"""One page for finished runs, as an HTML file that needs nothing beside it, and as Markdown with figures."""

from __future__ import annotations

from experiments.base.files import write_bytes, write_text
from experiments.base.outputs import Outputs
from experiments.commands.options import ReportOptions
from experiments.tables.page import page_of

HTML, MARKDOWN, _ = NAMES = ("report.html", "report.md", "report-*.png")


def run(options: ReportOptions) -> int:
    """Read the runs, then write the page."""
    settings = {"runs": [str(one) for one in options.runs], "baseline": options.baseline}
    outputs = Outputs(options.out, "report", settings, NAMES)
    outputs.check()
    reading = page_of(options.runs, baseline=options.baseline)
    with reading as page, outputs.alone(), outputs.writing() as part:
        from experiments.tables.figure import png  # matplotlib is slow to import

        write_text(part / HTML, page.html())
        write_text(part / MARKDOWN, page.markdown())
        for picture in page.pictures:
            write_bytes(part / f"{picture.name}.png", png(picture.figure))
    print(f"{page.about}\nsaved: {options.out / HTML}, {options.out / MARKDOWN}")
    return 0
