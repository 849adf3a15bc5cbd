"""A table as text, Markdown, LaTeX and CSV, and grids of texts as Markdown.

All of them, the figure and the page show the same blocks of lines (:func:`blocks_of`) and the same legend.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from experiments.tables.frame import AVERAGE, Row, averaged_columns, listed
from experiments.tables.table import LEVEL, MISSING, Table, number

if TYPE_CHECKING:
    import pandas as pd

COSTS = ("Seeds", "Trainable", "Time", "Peak MB")
_UNLIMITED = 1000  # characters in a line of the legend where no width is given

Mark = Callable[[str, bool, bool], str]


# ---- lines and words that all renderings share ----------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """A line of a table, as texts.

    Args:
        name: of the row.
        cells: scores with their marks, one for each column.
        costs: under :data:`COSTS`; empty in blocks from elsewhere.
    """

    name: str
    cells: Sequence[str]
    costs: Sequence[str] = ("",) * len(COSTS)


@dataclass(frozen=True)
class Block:
    """Lines under a heading.

    Args:
        heading: the group, or the label of numbers from elsewhere.
        lines: of the block.
        published: whether these are from elsewhere.
    """

    heading: str
    lines: Sequence[Line]
    published: bool = False


def blocks_of(table: Table, marked: Mark) -> list[Block]:
    """All lines of a table, block by block, numbers from elsewhere at the end.

    Args:
        table: the table.
        marked: gives a score's text its marks: whether it is the best contender's, and whether the row
            differs from the baseline.
    """
    best = {key: table.best(key) for key in table.headings}
    blocks = []
    for group, rows in table.groups.items():
        lines = []
        for row in rows:
            cells = [
                marked(number(row.scores.get(key)), row.name in names, table.differs(row.name, key))
                for key, names in best.items()
            ]
            lines.append(Line(row.name, cells, costs(row)))
        blocks.append(Block(group, lines))
    for each in table.published:
        lines = [
            Line(name, [marked(numbers.get(key, MISSING), False, False) for key in best])
            for name, numbers in each.rows.items()
        ]
        blocks.append(Block(each.label, lines, published=True))
    return blocks


def duration(seconds: float | None) -> str:
    """Seconds, minutes or hours."""
    if seconds is None:
        return MISSING
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def costs(row: Row) -> list[str]:
    """A row's cells under :data:`COSTS`."""
    seeds = sorted({score.seeds for score in row.scores.values()})
    return [
        MISSING if not seeds else "–".join(str(n) for n in dict.fromkeys((seeds[0], seeds[-1]))),
        MISSING if row.parameters is None else f"{row.parameters:,}",
        duration(row.seconds),
        MISSING if row.peak_mb is None else f"{row.peak_mb:,.0f}",
    ]


def legend(table: Table, best: str, different: str = "†") -> list[str]:
    """Sentences under a table.

    Args:
        table: the table.
        best: how the best contender of a column looks in this output.
        different: what marks a difference from the baseline.
    """
    if table.has_spread:
        scale = "Scores × 100; mean ± standard deviation over seeds."
    else:
        scale = "Scores × 100, one seed: no spread is known."
    if AVERAGE in table.columns:
        headings = [column.heading for column in averaged_columns(table.columns)]
        scale += f" {AVERAGE.heading} = mean of {listed(headings)}."
    lines = [scale]
    if any(table.best(column.key) for column in table.columns):
        lines.append(f"{best} = best {table.contest} of the column.")
    if table.comparisons:
        compared = list(dict.fromkeys(str(line["row"]) for line in table.comparisons))
        lines.append(
            f"{different} = differs from {table.baseline} (Holm-adjusted p < {LEVEL}); compared: "
            f"{listed(compared)} (each on the seeds that both rows have). {scope(table.comparisons)}"
        )
    lines += [f"{row.name}: {row.note.rstrip('.')}." for row in table.rows if row.note]
    return [*lines, *table.notes]


def scope(comparisons: Sequence[Mapping[str, Any]]) -> str:
    """What the p values of comparisons speak for, in sentences."""
    seeds = max((line.get("seeds", 1) for line in comparisons), default=1)
    checkpoints = max((line.get("checkpoints", 1) for line in comparisons), default=1)
    same = "this checkpoint" if checkpoints == 1 else f"these {checkpoints} checkpoints"
    if seeds == 1:
        return "p values speak for new images with these very training runs: one seed, one checkpoint."
    spread = [line for line in comparisons if line.get("seeds", 1) > 1]
    several = [line for line in spread if line.get("checkpoints", 1) > 1]
    own = [line for line in several if line["seeds"] == line["checkpoints"]]
    if own == spread:
        lines = "p values speak for new seeds, images and checkpoints"
        about = " Each seed has a checkpoint of its own, so what is given for new checkpoints is the same."
    else:
        lines = f"p values speak for new seeds and images with {same}"
        about = " What holds for new checkpoints too is given apart." if several else ""
        about += " Where each seed has a checkpoint of its own, it is the same." if own else ""
    alone = any(line.get("seeds") == 1 for line in comparisons)
    return f"{lines}{'; those of one seed for new images only' if alone else ''}.{about}"


# ---- text -----------------------------------------------------------------------------------------------


def render_text(table: Table, width: int | None = None) -> str:
    """Aligned text, for terminals.

    Args:
        table: the table.
        width: columns that do not fit into it go into further parts below.
    """
    head = [*(f"{column.heading}  " for column in table.columns), *COSTS]
    blocks = blocks_of(table, _text_cell)
    body = [[(f"  {line.name}", [*line.cells, *line.costs]) for line in block.lines] for block in blocks]
    cells = [head, *(texts for lines in body for _, texts in lines)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    headings = [block.heading for block in blocks if not block.published]
    names = max(map(len, ["Method", *headings, *(name for lines in body for name, _ in lines)]))

    printed = [table.title, ""]
    for part in _parts(names, widths, width):

        def line_of(name: str, texts: Sequence[str], part: Sequence[int] = part) -> str:
            return (name.ljust(names) + "".join("  " + texts[i].rjust(widths[i]) for i in part)).rstrip()

        rule = "─" * (names + sum(widths[i] + 2 for i in part))
        printed += [line_of("Method", head), rule]
        for block, lines in zip(blocks, body, strict=True):
            if block.published:
                own = [texts[i].strip() for _, texts in lines for i in part]
                if not {*own} - {"", MISSING}:
                    continue
                printed += [rule, *textwrap.wrap(block.heading, width or _UNLIMITED)]
            else:
                printed.append(block.heading)
            printed += [line_of(name, texts) for name, texts in lines]
        printed += [rule, ""]
    for sentence in legend(table, "*"):
        printed += textwrap.wrap(sentence, width or _UNLIMITED)
    return "\n".join(printed) + "\n"


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Lines of cells with each column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _text_cell(text: str, best: bool, differs: bool) -> str:
    """Two characters after a score are for its marks."""
    return text + ("*" * best + "†" * differs).ljust(2)


def _parts(names: int, widths: Sequence[int], limit: int | None) -> list[list[int]]:
    """Columns that fit beside each other."""
    parts: list[list[int]] = [[]]
    for place, width in enumerate(widths):
        if limit and parts[-1] and names + sum(widths[i] + 2 for i in parts[-1]) + width + 2 > limit:
            parts.append([])
        parts[-1].append(place)
    return parts


# ---- Markdown -------------------------------------------------------------------------------------------


def escape(text: object) -> str:
    """A cell's or sentence's text, with the characters that Markdown would read as marks, links or HTML
    escaped.
    """
    marks = r"[\\|*`\[\]]|<(?=[A-Za-z/!?])|(?<!\w)_|_(?!\w)"
    return re.sub(rf"({marks})", r"\\\1", str(text)).replace("\n", " ")


def markdown_grid(frame: pd.DataFrame, title: str = "") -> str:
    """A table of plain texts: the first column at the left, the others at the right; its title in bold."""
    above = [f"**{escape(title)}**", ""] if title else []
    head, *lines = [[escape(cell) for cell in line] for line in (frame.columns, *frame.to_numpy().tolist())]
    return "\n".join([*above, *_markdown_lines(head, lines)]) + "\n"


def render_markdown(table: Table) -> str:
    """The table in GitHub's Markdown; the best contender of a column in bold."""
    headings = [escape(column.heading) for column in table.columns]
    head = ["Method", *headings, *COSTS]
    body: list[list[str]] = []
    below: list[str] = []
    for block in blocks_of(table, _markdown_cell):
        lines = [[escape(line.name), *line.cells, *line.costs] for line in block.lines]
        if block.published:
            lines = [line[: 1 + len(headings)] for line in lines]
            below += ["", f"*{escape(block.heading)}*", "", *_markdown_lines(["Method", *headings], lines)]
        else:
            body += [[f"**{escape(block.heading)}**", *[""] * (len(head) - 1)], *lines]
    shown = [f"**{escape(table.title)}**", "", *_markdown_lines(head, body), *below, ""]
    return "\n".join([*shown, *(f"- {escape(line)}" for line in legend(table, "Bold"))]) + "\n"


def _markdown_cell(text: str, best: bool, differs: bool) -> str:
    return (f"**{text}**" if best else text) + " †" * differs


def _markdown_lines(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    rule = [":---", *["---:"] * (len(head) - 1)]
    return [f"| {' | '.join(line)} |" for line in (head, rule, *body)]


# ---- LaTeX ----------------------------------------------------------------------------------------------

_SPECIAL = {
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "–": "--",
    "†": r"\textdagger{}",
    "−": "$-$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "α": r"$\alpha$",
    "β": r"$\beta$",
    "θ": r"$\theta$",
    "λ": r"$\lambda$",
    "μ": r"$\mu$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
}


def render_latex(table: Table) -> str:
    """A ``table`` environment for booktabs and graphicx; the best contender of a column in bold."""
    head = ["Method", *(column.heading for column in table.columns), *COSTS]
    caption = " ".join([table.title.rstrip(".") + ".", *legend(table, "Bold")])
    lines = [
        r"% \usepackage{booktabs,graphicx}",
        r"\begin{table}[t]",
        r"\centering",
        rf"\caption{{{latex(caption)}}}",
        r"\resizebox{\linewidth}{!}{%",
        rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
        r"\toprule",
        rf"{' & '.join(map(latex, head))} \\",
    ]
    for block in blocks_of(table, _latex_cell):
        lines += [r"\midrule", rf"\multicolumn{{{len(head)}}}{{l}}{{\emph{{{latex(block.heading)}}}}} \\"]
        for line in block.lines:
            cells = [latex(line.name), *line.cells, *map(latex, line.costs)]
            lines.append(rf"{' & '.join(cells)} \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}}", r"\end{table}"]) + "\n"


def latex(text: str) -> str:
    """Text with the characters escaped that LaTeX would read as commands or does not know."""
    return "".join(_SPECIAL.get(character, character) for character in text)


def _latex_cell(text: str, best: bool, differs: bool) -> str:
    shown = rf"\textbf{{{latex(text)}}}" if best else latex(text)
    return shown + r"\textsuperscript{\textdagger}" * differs


# ---- CSV ------------------------------------------------------------------------------------------------


def table_frame(table: Table) -> pd.DataFrame:
    """Raw numbers, one line per row: ``<column key>_mean``, ``_std`` (fractions), ``_n``, ``_p_adjusted``."""
    import pandas as pd

    lines: list[dict[str, Any]] = []
    for row in (row for rows in table.groups.values() for row in rows):
        line: dict[str, Any] = {"name": row.name, "group": row.group}
        for key in table.headings:
            mean, std, seeds = row.scores.get(key, (None, None, 0))
            adjusted = table.p_adjusted(row.name, key)
            line |= {f"{key}_mean": mean, f"{key}_std": std, f"{key}_n": seeds, f"{key}_p_adjusted": adjusted}
        lines.append(
            line | {name: getattr(row, name) for name in ("parameters", "seconds", "peak_mb", "note")}
        )
    for block in table.published:
        for name, numbers in block.rows.items():
            line = {"name": name, "group": block.label}
            of_row = {f"{key}_mean": round(float(value) / 100, 6) for key, value in numbers.items()}
            lines.append(line | of_row)
    frame = pd.DataFrame(lines)
    integers = [column for column in frame.columns if column.endswith("_n") or column == "parameters"]
    return frame.astype(dict.fromkeys(integers, "Int64"))
