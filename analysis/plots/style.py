"""Style of all figures, and how they are saved: as PNG, SVG and PDF, with the caption in a text file.

Figures are :data:`COLUMN` or :data:`PAGE` inches wide, one or both columns of a two-column page; text is 8 pt
and no figure has a title. With one version of matplotlib the same data give the same bytes.
"""

from __future__ import annotations

import io
import textwrap
from pathlib import Path
from typing import Any, Literal

import matplotlib
from cycler import cycler
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

COLUMN, PAGE = 3.3, 7.0  # inches
FORMATS = ("png", "svg", "pdf")
CAPTION = "caption.txt"
COLOURS = ("#0b5fa5", "#e07b00", "#1a9850", "#b2182b", "#7b4ba0", "#8c6239", "#35b6d6", "#d6569d", "#9a9a00")
GREY = "#8a8a8a"
DIVERGING = "RdBu_r"  # colour map of differences and excesses
SMALL = 6.5  # points: tick labels, numbers in cells
STYLE: Any = {  # of matplotlib
    "font.family": "DejaVu Sans",  # which matplotlib brings along
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.prop_cycle": cycler(color=COLOURS),
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "grid.color": "#e5e5e5",
    "grid.linewidth": 0.6,
    "text.parse_math": False,
    "savefig.dpi": 200,
    "savefig.facecolor": "white",
    "svg.hashsalt": "attngraph",
    "pdf.fonttype": 42,  # fonts that can be edited, which publishers ask for
}
_UNDATED: dict[str, dict[str, Any]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}


def styled():
    """The context in which a figure is made: :data:`STYLE`."""
    return matplotlib.rc_context(STYLE)


def new_figure(width: float, height: float, layout: Literal["constrained"] | None = "constrained") -> Figure:
    """An empty figure of this size in inches, without pyplot's state."""
    figure = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)
    return figure


def render(figure: Figure, kind: str) -> bytes:
    """A figure in one of :data:`FORMATS`, without the date."""
    file = io.BytesIO()
    with styled():
        figure.savefig(file, format=kind, metadata=_UNDATED.get(kind))
    return file.getvalue()


def save(figure: Figure, stem: Path, caption: str) -> None:
    """Write a figure under the names of :func:`files`.

    Args:
        stem: path without suffix.
        caption: what a reader must know; a paragraph for each line.
    """
    for name, kind in zip(files(stem.name), FORMATS):
        stem.with_name(name).write_bytes(render(figure, kind))
    lines = [
        textwrap.fill(line, 110, break_long_words=False, break_on_hyphens=False)
        for line in caption.strip().splitlines()
    ]
    stem.with_name(f"{stem.name}.{CAPTION}").write_text("\n".join(lines) + "\n", encoding="utf-8")


def files(stem: str) -> list[str]:
    """Names of the files of a figure: PNG, SVG, PDF and the caption."""
    return [f"{stem}.{kind}" for kind in (*FORMATS, CAPTION)]
