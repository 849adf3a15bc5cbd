"""Figures of a page: SVG whose colours are those of the page, by day and by night, and PNG."""

from __future__ import annotations

import io
import re
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

TEXT, PALE, LINE = "#222222", "#777777", "#dddddd"
#: A colour of a figure -> what stands for it on a page.
ON_PAGE = {
    TEXT: "currentColor",
    "#444444": "var(--pale)",
    PALE: "var(--pale)",
    "#666666": "var(--pale)",
    "#888888": "var(--pale)",
    "#999999": "var(--pale)",
    "#5b5b5b": "var(--pale)",
    LINE: "var(--line)",
    "#eeeeee": "var(--line)",
    "#0b5fa5": "var(--blue)",
    "#b3541e": "var(--orange)",
    "#000000": "currentColor",
}
#: Of lines: to be told from one another on light and on dark paper.
COLOURS = (
    "#2f7fd0", "#d9661f", "#2a9d5c", "#c23b78", "#8a63d2",
    "#a58a1c", "#2fa3ad", "#df5050", "#8c8c8c", "#a06f4d",
)  # fmt: skip
STYLES = ("-", "--", ":")  # of lines, when colours are used up
STYLE = {"font.family": "DejaVu Sans", "font.size": 9, "text.parse_math": False, "svg.fonttype": "none"}


def figure_of(width: float, height: float) -> Figure:
    """An empty figure, sizes in inches."""
    figure = Figure(figsize=(width, height), dpi=110, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def png(figure: Figure) -> bytes:
    """A figure as PNG."""
    file = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(file, format="png")
    return file.getvalue()


def svg(figure: Figure, name: str) -> str:
    """A figure as an ``<svg>`` element without addresses, in the colours of the page.

    Args:
        figure: which.
        name: begins the identifiers in it, so that several figures can stand on a page.
    """
    file = io.StringIO()
    about: dict[str, Any] = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        figure.savefig(file, format="svg", transparent=True, metadata=about)
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'\s(xmlns(:\w+)?|version)="[^"]*"', "", text)
    text = text.replace("xlink:href=", "href=")
    used = {*re.findall(r"url\(#([^)]+)\)", text), *re.findall(r'href="#([^"]+)"', text)}
    text = re.sub(r'\sid="([^"]+)"', lambda one: f' id="{name}-{one[1]}"' if one[1] in used else "", text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', text)
    for colour, there in ON_PAGE.items():
        text = text.replace(colour, there)
    return re.sub(r"\n\s*", "\n", text).strip()
