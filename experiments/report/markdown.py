"""A table in GitHub's Markdown, and the pieces that any Markdown table is made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from experiments.report.table import Row, Summary, Table
from experiments.report.wording import COSTS, costs, legend, number, published_cells


def escape(text: object) -> str:
    """A cell's or sentence's text, with the characters that Markdown would read as marks escaped."""
    return str(text).replace("\\", "\\\\").replace("|", "\\|").replace("*", "\\*").replace("\n", " ")


def markdown_table(head: Sequence[object], lines: Iterable[Sequence[object]], title: str = "") -> str:
    """A table of plain texts: the first column at the left, the others at the right.

    Args:
        head: the columns' headings.
        lines: cells.
        title: printed in bold above.
    """
    above = [f"**{escape(title)}**", ""] if title else []
    escaped = [[escape(cell) for cell in line] for line in lines]
    return "\n".join([*above, *_lines([escape(cell) for cell in head], escaped)]) + "\n"


def kinds_markdown(
    scores: Mapping[str, Mapping[str, float | Summary]], title: str = "", corner: str = "Question type"
) -> str:
    """Scores per question type: one line per type, one column per method.

    Args:
        scores: method -> question type -> fraction, or mean and spread over seeds.
        title: printed in bold above.
        corner: heads the first column; lines may stand for something else than question types.
    """
    kinds = sorted({kind for of_kind in scores.values() for kind in of_kind})
    lines = [[kind, *(number(_summary(of_kind.get(kind))) for of_kind in scores.values())] for kind in kinds]
    return markdown_table([corner, *scores], lines, title)


def render_markdown(table: Table) -> str:
    """The table; the best contender of a column in bold."""
    headings = [escape(column.heading) for column in table.columns]
    head = ["Method", *headings, *COSTS]
    body: list[list[str]] = []
    for group, rows in table.groups.items():
        body.append([f"**{escape(group)}**", *[""] * (len(head) - 1)])
        body += [_cells(table, row) for row in rows]
    lines = [f"**{escape(table.title)}**", "", *_lines(head, body)]
    for block in table.published:
        cells = [[escape(name), *published_cells(table, numbers)] for name, numbers in block.rows.items()]
        lines += ["", f"*{escape(block.label)}*", "", *_lines(["Method", *headings], cells)]
    return "\n".join([*lines, "", *(f"- {escape(line)}" for line in legend(table, "Bold"))]) + "\n"


def _cells(table: Table, row: Row) -> list[str]:
    cells = [escape(row.name)]
    for column in table.columns:
        text = number(row.scores.get(column.key))
        text = f"**{text}**" if row.name in table.best(column.key) else text
        cells.append(text + " †" * table.differs(row.name, column.key))
    return cells + costs(row)


def _lines(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    rule = "| :--- |" + " ---: |" * (len(head) - 1)
    return [_line(head), rule, *map(_line, body)]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _summary(score: float | Summary | None) -> Summary | None:
    return score if score is None or isinstance(score, Summary) else Summary(score, None, 1)
