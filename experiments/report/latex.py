"""A table in LaTeX."""

from __future__ import annotations

from experiments.report.table import Row, Table
from experiments.report.wording import COSTS, costs, legend, number, published_cells

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "–": "--",
    "±": r"$\pm$",
    "×": r"$\times$",
    "†": r"\textdagger{}",
    "−": "$-$",
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
        rf"\caption{{{escape(caption)}}}",
        r"\resizebox{\linewidth}{!}{%",
        rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
        r"\toprule",
        _line([escape(heading) for heading in head]),
    ]
    for group, rows in table.groups.items():
        lines += [*_block(group, len(head)), *(_line(_cells(table, row)) for row in rows)]
    for block in table.published:
        lines += _block(block.label, len(head))
        for name, numbers in block.rows.items():
            cells = [escape(cell) for cell in [name, *published_cells(table, numbers)]]
            lines.append(_line([*cells, *[""] * len(COSTS)]))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}}", r"\end{table}"]) + "\n"


def escape(text: str) -> str:
    """Text with the characters escaped that LaTeX would read as commands or does not know."""
    return "".join(_SPECIAL.get(character, character) for character in text)


def _cells(table: Table, row: Row) -> list[str]:
    cells = [escape(row.name)]
    for column in table.columns:
        text = escape(number(row.scores.get(column.key)))
        text = rf"\textbf{{{text}}}" if row.name in table.best(column.key) else text
        cells.append(text + r"\textsuperscript{\textdagger}" * table.differs(row.name, column.key))
    return cells + [escape(cell) for cell in costs(row)]


def _block(heading: str, columns: int) -> list[str]:
    return [r"\midrule", rf"\multicolumn{{{columns}}}{{l}}{{\emph{{{escape(heading)}}}}} \\"]


def _line(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"
