"""A table as aligned text, for terminals."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from experiments.report.table import Row, Table
from experiments.report.wording import COSTS, costs, legend, number, published_cells

_UNLIMITED = 1000  # characters in a line of the legend where no width is given
_MARKS = 2  # characters after a score: best, different


@dataclass(frozen=True)
class _Grid:
    """Names at the left and columns of cells, each as wide as its widest cell."""

    names: int
    widths: list[int]

    def line(self, block: Sequence[int], name: str, cells: Sequence[str]) -> str:
        texts = "".join("  " + cells[i].rjust(self.widths[i]) for i in block)
        return (name.ljust(self.names) + texts).rstrip()

    def width(self, block: Sequence[int]) -> int:
        return self.names + sum(self.widths[i] + 2 for i in block)

    def blocks(self, limit: int | None) -> list[list[int]]:
        """Columns that fit beside each other."""
        blocks: list[list[int]] = [[]]
        for i in range(len(self.widths)):
            if limit and blocks[-1] and self.width([*blocks[-1], i]) > limit:
                blocks.append([])
            blocks[-1].append(i)
        return blocks


def render_text(table: Table, width: int | None = None) -> str:
    """Aligned text.

    Args:
        table: the table.
        width: columns that do not fit into it go into further blocks below.
    """
    space = " " * _MARKS
    head = [*(column.heading + space for column in table.columns), *COSTS]
    body: list[tuple[str, list[str] | None]] = []  # name and cells; a group's heading has no cells
    for group, rows in table.groups.items():
        body += [(group, None), *((f"  {row.name}", _cells(table, row)) for row in rows)]
    published = {
        block.label: [
            (f"  {name}", [*(cell + space for cell in published_cells(table, numbers)), *[""] * len(COSTS)])
            for name, numbers in block.rows.items()
        ]
        for block in table.published
    }
    from_elsewhere = [line for lines in published.values() for line in lines]
    filled = [(name, cells) for name, cells in [*body, *from_elsewhere] if cells is not None]
    grid = _Grid(
        max(len(name) for name in ["Method", *(name for name, _ in [*body, *from_elsewhere])]),
        [max(len(cells[i]) for cells in [head, *(cells for _, cells in filled)]) for i in range(len(head))],
    )

    lines = [table.title, ""]
    for block in grid.blocks(width):
        rule = "─" * grid.width(block)
        lines += [grid.line(block, "Method", head), rule]
        lines += [name if cells is None else grid.line(block, name, cells) for name, cells in body]
        shown = {column.key for i, column in enumerate(table.columns) if i in block}
        for each in table.published:
            if any(shown & set(numbers) for numbers in each.rows.values()):
                lines += [rule, *textwrap.wrap(each.label, width or _UNLIMITED)]
                lines += [grid.line(block, name, cells) for name, cells in published[each.label]]
        lines += [rule, ""]
    for sentence in legend(table, "*"):
        lines += textwrap.wrap(sentence, width or _UNLIMITED)
    return "\n".join(lines) + "\n"


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Lines of cells with each column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _cells(table: Table, row: Row) -> list[str]:
    cells = []
    for column in table.columns:
        marks = "*" * (row.name in table.best(column.key)) + "†" * table.differs(row.name, column.key)
        cells.append(number(row.scores.get(column.key)) + marks.ljust(_MARKS))
    return cells + costs(row)
