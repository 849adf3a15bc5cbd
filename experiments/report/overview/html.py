"""A page as one HTML file that needs nothing beside it: no script, no network, colours for day and night."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files

from experiments.report.overview.blocks import Block, Commands, Grid, Page, Picture, Scores, Section, Text
from experiments.report.overview.drawing import svg
from experiments.report.table import Row, Table
from experiments.report.wording import COSTS, costs, legend, number, published_cells


def render_html(page: Page) -> str:
    """The page. All texts are escaped."""
    style = files("experiments.report.overview").joinpath("page.css").read_text(encoding="utf-8")
    names = _anchors(page.sections)
    contents = "".join(
        f'<li><a href="#{name}">{escape(section.title)}</a></li>'
        for name, section in zip(names, page.sections, strict=True)
        if section.level == 2
    )
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(page.title)}</title>",
        f"<style>\n{style}</style>",
        "</head>",
        "<body>",
        f"<h1>{escape(page.title)}</h1>",
        _paragraphs(page.about),
        f"<nav><ul>{contents}</ul></nav>",
    ]
    for name, section in zip(names, page.sections, strict=True):
        parts.append(f'<h{section.level} id="{name}">{escape(section.title)}</h{section.level}>')
        parts += [_block(block) for block in section.blocks]
    return "\n".join([*parts, "</body>", "</html>", ""])


def _anchors(sections: Sequence[Section]) -> list[str]:
    """An identifier for each section."""
    return [
        f"s{number}-{re.sub(r'[^a-z0-9]+', '-', section.title.lower()).strip('-')}"
        for number, section in enumerate(sections)
    ]


def _block(block: Block) -> str:
    match block:
        case Text():
            return _paragraphs(block.sentences)
        case Grid():
            return _grid(block)
        case Scores():
            return _scores(block.table)
        case Picture():
            return _figure(block)
        case Commands():
            content = f"<pre><code>{escape(block.lines)}</code></pre>"
            return _folded(block.title, content) if block.title else content


def _paragraphs(sentences: Sequence[str]) -> str:
    if len(sentences) == 1:
        return f"<p>{escape(sentences[0])}</p>"
    return f"<ul>{''.join(f'<li>{escape(one)}</li>' for one in sentences)}</ul>"


def _figure(picture: Picture) -> str:
    about = f'<svg role="img" aria-label="{escape(picture.alt)}"'
    drawing = svg(picture.figure, picture.name).replace("<svg", about, 1)
    caption = f"<figcaption>{escape(picture.caption)}</figcaption>"
    return f'<figure><div class="wide">{drawing}</div>{caption}</figure>'


def _grid(grid: Grid) -> str:
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in grid.head)
    lines = []
    for line in grid.lines:
        cells = [f"<b>{escape(cell)}</b>" if cell == grid.strong != "" else escape(cell) for cell in line]
        lines.append(_line(cells))
    caption = f"<caption>{escape(grid.title)}</caption>" if grid.title and not grid.folded else ""
    kind = "reads" if grid.reads else f"names{grid.names}"
    body = "\n".join(lines)
    content = f"{caption}<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>"
    table = f'<div class="wide"><table class="{kind}">{content}</table></div>'
    if grid.folded:
        return _folded(grid.title, table)
    return table


def _folded(title: str, content: str) -> str:
    return f"<details><summary>{escape(title)}</summary>{content}</details>"


def _scores(table: Table) -> str:
    """Rows and columns as in the other renderings, published numbers in blocks below."""
    head = ["Method", *(column.heading for column in table.columns), *COSTS]
    lines = []
    for group, rows in table.groups.items():
        lines.append(_group(group, len(head)))
        lines += [_line([escape(row.name), *_cells(table, row), *map(escape, costs(row))]) for row in rows]
    for block in table.published:
        lines.append(_group(block.label, len(head)))
        for name, numbers in block.rows.items():
            cells = [*published_cells(table, numbers), *[""] * len(COSTS)]
            lines.append(_line(map(escape, [name, *cells]), "published"))
    heads = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    body = "\n".join(lines)
    return (
        f'<div class="wide"><table class="scores" aria-label="{escape(table.title)}">'
        f"<thead><tr>{heads}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>\n"
        f"<details open><summary>How to read it</summary>{_paragraphs(legend(table, 'Bold'))}</details>"
    )


def _cells(table: Table, row: Row) -> list[str]:
    cells = []
    for column in table.columns:
        text = escape(number(row.scores.get(column.key)))
        text = f"<b>{text}</b>" if row.name in table.best(column.key) else text
        cells.append(text + "\u2009†" * table.differs(row.name, column.key))
    return cells


def _group(name: str, width: int) -> str:
    return f'<tr class="group"><th scope="rowgroup" colspan="{width}"><span>{escape(name)}</span></th></tr>'


def _line(cells: Iterable[str], kind: str = "") -> str:
    """A line of cells that are HTML already; the first one heads it."""
    first, *rest = cells
    others = "".join(f"<td>{cell}</td>" for cell in rest)
    return f'<tr{f" class={kind!r}" if kind else ""}><th scope="row">{first}</th>{others}</tr>'
