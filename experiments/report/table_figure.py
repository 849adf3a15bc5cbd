"""The ablation table as a figure: per column a dot plot with the printed number beside each dot."""

from pathlib import Path

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from experiments.report.tables import (
    ADAPTERS,
    ATTRIBUTION,
    COSTS,
    MISSING,
    PUBLISHED_LABEL,
    REFERENCE,
    Row,
    Table,
    _costs,
    _legend,
    _number,
)

_COLOURS = {ADAPTERS: "#0b5fa5", ATTRIBUTION: "#b3541e", REFERENCE: "#5b5b5b"}
# inches: row height, title, panel (its dots, then its numbers) and cost column widths
_ROW, _TOP, _PANEL, _DOTS, _COST = 0.27, 0.85, 2.12, 1.08, 0.8
_LEAST_SPAN = 4.0  # points that an axis shows at least


def draw_table(table: Table, path: Path) -> None:
    """Draw a PNG: methods down the side, one panel per column, costs at the right.

    A dot is the mean, its bar one standard deviation over seeds, the dotted line the baseline. The axis of a
    panel spans the trained adapters; a row beyond it is an arrow at the edge, so that far references do not
    squeeze them.
    """
    lines: list[tuple[str, Row | dict | None]] = []  # (name, row | published cells | None for a heading)
    for group, rows in table.groups.items():
        lines += [(group, None), *((row.name, row) for row in rows)]
    if table.published:
        lines += [("", None), (PUBLISHED_LABEL, None), *table.published.items()]
    columns = {
        column: title
        for column, title in table.columns.items()
        if any(column in row.columns for row in table.rows)
    }
    bars = any(std is not None for row in table.rows for _, std, _ in row.columns.values())
    legend = [
        *_legend(table, "Bold", "†"),
        f"Dot = mean{', bar = ± one standard deviation' if bars else ''}, dotted line = "
        f"{table.baseline}, arrow = beyond the axis; axes do not start at 0.",
    ]

    names = 0.35 + 0.078 * max(len(name) for name, row in lines if row is not None)
    width = names + _PANEL * len(columns) + _COST * len(COSTS) + 0.2
    body, bottom = _ROW * len(lines), 0.35 + 0.19 * len(legend)
    height = _TOP + body + bottom
    with matplotlib.rc_context({"font.family": "DejaVu Sans", "font.size": 9, "text.parse_math": False}):
        figure = Figure(figsize=(width, height), dpi=150, facecolor="white")
        FigureCanvasAgg(figure)

        def text(x: float, y: float, content: str, **style) -> None:  # inches from the lower left corner
            figure.text(x / width, y / height, content, **style)

        def row_y(i: int) -> float:
            return bottom + body - (i + 0.5) * _ROW

        text(0.15, height - 0.28, table.title, fontsize=12, fontweight="bold", va="center")
        for i, (name, row) in enumerate(lines):
            heading = row is None
            colour = "#222222" if heading or isinstance(row, Row) else "#777777"
            text(
                0.15 if heading else 0.3,
                row_y(i),
                name,
                va="center",
                color=colour,
                fontstyle="italic" if heading else "normal",
                fontweight="bold" if heading else "normal",
            )
        for k, (column, title) in enumerate(columns.items()):
            left = names + k * _PANEL
            text(left + 0.55 * _PANEL, height - 0.68, title, fontweight="bold", va="center", ha="center")
            _draw_panel(
                figure,
                table,
                column,
                lines,
                ((left + 0.1) / width, bottom / height, _DOTS / width, body / height),
            )
            for i, (name, row) in enumerate(lines):
                if row is None:
                    continue
                ours = isinstance(row, Row)
                content = _number(row.columns.get(column)) if ours else row.get(column, MISSING)
                best = ours and name in table.best(column)
                text(
                    left + _PANEL - 0.09,
                    row_y(i),
                    content,
                    va="center",
                    ha="right",
                    fontweight="bold" if best else "normal",
                    fontsize=8.5,
                    color="#222222" if ours else "#777777",
                )
                if ours and table.dagger(name, column):
                    text(left + _PANEL - 0.08, row_y(i), "†", va="center", ha="left", fontsize=8.5)
        for k, title in enumerate(COSTS):
            right = names + _PANEL * len(columns) + (k + 1) * _COST
            text(right, height - 0.68, title, fontweight="bold", va="center", ha="right")
            for i, (_, row) in enumerate(lines):
                if isinstance(row, Row):
                    text(
                        right,
                        row_y(i),
                        _costs(row)[k],
                        va="center",
                        ha="right",
                        fontsize=8.5,
                        color="#222222",
                    )
        for k, line in enumerate(legend):
            text(0.15, 0.19 * (len(legend) - k) - 0.02, line, va="center", fontsize=8, color="#444444")
        figure.savefig(path, format="png")


def _draw_panel(figure: Figure, table: Table, column: str, lines: list, box: tuple[float, ...]) -> None:
    rows = [(i, row) for i, (_, row) in enumerate(lines) if isinstance(row, Row) and column in row.columns]
    last = max([i for i, (_, row) in enumerate(lines) if isinstance(row, Row)], default=0)
    axes = figure.add_axes(box)
    axes.set_ylim(len(lines) - 0.5, -0.5)
    axes.set_yticks([])
    for side in ("left", "right", "top"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_position(("data", last + 0.5))
    axes.spines["bottom"].set_color("#999999")
    axes.tick_params(axis="x", labelsize=7.5, colors="#666666", length=2.5, pad=1.5)
    if not rows:
        axes.set_axis_off()
        return

    low, high = _limits([row for _, row in rows], column)
    axes.set_xlim(low, high)
    ticks = matplotlib.ticker.MaxNLocator(4, steps=[1, 2, 5, 10]).tick_values(low, high)
    inside = [tick for tick in ticks if low <= tick <= high]
    axes.set_xticks(
        inside if len(inside) < 3 else [inside[0], inside[-1]]
    )  # more would touch with three digits
    for i, (_, row) in enumerate(lines[: last + 1]):
        if isinstance(row, Row):
            axes.axhline(i, color="#eeeeee", linewidth=0.8, zorder=0)
    for i, row in rows:
        mean, std, _ = row.columns[column]
        colour = _COLOURS.get(row.group, "#5b5b5b")
        if row.name == table.baseline:
            axes.plot([100 * mean] * 2, [0.5, last + 0.5], ":", color="#888888", linewidth=0.9, zorder=1)
        if low <= 100 * mean <= high:
            axes.errorbar(
                100 * mean,
                i,
                xerr=None if std is None else 100 * std,
                fmt="o",
                color=colour,
                markersize=5,
                elinewidth=1.4,
                capsize=2.5,
                zorder=3,
            )
        else:
            beyond = 100 * mean > high
            axes.plot(
                high if beyond else low,
                i,
                marker=">" if beyond else "<",
                color=colour,
                markersize=6,
                clip_on=False,
                zorder=3,
            )


def _limits(rows: list[Row], column: str) -> tuple[float, float]:
    """Axis limits on the printed scale: the trained adapters (or else all rows) and rows close to them."""
    focus = [row for row in rows if row.group in (ADAPTERS, ATTRIBUTION)] or rows
    ends = [end for row in focus for end in _ends(row, column)]
    low, high = min(ends), max(ends)
    short = max(0.0, _LEAST_SPAN - (high - low)) / 2  # a tenth of a point should look small
    low, high = low - short, high + short
    reach = 0.5 * (high - low)
    near = [
        end
        for row in rows
        if low - reach < 100 * row.columns[column][0] < high + reach
        for end in _ends(row, column)
    ]
    low, high = min([low, *near]), max([high, *near])
    return low - 0.06 * (high - low), high + 0.06 * (high - low)


def _ends(row: Row, column: str) -> tuple[float, float]:
    """The ends of a row's bar on the printed scale."""
    mean, std, _ = row.columns[column]
    return 100 * (mean - (std or 0)), 100 * (mean + (std or 0))
