"""One page for finished runs, as a self-contained HTML file."""

from __future__ import annotations

from attngraph.experiments.base.files import write_text
from attngraph.experiments.base.outputs import Outputs
from attngraph.experiments.commands.options import ReportOptions
from attngraph.experiments.tables.page import page_of

HTML = "report.html"


def run(options: ReportOptions) -> int:
    """Read the runs, then write the page."""
    settings = {"runs": [str(one) for one in options.runs], "baseline": options.baseline}
    outputs = Outputs(options.out, "report", settings, (HTML,))
    outputs.check()
    page, about = page_of(options.runs, options.baseline)
    print(about)
    outputs.save(lambda folder: write_text(folder / HTML, page))
    return 0
