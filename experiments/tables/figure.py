"""Figures: a table as dots with the number beside each, curves of training, and both as SVG or PNG."""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from attngraph.errors import UserError
from experiments.base.errors import first_line
from experiments.base.files import write_bytes
from experiments.methods.method import ADAPTERS, ATTRIBUTION, REFERENCE
from experiments.tables.frame import Row, Summary
from experiments.tables.render import COSTS, Line, blocks_of, legend
from experiments.tables.runs import Run
from experiments.tables.table import Table
from experiments.tasks.task import Column, Task

STYLE = {"font.family": "DejaVu Sans", "font.size": 9, "text.parse_math": False, "svg.fonttype": "none"}
_COLOURS = {ADAPTERS: "#0b5fa5", ATTRIBUTION: "#b3541e", REFERENCE: "#5b5b5b"}
_OTHER, _TEXT, _PALE, _SMALL_PRINT = "#5b5b5b", "#222222", "#777777", "#444444"
#: A colour of a figure -> what stands for it on a page.
ON_PAGE = {
    "#222222": "currentColor",
    "#000000": "currentColor",
    **dict.fromkeys(("#444444", "#777777", "#666666", "#888888", "#999999", "#5b5b5b"), "var(--pale)"),
    **dict.fromkeys(("#dddddd", "#eeeeee"), "var(--line)"),
    "#0b5fa5": "var(--blue)",
    "#b3541e": "var(--orange)",
}
#: Of curves: to be told from one another on light and on dark paper.
COLOURS = (
    "#2f7fd0", "#d9661f", "#2a9d5c", "#c23b78", "#8a63d2",
    "#a58a1c", "#2fa3ad", "#df5050", "#8c8c8c", "#a06f4d",
)  # fmt: skip
STYLES = ("-", "--", ":")  # of curves, when colours are used up
METRICS, VALIDATION = "metrics.csv", "validation.csv"  # of a run
POINTS = 100  # of a curve
# inches: height of a row and of the title; width of a panel (its dots, then its numbers) and of a cost column
_ROW, _TOP, _PANEL, _DOTS, _COST = 0.27, 0.85, 2.12, 1.08, 0.8
_LEGEND_LINE, _LETTER = 0.19, 0.064  # inches: height of the legend's lines, width of a letter
_BOLD_LETTER = 0.08  # inches: width of a heading's letter
_LEAST_SPAN = 4.0  # points that an axis shows at least
_CURVES = 3.3  # inches: width of a panel of curves
_MOST, _BETWEEN = 8, 0.75  # panels beside each other; inches from one line of panels to the next


def draw_png(table: Table, path: str | Path) -> Path:
    """Write :func:`draw_figure` as a PNG file; returns the path."""
    return write_bytes(path, png(draw_figure(table)))


def draw_figure(table: Table) -> Figure:
    """Methods down the side, one panel per column, costs at the right. More panels than fit beside each other
    stand in several lines, each with the methods.

    A dot is the mean, its bar one standard deviation over seeds, the dotted line the baseline. The axis of a
    panel spans the trained adapters; a row beyond it is an arrow at the edge, so that far references do not
    squeeze them.
    """
    with matplotlib.rc_context(STYLE):
        return _Drawing(table).draw()


class _Drawing:
    """Sizes in inches, from the lower left corner."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.lines: list[Line] = []  # a heading is one without cells
        for block in blocks_of(table):
            self.lines += [Line("", ())] * block.published + [Line(block.heading, ()), *block.lines]
        self.columns = [
            (place, column)
            for place, column in enumerate(table.columns)
            if any(column.key in row.scores for row in table.rows)
        ]
        bar = ", bar = ± one standard deviation" if table.has_spread else ""
        self.names = 0.35 + 0.078 * max([len(line.name) for line in self.lines if line.cells], default=6)
        self.bands = _bands(self.columns)
        self.costs = self.names + _PANEL * len(self.bands[-1])
        widths = [self.names + _PANEL * len(self.bands[0]), self.costs + _COST * len(COSTS)]
        widths += [0.15 + _BOLD_LETTER * len(line.name) for line in self.lines if not line.cells]
        self.width = 0.2 + max(widths)
        sentences = [
            *legend(table, "Bold"),
            f"Dot = mean{bar}, dotted line = {table.baseline}, arrow = beyond the axis; "
            "axes do not start at 0.",
        ]
        self.legend = [line for text in sentences for line in textwrap.wrap(text, int(self.width / _LETTER))]
        self.bottom = 0.35 + _LEGEND_LINE * len(self.legend)
        self.body = _ROW * len(self.lines)
        self.height = _TOP + self.body + (self.body + _BETWEEN) * (len(self.bands) - 1) + self.bottom
        self.figure = Figure(figsize=(self.width, self.height), dpi=150, facecolor="white")
        FigureCanvasAgg(self.figure)

    def draw(self) -> Figure:
        self._text(0.15, self.height - 0.28, self.table.title, fontsize=12, fontweight="bold")
        for above, band in enumerate(reversed(self.bands)):
            self.floor = self.bottom + above * (self.body + _BETWEEN)
            self._draw_names()
            for place, (which, column) in enumerate(band):
                left = self.names + place * _PANEL
                self._draw_heading(left + 0.55 * _PANEL, column.heading, "center")
                self._draw_axes(left + 0.1, column)
                self._draw_numbers(left + _PANEL - 0.09, which)
            for place, heading in enumerate(COSTS if above == 0 else ()):
                self._draw_costs(self.costs + (place + 1) * _COST, place, heading)
        for place, sentence in enumerate(reversed(self.legend)):
            y = _LEGEND_LINE * (place + 1) - 0.02
            self._text(0.15, y, sentence, fontsize=8, color=_SMALL_PRINT)
        return self.figure

    def _text(self, x: float, y: float, content: str, **style: Any) -> None:
        self.figure.text(x / self.width, y / self.height, content, va="center", **style)

    def _y(self, place: int) -> float:
        return self.floor + self.body - (place + 0.5) * _ROW

    def _draw_heading(self, x: float, heading: str, side: str) -> None:
        self._text(x, self.floor + self.body + _TOP - 0.68, heading, fontweight="bold", ha=side)

    def _draw_names(self) -> None:
        for place, line in enumerate(self.lines):
            style = {} if line.cells else {"fontstyle": "italic", "fontweight": "bold"}
            self._text(0.3 if line.cells else 0.15, self._y(place), line.name, color=_of_text(line), **style)

    def _draw_numbers(self, right: float, column: int) -> None:
        for place, line in ((place, line) for place, line in enumerate(self.lines) if line.cells):
            cell = line.cells[column]
            weight = "bold" if cell.best else "normal"
            style = {"fontsize": 8.5, "color": _of_text(line), "fontweight": weight}
            self._text(right, self._y(place), cell.text, ha="right", **style)
            if cell.differs:
                self._text(right + 0.01, self._y(place), "†", ha="left", fontsize=8.5)

    def _draw_costs(self, right: float, which: int, heading: str) -> None:
        self._draw_heading(right, heading, "right")
        for place, line in enumerate(self.lines):
            if line.row:
                self._text(right, self._y(place), line.costs[which], ha="right", fontsize=8.5, color=_TEXT)

    def _draw_axes(self, left: float, column: Column) -> None:
        box = (left / self.width, self.floor / self.height, _DOTS / self.width, self.body / self.height)
        rows = {place: line.row for place, line in enumerate(self.lines) if line.row is not None}
        _Panel(self.figure.add_axes(box), rows, len(self.lines), column.key, self.table).draw()


def _of_text(line: Line) -> str:
    return _PALE if line.cells and line.row is None else _TEXT


@dataclass
class _Panel:
    """The dots of one column; ``rows`` by their places among so many lines."""

    axes: Axes
    rows: Mapping[int, Row]
    lines: int
    key: str
    table: Table

    def draw(self) -> None:
        self.axes.set_ylim(self.lines - 0.5, -0.5)
        low, high = self._limits()
        self._draw_frame(low, high)
        for place, row in self.rows.items():
            self.axes.axhline(place, color="#eeeeee", linewidth=0.8, zorder=0)
            if self.key not in row.scores:
                continue
            score, colour = row.scores[self.key], self._colour(row)
            if row.name == self.table.baseline:
                line = {"color": "#888888", "linewidth": 0.9, "zorder": 1}
                self.axes.plot([100 * score.mean] * 2, [0.5, max(self.rows) + 0.5], ":", **line)
            if low <= 100 * score.mean <= high:
                self._draw_dot(place, score, colour)
            else:
                beyond = 100 * score.mean > high
                arrow = {"marker": ">" if beyond else "<", "markersize": 6, "clip_on": False, "zorder": 3}
                self.axes.plot(high if beyond else low, place, color=colour, **arrow)

    def _draw_frame(self, low: float, high: float) -> None:
        self.axes.set_xlim(low, high)
        self.axes.set_yticks([])
        for side in ("left", "right", "top"):
            self.axes.spines[side].set_visible(False)
        self.axes.spines["bottom"].set_position(("data", max(self.rows) + 0.5))
        self.axes.spines["bottom"].set_color("#999999")
        self.axes.tick_params(axis="x", labelsize=7.5, colors="#666666", length=2.5, pad=1.5)
        ticks = MaxNLocator(4, steps=[1, 2, 5, 10]).tick_values(low, high)
        inside = [tick for tick in ticks if low <= tick <= high]
        # more than two would touch with three digits
        self.axes.set_xticks(inside if len(inside) < 3 else [inside[0], inside[-1]])

    def _colour(self, row: Row) -> str:
        return _COLOURS[ADAPTERS] if self.table.contends(row) else _COLOURS.get(row.group, _OTHER)

    def _limits(self) -> tuple[float, float]:
        """Axis limits on the printed scale: the contenders and their controls (or else all rows), and rows
        close to them.
        """
        rows = [row for row in self.rows.values() if self.key in row.scores]
        focus = [row for row in rows if self.table.contends(row) or row.group == ATTRIBUTION] or rows
        return _around([row.scores[self.key] for row in focus], [row.scores[self.key] for row in rows])

    def _draw_dot(self, place: int, score: Summary, colour: str) -> None:
        bar = None if score.std is None else 100 * score.std
        style = {"markersize": 5, "elinewidth": 1.4, "capsize": 2.5, "zorder": 3}
        self.axes.errorbar(100 * score.mean, place, xerr=bar, fmt="o", color=colour, **style)


def _bands(columns: Sequence[tuple[int, Column]]) -> list[Sequence[tuple[int, Column]]]:
    """The columns in lines of about the same length; the first is the longest."""
    count = max(1, -(-len(columns) // _MOST))
    size = max(1, -(-len(columns) // count))
    return [columns[start : start + size] for start in range(0, size * count, size)]


def _around(focus: Sequence[Summary], scores: Sequence[Summary]) -> tuple[float, float]:
    """Limits on the printed scale around some scores, and others close to them."""
    ends = [end for score in focus for end in _ends(score)]
    low, high = min(ends), max(ends)
    margin = max(0.0, _LEAST_SPAN - (high - low)) / 2  # a tenth of a point should look small
    low, high = low - margin, high + margin
    reach = 0.5 * (high - low)
    near = [score for score in scores if low - reach < 100 * score.mean < high + reach]
    ends = [end for score in near for end in _ends(score)]
    low, high = min([low, *ends]), max([high, *ends])
    return low - 0.06 * (high - low), high + 0.06 * (high - low)


def _ends(score: Summary) -> tuple[float, float]:
    """The ends of a row's bar on the printed scale."""
    return 100 * (score.mean - (score.std or 0)), 100 * (score.mean + (score.std or 0))


# ---- curves ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Curve:
    """A row's numbers over steps.

    Args:
        steps: ``(n,)``.
        values: ``(S, n)``, one line for each seed.
    """

    steps: np.ndarray
    values: np.ndarray


def read_steps(file: Path) -> pd.DataFrame:
    """A CSV file of numbers by its column ``step``; empty without a file.

    Raises:
        UserError: the file is damaged.
    """
    if not file.is_file():
        return pd.DataFrame()
    try:
        frame = pd.read_csv(file, dtype=float, index_col=False)
        if frame.empty or "step" not in frame or frame["step"].isna().any():
            raise ValueError("no lines with a step")
        return frame.set_index("step")
    except ValueError as error:
        raise UserError(f"{file} is damaged ({first_line(error)}): delete it, or run again") from None


def thinned(frame: pd.DataFrame, points: int = POINTS) -> pd.DataFrame:
    """At most so many lines: means over stretches of steps of one length, the last one perhaps shorter."""
    length = math.ceil(len(frame) / points)
    if length <= 1:
        return frame
    frame = frame.reset_index().groupby(np.arange(len(frame)) // length).mean()
    return frame.set_index("step")


def curves_of(rows: Mapping[str, Sequence[Run]], task: Task) -> dict[str, dict[str, Curve]]:
    """Loss, learning rate and validation scores over steps: panel's title -> row -> curve. Seeds that stopped
    earlier end a curve where the shortest ends.

    Args:
        rows: title -> runs on the task, by seed.
        task: which.

    Raises:
        UserError: a file is damaged.
    """
    files = {
        name: {title: [read_steps(run.folder / name) for run in runs] for title, runs in rows.items()}
        for name in (METRICS, VALIDATION)
    }
    asked = [(METRICS, "loss", "training loss", 1.0), (METRICS, "learning_rate", "learning rate", 1.0)]
    asked += [(VALIDATION, c.key, f"{c.heading}, validation (× 100)", 100.0) for c in task.columns]
    panels: dict[str, dict[str, Curve]] = {}
    for file, column, panel, scale in asked:
        for title, frames in files[file].items():
            held = [frame if file == VALIDATION else thinned(frame) for frame in frames if column in frame]
            if held:
                steps = min((frame.index for frame in held), key=len).to_numpy()
                values = np.stack([frame[column].to_numpy()[: len(steps)] for frame in held])
                panels.setdefault(panel, {})[title] = Curve(steps, scale * values)
    return panels


def draw_curves(panels: Mapping[str, Mapping[str, Curve]]) -> Figure:
    """One panel beside the other; a line is the mean over seeds, its shade reaches from the lowest to the
    highest seed.
    """
    names = list(dict.fromkeys(name for curves in panels.values() for name in curves))
    styles = [(style, colour) for style in STYLES for colour in COLOURS]
    style_of = {name: styles[place % len(styles)] for place, name in enumerate(names)}
    width = _CURVES * len(panels)
    per_line = max(1, int(width / (0.7 + 0.075 * max(map(len, names)))))
    legend_height = 0.19 * math.ceil(len(names) / per_line) + 0.1
    height = 2.35 + legend_height
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), dpi=110, facecolor="white")
        FigureCanvasAgg(figure)
        for number, (title, curves) in enumerate(panels.items()):
            left, bottom = (number * _CURVES + 0.55) / width, (legend_height + 0.5) / height
            axes = figure.add_axes((left, bottom, (_CURVES - 0.75) / width, 1.5 / height))
            for name, curve in curves.items():
                _draw_curve(axes, curve, *style_of[name])
            _draw_curve_frame(axes, title, list(curves.values()))
        handles = [Line2D([], [], color=colour, linestyle=style) for style, colour in style_of.values()]
        figure.legend(
            handles, names, loc="lower center", ncols=min(per_line, len(names)), frameon=False, fontsize=8.5,
            labelcolor=_TEXT, borderaxespad=0.2,
        )  # fmt: skip
    return figure


def _draw_curve(axes: Axes, curve: Curve, style: str, colour: str) -> None:
    known = np.isfinite(curve.values).all(axis=0)
    steps, values = curve.steps[known], curve.values[:, known]
    dots = {"marker": "o", "markersize": 3} if len(steps) < 12 else {}
    axes.plot(steps, values.mean(axis=0), style, color=colour, linewidth=1.3, **dots)
    if len(values) > 1:
        shade = {"color": colour, "alpha": 0.14, "linewidth": 0}
        axes.fill_between(steps, values.min(axis=0), values.max(axis=0), **shade)


def _draw_curve_frame(axes: Axes, title: str, curves: Sequence[Curve]) -> None:
    axes.set_title(title, fontsize=9.5, color=_TEXT, loc="left")
    axes.set_xlabel("step", color=_PALE, fontsize=8.5)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.tick_params(colors=_PALE, labelsize=8, length=2.5)
    axes.ticklabel_format(axis="y", scilimits=(-3, 4), useOffset=False)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.get_offset_text().set(color=_PALE, fontsize=8)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color("#dddddd")
    later = [curve.values[:, len(curve.steps) // 20 :] for curve in curves if len(curve.steps) >= 20]
    if len(later) == len(curves):  # leave out how high curves begin, which would flatten all that follows
        ends = np.concatenate([values[np.isfinite(values)] for values in later])
        low, high = (ends.min(), ends.max()) if ends.size else (0.0, 1.0)
        margin = 0.05 * (high - low) or 0.05
        axes.set_ylim(low - margin, high + margin)


# ---- files ----------------------------------------------------------------------------------------------


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
