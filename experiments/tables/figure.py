"""The figure of a table's comparisons: paired differences from the baseline with their intervals, as a forest
plot or over the number that sets the rows apart."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from attngraph.analysis.plots.style import COLOURS, COLUMN, GREY, PAGE, new_figure, render, styled
from attngraph.experiments.tables.render import scope
from attngraph.experiments.tables.table import ALPHA, Table

_MOST = 4  # panels in a row
_REACH = 3  # of a panel of lines, as a multiple of the largest difference
_COLOUR = COLOURS[0]


def draw_table(table: Table) -> tuple[Figure, str] | None:
    """The figure of a table with its caption; None where nothing is compared."""
    figure = draw_lines(table) if table.axis else draw_differences(table.comparisons, table.headings)
    if figure is None:
        return None
    if table.axis is None:
        return figure, f"{table.title}. {caption_of_differences(table.comparisons)}"
    dashed = " Dashed: published differences, of a larger model on other data." if table.published else ""
    return figure, (
        f"{table.title}. Paired differences from {table.baseline} (0) in points of the score. Bands: 95 % "
        f"intervals; wide ones are cut off at the panel.{dashed}"
    )


def draw_differences(comparisons: Sequence[Mapping[str, Any]], headings: Mapping[str, str]) -> Figure | None:
    """The difference of each pair of rows, in points, with its 95 % intervals for these checkpoints (thick)
    and for new ones (thin), one panel for each column. A filled dot is significant after Holm's correction.
    None where nothing is compared.

    Args:
        comparisons: as :func:`attngraph.experiments.tables.compare.compare_pairs` returns them.
        headings: column key -> heading, in the order of the panels.
    """
    if not comparisons:
        return None
    lines = pd.DataFrame(list(comparisons))
    lines["pair"] = lines["row"] + " − " + lines["baseline"]
    pairs = list(lines["pair"].unique())
    columns = [key for key in headings if key in set(lines["column"])]
    new = bool(lines["new_low"].notna().any())
    with styled():
        figure, panels = _panels(len(columns), 0.7 + 0.2 * len(pairs), sharey=True)
        for axes, key in zip(panels, columns):
            axes.axvline(0, color=GREY, linewidth=0.8, linestyle=":")
            for line in lines[lines["column"] == key].to_dict("records"):
                place = pairs.index(line["pair"])
                low, mean, high = (100 * line[end] for end in ("low", "difference", "high"))
                if pd.notna(line["new_low"]):
                    axes.hlines(place, 100 * line["new_low"], 100 * line["new_high"], GREY, linewidth=0.9)
                face = _COLOUR if line["p_holm"] < ALPHA else "white"
                axes.errorbar(
                    mean, place, xerr=[[mean - low], [high - mean]], fmt="o", color=_COLOUR,
                    markerfacecolor=face, elinewidth=2,
                )  # fmt: skip
            axes.set_title(headings[key])
            axes.set_xlabel("points")
            axes.set_yticks(range(len(pairs)), pairs)
            axes.set_ylim(len(pairs) - 0.5, -0.5)
            axes.tick_params(axis="y", length=0, labelsize=8)
        figure.legend(handles=_legend(new), loc="outside lower center", ncols=4)
    return figure


def caption_of_differences(comparisons: Sequence[Mapping[str, Any]]) -> str:
    """The caption of :func:`draw_differences`, with the population of its p-values."""
    new = any(line["new_low"] is not None for line in comparisons)
    thin = "; thin: the interval for new checkpoints" if new else ""
    return (
        f"Paired differences of rows in points of the score, with 95 % intervals{thin}. Filled: p < {ALPHA} "
        f"after Holm's correction over the {len(comparisons)} comparisons. {scope(comparisons)}"
    )


def draw_lines(table: Table) -> Figure | None:
    """Differences from the baseline over the number that sets the rows apart, with 95 % intervals as bands: a
    panel for each column, a line for each block of rows, dashed for published ones. None where nothing is
    compared.
    """
    assert table.axis is not None
    compared = {(line["row"], line["column"]): line for line in table.comparisons}
    columns = [key for key in table.headings if key in {key for _, key in compared}]
    if not columns:
        return None
    blocks = {
        name: [row.name for row in rows if row.name in table.places] for name, rows in table.groups.items()
    }
    blocks = {name: rows for name, rows in blocks.items() if rows}
    ticks = sorted(set(table.places.values()))
    alone = len(columns) == 1
    none = {"difference": 0.0, "low": 0.0, "high": 0.0}  # of the baseline from itself
    with styled():
        figure, panels = _panels(len(columns), 1.9, COLUMN if alone else PAGE)
        for axes, key in zip(panels, columns):
            axes.axhline(0, color=GREY, linewidth=0.8, linestyle=":")
            printed = _published(table, key)
            reach = [abs(number) for number in printed.values()]
            for colour, (block, rows) in zip(COLOURS, blocks.items()):
                rows = [row for row in rows if row == table.baseline or (row, key) in compared]
                lines = [compared.get((row, key), none) for row in rows]
                x = [table.places[row] for row in rows]
                low, mean, high = ([100 * one[end] for one in lines] for end in ("low", "difference", "high"))
                axes.plot(x, mean, "o-", color=colour, label=block)
                axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
                reach += map(abs, mean)
                if printed:
                    published = [printed[row] for row in rows]
                    axes.plot(x, published, "--", color=colour, label=f"{block}, published", linewidth=1)
            axes.set_title(table.headings[key])
            if table.axis.log:
                axes.set_xscale("log")
                axes.minorticks_off()
            axes.set_xticks(ticks, [table.axis.show(tick) for tick in ticks])
            axes.set_xlabel(table.axis.label)
            limit = _REACH * max(reach) or 1.0
            axes.set_ylim(-limit, limit)
        for axes in panels:
            if axes.get_subplotspec().is_first_col():
                axes.set_ylabel("difference, points")
        labels = {
            label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels())
        }
        figure.legend(labels.values(), labels.keys(), loc="outside lower center", ncols=2 if alone else 4)
    return figure


def _published(table: Table, key: str) -> dict[str, float]:
    """Published differences from the baseline in a column, by row; the printed rows are in the table's order.
    Empty where they are not the same rows.
    """
    rows = [row.name for row in table.rows]
    for block in table.published.values():
        numbers = [float(of_row[key]) for of_row in block.values() if key in of_row]
        if len(numbers) == len(rows):
            zero = numbers[rows.index(table.baseline)]
            return {row: number - zero for row, number in zip(rows, numbers)}
    return {}


def _panels(count: int, height: float, width: float = PAGE, **options: Any) -> tuple[Figure, list[Axes]]:
    """A figure with panels of this height, at most :data:`_MOST` in a row."""
    down = math.ceil(count / _MOST)
    across = math.ceil(count / down)
    figure = new_figure(width, height * down + 0.3)
    grid = list(figure.subplots(down, across, squeeze=False, **options).ravel())
    for axes in grid[count:]:
        axes.remove()
    return figure, grid[:count]


def _legend(new: bool) -> list[Line2D]:
    dot = {"color": _COLOUR, "marker": "o", "linestyle": "none"}
    these = "95 % interval" + ", these checkpoints" * new
    handles = [Line2D([], [], color=_COLOUR, linewidth=2, label=these)]
    if new:
        handles.append(Line2D([], [], color=GREY, linewidth=0.9, label="new checkpoints"))
    handles.append(Line2D([], [], **dot, label=f"Holm-corrected p < {ALPHA}"))
    return [*handles, Line2D([], [], **dot, markerfacecolor="white", label="not significant")]


def data_uri(figure: Figure) -> str:
    """A figure as PNG, as the address of an image on a page."""
    return f"data:image/png;base64,{base64.b64encode(render(figure, 'png')).decode()}"
