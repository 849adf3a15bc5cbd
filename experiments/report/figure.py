"""A table as a figure: per column a dot plot with the printed number beside each dot."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.files import whole
from experiments.methods.method import ADAPTERS, ATTRIBUTION, REFERENCE
from experiments.report.table import Row, Summary, Table
from experiments.report.wording import COSTS, MISSING, costs, legend, number
from experiments.tasks.task import Column

_STYLE = {"font.family": "DejaVu Sans", "font.size": 9, "text.parse_math": False}
_COLOURS = {ADAPTERS: "#0b5fa5", ATTRIBUTION: "#b3541e", REFERENCE: "#5b5b5b"}
_OTHER, _TEXT, _PALE, _SMALL_PRINT = "#5b5b5b", "#222222", "#777777", "#444444"
# inches: height of a row and of the title; width of a panel (its dots, then its numbers) and of a cost column
_ROW, _TOP, _PANEL, _DOTS, _COST = 0.27, 0.85, 2.12, 1.08, 0.8
_LEGEND_LINE, _LETTER = 0.19, 0.064  # inches: height of the legend's lines, width of a letter
_BOLD_LETTER = 0.08  # inches: width of a heading's letter
_LEAST_SPAN = 4.0  # points that an axis shows at least
_MOST, _BETWEEN = 8, 0.75  # panels beside each other; inches from one line of panels to the next


def draw_png(table: Table, path: str | Path) -> Path:
    """Write :func:`draw_figure` as a PNG file; returns the path."""
    with matplotlib.rc_context(_STYLE), whole(path) as part:
        draw_figure(table).savefig(part, format="png")
    return Path(path)


def draw_figure(table: Table) -> Figure:
    """Methods down the side, one panel per column, costs at the right. More panels than fit beside each other
    stand in several lines, each with the methods.

    A dot is the mean, its bar one standard deviation over seeds, the dotted line the baseline. The axis of a
    panel spans the trained adapters; a row beyond it is an arrow at the edge, so that far references do not
    squeeze them.
    """
    with matplotlib.rc_context(_STYLE):
        return _Drawing(table).draw()


@dataclass(frozen=True)
class _Line:
    """A line of the figure: a heading, a row of the table, or a published row."""

    name: str
    row: Row | None = None
    published: Mapping[str, str] | None = None

    @property
    def is_heading(self) -> bool:
        return self.row is None and self.published is None

    @property
    def colour(self) -> str:
        return _TEXT if self.published is None else _PALE

    def text(self, key: str) -> str:
        """What stands in a column."""
        if self.published is not None:
            return self.published.get(key, MISSING)
        return "" if self.row is None else number(self.row.scores.get(key))


class _Drawing:
    """Sizes in inches, from the lower left corner."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.lines = _lines(table)
        self.columns = [
            column for column in table.columns if any(column.key in row.scores for row in table.rows)
        ]
        bar = ", bar = ± one standard deviation" if table.has_spread else ""
        self.names = 0.35 + 0.078 * max(
            [len(line.name) for line in self.lines if not line.is_heading], default=6
        )
        self.bands = _bands(self.columns)
        self.costs = self.names + _PANEL * len(self.bands[-1])
        widths = [self.names + _PANEL * len(self.bands[0]), self.costs + _COST * len(COSTS)]
        widths += [0.15 + _BOLD_LETTER * len(line.name) for line in self.lines if line.is_heading]
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
            for place, column in enumerate(band):
                left = self.names + place * _PANEL
                self._draw_heading(left + 0.55 * _PANEL, column.heading, "center")
                self._draw_axes(left + 0.1, column)
                self._draw_numbers(left + _PANEL - 0.09, column)
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
            style = {"fontstyle": "italic", "fontweight": "bold"} if line.is_heading else {}
            self._text(
                0.15 if line.is_heading else 0.3, self._y(place), line.name, color=line.colour, **style
            )

    def _draw_numbers(self, right: float, column: Column) -> None:
        best = self.table.best(column.key)
        for place, line in enumerate(self.lines):
            weight = "bold" if line.row and line.name in best else "normal"
            style = {"fontsize": 8.5, "color": line.colour, "fontweight": weight}
            self._text(right, self._y(place), line.text(column.key), ha="right", **style)
            if line.row and self.table.differs(line.name, column.key):
                self._text(right + 0.01, self._y(place), "†", ha="left", fontsize=8.5)

    def _draw_costs(self, right: float, which: int, heading: str) -> None:
        self._draw_heading(right, heading, "right")
        for place, line in enumerate(self.lines):
            if line.row:
                self._text(
                    right, self._y(place), costs(line.row)[which], ha="right", fontsize=8.5, color=_TEXT
                )

    def _draw_axes(self, left: float, column: Column) -> None:
        box = (left / self.width, self.floor / self.height, _DOTS / self.width, self.body / self.height)
        _Panel(self.figure.add_axes(box), self.lines, column.key, self.table).draw()


@dataclass
class _Panel:
    """The dots of one column."""

    axes: Axes
    lines: Sequence[_Line]
    key: str
    table: Table

    @cached_property
    def rows(self) -> dict[int, Row]:
        """Place -> row, for rows of the table with or without a score in this column."""
        return {place: line.row for place, line in enumerate(self.lines) if line.row is not None}

    @cached_property
    def last(self) -> int:
        """The place of the table's last row."""
        return max(self.rows)

    def draw(self) -> None:
        self.axes.set_ylim(len(self.lines) - 0.5, -0.5)
        low, high = self._limits()
        self._draw_frame(low, high)
        for place, row in self.rows.items():
            self.axes.axhline(place, color="#eeeeee", linewidth=0.8, zorder=0)
            if self.key not in row.scores:
                continue
            score, colour = row.scores[self.key], self._colour(row)
            if row.name == self.table.baseline:
                line = {"color": "#888888", "linewidth": 0.9, "zorder": 1}
                self.axes.plot([100 * score.mean] * 2, [0.5, self.last + 0.5], ":", **line)
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
        self.axes.spines["bottom"].set_position(("data", self.last + 0.5))
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


def _lines(table: Table) -> list[_Line]:
    lines = []
    for group, rows in table.groups.items():
        lines += [_Line(group), *(_Line(row.name, row) for row in rows)]
    for block in table.published:
        lines += [_Line(""), _Line(block.label)]
        lines += [_Line(name, published=numbers) for name, numbers in block.rows.items()]
    return lines


def _bands(columns: Sequence[Column]) -> list[Sequence[Column]]:
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
