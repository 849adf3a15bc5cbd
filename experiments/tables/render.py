"""A table as text, Markdown, LaTeX and CSV, and frames of texts as Markdown.

All of them and the page show the same blocks of lines (:func:`blocks_of`) and the same legend.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from experiments.tables.frame import AVERAGE, Row, Summary, averaged_keys
from experiments.tables.table import LEVEL, Table

if TYPE_CHECKING:
    import pandas as pd

COSTS = ("Seeds", "Trainable", "Time", "Peak MB")
MISSING = "–"

Blocks = dict[str, list[list[str]]]  # heading -> lines: name, a cell for each column, one for each cost


# ---- lines and words that all renderings share ----------------------------------------------------------


def blocks_of(table: Table, marked: Callable[[str, bool, bool], str]) -> Blocks:
    """All lines of a table, block by block, numbers from elsewhere at the end.

    Args:
        table: the table.
        marked: gives a score's text its marks: whether it is the best contender's, and whether the row
            differs from the baseline.
    """
    best = {key: table.best(key) for key in table.headings}
    differs = [pair for pair, p in table.p_adjusted.items() if p < LEVEL]
    blocks: Blocks = {}
    for group, rows in table.groups.items():
        blocks[group] = []
        for row in rows:
            cells = [
                marked(number(row.scores.get(key)), row.name in names, (row.name, key) in differs)
                for key, names in best.items()
            ]
            blocks[group].append([row.name, *cells, *costs(row)])
    for label, block in table.published.items():
        blocks[label] = [
            [name, *(marked(numbers.get(key, MISSING), False, False) for key in best), *[""] * len(COSTS)]
            for name, numbers in block.items()
        ]
    return blocks


def number(score: Summary | None) -> str:
    """A score times 100, with its standard deviation if it has one."""
    if score is None:
        return MISSING
    return f"{100 * score.mean:z.1f}" + ("" if score.std is None else f" ± {100 * score.std:.1f}")


def duration(seconds: float) -> str:
    """Seconds, minutes or hours."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def costs(row: Row) -> list[str]:
    """A row's cells under :data:`COSTS`."""
    seeds = sorted({score.seeds for score in row.scores.values()})
    return [
        "–".join(str(n) for n in dict.fromkeys((seeds[0], seeds[-1]))) if seeds else MISSING,
        f"{row.parameters:,}",
        duration(row.seconds),
        f"{row.peak_mb:,.0f}",
    ]


def legend(table: Table, best: str, different: str = "†") -> list[str]:
    """Sentences under a table.

    Args:
        table: the table.
        best: how the best contender of a column looks in this output.
        different: what marks a difference from the baseline.
    """
    if any(score.std is not None for row in table.rows for score in row.scores.values()):
        scale = "Scores × 100; mean ± standard deviation over seeds."
    else:
        scale = "Scores × 100, one seed: no spread is known."
    if AVERAGE in table.columns:
        headings = [table.headings[key] for key in averaged_keys(table.columns)]
        scale += f" {AVERAGE.heading} = mean of {', '.join(headings)}."
    lines = [scale]
    if any(table.best(key) for key in table.headings):
        lines.append(f"{best} = best {table.contest} of the column.")
    if table.comparisons:
        compared = dict.fromkeys(str(line["row"]) for line in table.comparisons)
        lines.append(
            f"{different} = differs from {table.baseline} (Holm-adjusted p < {LEVEL}); compared: "
            f"{'; '.join(compared)} (each on the seeds that both rows have). {scope(table.comparisons)}"
        )
    lines += [f"{row.name}: {row.note.rstrip('.')}." for row in table.rows if row.note]
    return [*lines, *table.notes]


def scope(comparisons: Sequence[Mapping[str, Any]]) -> str:
    """What the p values of comparisons speak for, in sentences."""
    several = [line for line in comparisons if line["seeds"] > 1]
    if not several:
        return "p values speak for new images with these very training runs: one seed, one checkpoint."
    checkpoints = max(line["checkpoints"] for line in several)
    if all(line["seeds"] == line["checkpoints"] for line in several):
        said = "p values speak for new seeds, images and checkpoints: each seed has its own checkpoint"
    else:
        same = "this checkpoint" if checkpoints == 1 else f"these {checkpoints} checkpoints"
        said = f"p values speak for new seeds and images with {same}"
    if len(several) < len(comparisons):
        said += "; those of one seed for new images only"
    return said + ("." if checkpoints == 1 else ". What holds for new checkpoints too is given apart.")


# ---- text -----------------------------------------------------------------------------------------------


def render_text(table: Table, width: int = 1000) -> str:
    """Aligned text, for terminals; columns that do not fit into the width go into further parts below."""
    blocks = blocks_of(table, _text_cell)
    head = ["Method", *(f"{heading}  " for heading in table.headings.values()), *COSTS]
    body = {heading: [[f"  {name}", *cells] for name, *cells in lines] for heading, lines in blocks.items()}
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
    for sentence in legend(table, "*"):
        printed += textwrap.wrap(sentence, width)
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


def _parts(widths: Sequence[int], limit: int) -> list[list[int]]:
    """Columns that fit beside each other, next to the names."""
    parts: list[list[int]] = [[]]
    for place, width in list(enumerate(widths))[1:]:
        if parts[-1] and widths[0] + sum(widths[i] + 2 for i in parts[-1]) + width + 2 > limit:
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
    lines = [[escape(cell) for cell in line] for line in (frame.columns, *frame.to_numpy().tolist())]
    return "\n".join([*above, *_markdown_lines(lines)]) + "\n"


def render_markdown(table: Table) -> str:
    """The table in GitHub's Markdown; the best contender of a column in bold."""
    lines = [["Method", *map(escape, table.headings.values()), *COSTS]]
    for heading, block in blocks_of(table, _markdown_cell).items():
        lines.append([f"**{escape(heading)}**", *[""] * (len(lines[0]) - 1)])
        lines += [[escape(name), *cells] for name, *cells in block]
    shown = [f"**{escape(table.title)}**", "", *_markdown_lines(lines), ""]
    return "\n".join([*shown, *(f"- {escape(line)}" for line in legend(table, "Bold"))]) + "\n"


def _markdown_cell(text: str, best: bool, differs: bool) -> str:
    return (f"**{text}**" if best else text) + " †" * differs


def _markdown_lines(lines: Sequence[Sequence[str]]) -> list[str]:
    rule = [":---", *["---:"] * (len(lines[0]) - 1)]
    return [f"| {' | '.join(line)} |" for line in (lines[0], rule, *lines[1:])]


# ---- LaTeX ----------------------------------------------------------------------------------------------

_SPECIAL = str.maketrans(
    {mark: f"\\{mark}" for mark in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}"}
)


def render_latex(table: Table) -> str:
    """A ``table`` environment for booktabs and graphicx; the best contender of a column in bold."""
    head = ["Method", *table.headings.values(), *COSTS]
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
    for heading, block in blocks_of(table, _latex_cell).items():
        lines += [r"\midrule", rf"\multicolumn{{{len(head)}}}{{l}}{{\emph{{{latex(heading)}}}}} \\"]
        lines += [rf"{' & '.join([latex(name), *cells])} \\" for name, *cells in block]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}}", r"\end{table}"]) + "\n"


def latex(text: str) -> str:
    """Text with the characters escaped that LaTeX would read as commands."""
    return text.translate(_SPECIAL)


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
            adjusted = table.p_adjusted.get((row.name, key))
            line |= {f"{key}_mean": mean, f"{key}_std": std, f"{key}_n": seeds, f"{key}_p_adjusted": adjusted}
        about = {name: getattr(row, name) for name in ("parameters", "seconds", "peak_mb", "note")}
        lines.append(line | about)
    frame = pd.DataFrame(lines)
    integers = [column for column in frame.columns if column.endswith("_n") or column == "parameters"]
    return frame.astype(dict.fromkeys(integers, "Int64"))
