"""A table as text, Markdown, LaTeX and CSV, and frames of texts as Markdown.

All formats and the page have the same content and legend (:func:`content_of`); all but the plain text use a
template.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from attngraph.experiments.tables.frame import AVERAGE, Row, Summary, averaged_keys
from attngraph.experiments.tables.table import ALPHA, Table

if TYPE_CHECKING:
    import pandas as pd

COSTS = ("Seeds", "Trainable", "Time", "Peak MB")
MISSING = "–"


class Cell(NamedTuple):
    """A text; whether it is the score of the best contender; whether its row differs from the baseline."""

    text: str
    best: bool = False
    differs: bool = False


def content_of(table: Table, best: str = "Bold") -> dict[str, Any]:
    """Content for a template: ``title``, ``head``, ``blocks`` (heading -> lines with the name, an entry for
    each column and each cost; published numbers at the end), and ``legend``.

    Args:
        table: the table.
        best: format of the best contender of a column, for the legend.
    """
    winners = {key: table.best(key) for key in table.headings}
    differs = [pair for pair, p in table.p_adjusted.items() if p < ALPHA]
    blocks = {
        group: [
            [
                Cell(row.name),
                *(
                    Cell(number(row.scores.get(key)), row.name in names, (row.name, key) in differs)
                    for key, names in winners.items()
                ),
                *map(Cell, costs(row)),
            ]
            for row in rows
        ]
        for group, rows in table.groups.items()
    }
    for label, published in table.published.items():
        blocks[label] = [
            [Cell(name), *(Cell(numbers.get(key, MISSING)) for key in winners), *[Cell("")] * len(COSTS)]
            for name, numbers in published.items()
        ]
    head = ["Method", *table.headings.values(), *COSTS]
    return {"title": table.title, "head": head, "blocks": blocks, "legend": legend(table, best)}


def rendered(template: str, **content: Any) -> str:
    """The text of a template in this file's folder."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=template.endswith("html.jinja"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"markdown": escape, "latex": latex, "sentence": sentence}
    return environment.get_template(template).render(content)


def number(score: Summary | None) -> str:
    """A score times 100, with its standard deviation if it has one."""
    if score is None:
        return MISSING
    return f"{100 * score.mean:z.1f}" + ("" if score.std is None else f" ± {100 * score.std:.1f}")


def costs(row: Row) -> list[str]:
    """A row's entries for :data:`COSTS`."""
    seeds = sorted({score.seeds for score in row.scores.values()})
    return [
        "–".join(str(n) for n in dict.fromkeys((seeds[0], seeds[-1]))) if seeds else MISSING,
        f"{row.parameters:,}",
        f"{row.seconds / 60:.1f} min",
        f"{row.peak_mb:,.0f}",
    ]


def legend(table: Table, best: str) -> list[str]:
    """Sentences under a table, in which ``best`` is the format of the best contender of a column."""
    if any(score.std is not None for row in table.rows for score in row.scores.values()):
        lines = ["Scores × 100; mean ± standard deviation over seeds."]
    else:
        lines = ["Scores × 100, one seed: no spread is known."]
    if AVERAGE in table.columns:
        headings = [table.headings[key] for key in averaged_keys(table.columns)]
        lines.append(f"{AVERAGE.heading} = mean of {', '.join(headings)}.")
    if any(table.best(key) for key in table.headings):
        lines.append(f"{best} = best {table.contest} of the column.")
    if table.comparisons:
        compared = dict.fromkeys(str(line["row"]) for line in table.comparisons)
        lines.append(
            f"† = differs from {table.baseline} (Holm-adjusted p < {ALPHA}); compared: "
            f"{'; '.join(compared)} (each on the seeds that both rows have). {scope(table.comparisons)}"
        )
    lines += [f"{row.name}: {row.note.rstrip('.')}." for row in table.rows if row.note]
    return [*lines, *table.notes]


def scope(comparisons: Sequence[Mapping[str, Any]]) -> str:
    """Population of the p-values of comparisons, in sentences."""
    several = [line for line in comparisons if line["seeds"] > 1]
    if not several:
        return "p-values are for new images with these training runs only: one seed, one checkpoint."
    checkpoints = max(line["checkpoints"] for line in several)
    each = all(line["seeds"] == line["checkpoints"] for line in several)
    if each:
        said = "p-values are for new seeds, images and checkpoints: each seed has its own checkpoint"
    else:
        same = "this checkpoint" if checkpoints == 1 else f"these {checkpoints} checkpoints"
        said = f"p-values are for new seeds and images with {same}"
    if len(several) < len(comparisons):
        said += "; those of one seed for new images only"
    return said + ("." if checkpoints == 1 or each else ". Results for new checkpoints are given separately.")


def render_text(table: Table, width: int = 1000) -> str:
    """Aligned text, for terminals; columns that exceed the width are in further parts below."""
    content, scores = content_of(table, "*"), range(1, 1 + len(table.columns))
    head = [name + "  " * (k in scores) for k, name in enumerate(content["head"])]
    body = {
        heading: [[_cell_text(cell, k, scores) for k, cell in enumerate(line)] for line in lines]
        for heading, lines in content["blocks"].items()
    }
    every = [head, *(line for lines in body.values() for line in lines)]
    widths = [max(map(len, column)) for column in zip(*every, strict=True)]

    printed = [table.title, ""]
    for part in _parts(widths, width):

        def line_of(cells: Sequence[str], part: Sequence[int] = part) -> str:
            return (
                cells[0].ljust(widths[0]) + "".join("  " + cells[i].rjust(widths[i]) for i in part)
            ).rstrip()

        rule = "─" * (widths[0] + sum(widths[i] + 2 for i in part))
        printed += [line_of(head), rule]
        for heading, lines in body.items():
            if any(line[i].strip() for line in lines for i in part):
                printed += [*textwrap.wrap(heading, width), *map(line_of, lines)]
        printed += [rule, ""]
    for sentence in content["legend"]:
        printed += textwrap.wrap(sentence, width)
    return "\n".join(printed) + "\n"


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Lines of entries, with each column as wide as its widest entry."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _cell_text(cell: Cell, place: int, scores: range) -> str:
    """Lines with indented names; two characters after a score are for its marks."""
    marks = ("*" * cell.best + "†" * cell.differs).ljust(2) if place in scores else ""
    return "  " * (place == 0) + cell.text + marks


def _parts(widths: Sequence[int], limit: int) -> list[list[int]]:
    """Groups of columns that fit into the width, next to the names."""
    parts: list[list[int]] = [[]]
    for place, width in list(enumerate(widths))[1:]:
        if parts[-1] and widths[0] + sum(widths[i] + 2 for i in parts[-1]) + width + 2 > limit:
            parts.append([])
        parts[-1].append(place)
    return parts


def escape(text: object) -> str:
    """The text of an entry or sentence, with the characters escaped that Markdown would read as marks, links
    or HTML.
    """
    marks = r"[\\|*`\[\]]|<(?=[A-Za-z/!?])|(?<!\w)_|_(?!\w)"
    return re.sub(rf"({marks})", r"\\\1", str(text)).replace("\n", " ")


def markdown_grid(frame: pd.DataFrame, title: str = "") -> str:
    """A table of plain texts: the first column left-aligned, the others right-aligned; its title in bold."""
    above = [f"**{escape(title)}**", ""] if title else []
    head, *lines = (" | ".join(map(escape, line)) for line in (frame.columns, *frame.to_numpy().tolist()))
    rule = " | ".join([":---", *["---:"] * (len(frame.columns) - 1)])
    return "\n".join([*above, *(f"| {line} |" for line in (head, rule, *lines))]) + "\n"


def render_markdown(table: Table) -> str:
    """The table in GitHub's Markdown; the best contender of a column in bold."""
    return rendered("table.md.jinja", **content_of(table))


# ---- LaTeX ----------------------------------------------------------------------------------------------

_SPECIAL = str.maketrans(
    {mark: f"\\{mark}" for mark in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "†": r"\textdagger{}"}
    | {"–": "--", "−": "$-$"}
    | {"±": r"$\pm$", "×": r"$\times$", "→": r"$\to$", "≤": r"$\le$", "≥": r"$\ge$", "√": r"$\surd$"}
    | {"α": r"$\alpha$", "λ": r"$\lambda$", "μ": r"$\mu$"}
)


def render_latex(table: Table) -> str:
    """A ``table`` environment for adjustbox, booktabs and threeparttable, with a caption of two sentences and
    notes below; the best contender of a column in bold."""
    return rendered("table.tex.jinja", **content_of(table))


def latex(text: str) -> str:
    """Text with the characters escaped that LaTeX would read as commands or has no glyph for. A hyphen before
    a number is a minus sign."""
    return re.sub(r"(?<![\w.])-(?=\d)", "−", text).translate(_SPECIAL)


def sentence(text: str) -> str:
    """Text that ends with a full stop."""
    return text.rstrip(".") + "."


def table_frame(table: Table) -> pd.DataFrame:
    """Raw numbers, one line per row: ``<column key>_mean``, ``_std`` (fractions), ``_n``, ``_p_adjusted``."""
    import pandas as pd

    lines: list[dict[str, Any]] = []
    for row in (row for rows in table.groups.values() for row in rows):
        line: dict[str, Any] = {"name": row.name, "group": row.group}
        for key in table.headings:
            mean, std, seeds = row.scores.get(key, (None, None, 0))
            adjusted = table.p_adjusted.get((row.name, key))
            line |= {f"{key}_mean": mean, f"{key}_std": std, f"{key}_n": seeds, f"{key}_p_adjusted": adjusted}
        about = {name: getattr(row, name) for name in ("parameters", "seconds", "peak_mb", "note")}
        lines.append(line | about)
    return pd.DataFrame(lines)
