"""The ablation table: from scores to terminal text, Markdown, LaTeX, CSV and a figure.

Pure rendering. Scores are stored as fractions (CIDEr raw, 0 to 10) and printed times 100, so the average of a
row is the mean of VQA accuracy, VE accuracy, BLEU@4 and CIDEr on the printed scale.
"""

import os
import tempfile
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from attngraph.errors import UserError

ADAPTERS, ATTRIBUTION, REFERENCE = "GNN adapters", "Attribution", "Reference"
GROUPS = (ADAPTERS, ATTRIBUTION, REFERENCE)
COLUMNS = {
    "vqa": "VQA acc",
    "ve": "VE acc",
    "bleu4": "BLEU@4",
    "cider": "CIDEr",
    "avg": "Avg",
    "easy_vqa": "easy-VQA acc",
}
AVERAGED = ("vqa", "ve", "bleu4", "cider")
MISSING = "–"

PUBLISHED_LABEL = (
    "Published numbers, another scale: BLIP CapFilt-L on VQA2.0 / SNLI-VE / COCO; "
    "not comparable with the rows above"
)
PUBLISHED = {
    "GCN": {"vqa": "69.53", "ve": "78.85", "bleu4": "38.9", "cider": "128.8", "avg": "79.02"},
    "APPNP": {"vqa": "70.22", "ve": "79.03", "bleu4": "39.4", "cider": "129.1", "avg": "79.44"},
    "GCNII": {"vqa": "70.13", "ve": "79.12", "bleu4": "39.7", "cider": "129.7", "avg": "79.66"},
    "pGNN": {"vqa": "70.39", "ve": "79.40", "bleu4": "40.4", "cider": "130.9", "avg": "80.27"},
}


class Score(NamedTuple):
    """Mean over seeds, standard deviation over seeds (None for one seed), number of seeds."""

    mean: float
    std: float | None
    seeds: int


@dataclass(frozen=True)
class Row:
    """One method.

    Args:
        name: as printed.
        group: one of `GROUPS` (others are printed after them).
        columns: column key -> (mean, std, seeds), as fractions; a missing key prints "–".
        parameters: trainable parameters, counted.
        seconds: training and scoring time of one seed.
        peak_mb: peak memory.
        note: one remark, printed under the table.
    """

    name: str
    group: str
    columns: Mapping[str, tuple[float, float | None, int]]
    parameters: int | None = None
    seconds: float | None = None
    peak_mb: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Table:
    """Rows and what to say about them.

    Args:
        title: printed on top.
        rows: in order; printed group by group.
        columns: column key -> heading.
        p_adjusted: (row name, column key) -> Holm-adjusted p value against `baseline`; a dagger below 0.05.
        baseline: the row that p values compare with.
        notes: sentences under the table.
        published: the block of published numbers, name -> column key -> printed number; {} leaves it out.
    """

    title: str
    rows: Sequence[Row]
    columns: Mapping[str, str] = None
    p_adjusted: Mapping[tuple[str, str], float] = None
    baseline: str = "GCN"
    notes: Sequence[str] = ()
    published: Mapping[str, Mapping[str, str]] = None

    def __post_init__(self):
        for field, default in (("columns", COLUMNS), ("p_adjusted", {}), ("published", PUBLISHED)):
            if getattr(self, field) is None:
                object.__setattr__(self, field, default)
        names = [row.name for row in self.rows]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise UserError(
                f"the table has several rows named {sorted(twice)[0]!r}; give each method its own name"
            )

    @property
    def groups(self) -> dict[str, list[Row]]:
        """Group -> rows, known groups first; every row exactly once."""
        order = dict.fromkeys([*GROUPS, *(row.group for row in self.rows)])
        found = {group: [row for row in self.rows if row.group == group] for group in order}
        return {group: rows for group, rows in found.items() if rows}

    def best(self, column: str) -> set[str]:
        """Names of the GNN adapters with the highest mean in a column; none if only one has a score."""
        means = {
            row.name: row.columns[column][0]
            for row in self.rows
            if row.group == ADAPTERS and column in row.columns
        }
        if len(means) < 2:
            return set()
        return {name for name, mean in means.items() if mean == max(means.values())}

    def dagger(self, row: str, column: str) -> bool:
        """Whether the row differs from the baseline in this column after Holm's correction."""
        return self.p_adjusted.get((row, column), 1.0) < 0.05


# --- from results to rows -------------------------------------------------------------------------


def summarise(values: Sequence[float]) -> Score:
    """Mean and standard deviation (S - 1 in the denominator) of the scores of S seeds."""
    values = [float(value) for value in values]
    if not values:
        raise ValueError("no scores to summarise")
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Score(float(np.mean(values)), std, len(values))


def rows_from_frame(frame: pd.DataFrame) -> list[Row]:
    """Rows from one line per method and seed.

    Args:
        frame: columns `name`, `group`, `seed`, any of the score columns (fractions, NaN = not run), and
            optionally `parameters` (the largest is taken), `seconds` (the mean), `peak_mb` (the largest),
            `note` (the first). `avg` is computed here, for each seed that has all four of its columns.
    """
    needed = {"name", "group", "seed"} - set(frame.columns)
    if needed:
        raise UserError(f"the results lack the column(s) {', '.join(sorted(needed))}")
    frame = frame.copy()
    if set(AVERAGED) <= set(frame.columns):
        frame["avg"] = frame[list(AVERAGED)].mean(axis=1, skipna=False)

    rows = []
    for name, lines in frame.groupby("name", sort=False):

        def cost(column: str, reduce: str, lines: pd.DataFrame = lines):
            values = lines[column].dropna() if column in lines else pd.Series(dtype=float)
            return None if values.empty else values.agg(reduce)

        parameters, note = cost("parameters", "max"), lines["note"].dropna() if "note" in lines else ()
        rows.append(
            Row(
                name=name,
                group=lines["group"].iloc[0],
                columns={
                    column: summarise(lines[column].dropna())
                    for column in COLUMNS
                    if column in lines and lines[column].notna().any()
                },
                parameters=None if parameters is None else int(parameters),
                seconds=cost("seconds", "mean"),
                peak_mb=cost("peak_mb", "max"),
                note=note.iloc[0] if len(note) else "",
            )
        )
    return rows


# --- shared pieces of the renderers ---------------------------------------------------------------

COSTS = ("Seeds", "Trainable", "Time", "Peak MB")


def _number(score: tuple[float, float | None, int] | None) -> str:
    if score is None:
        return MISSING
    mean, std, _ = score
    return f"{100 * mean:.1f}" + ("" if std is None else f" ± {100 * std:.1f}")


def _time(seconds: float | None) -> str:
    if seconds is None:
        return MISSING
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _costs(row: Row) -> list[str]:
    seeds = sorted({score[2] for score in row.columns.values()})
    return [
        MISSING if not seeds else "–".join(str(n) for n in dict.fromkeys((seeds[0], seeds[-1]))),
        MISSING if row.parameters is None else f"{row.parameters:,}",
        _time(row.seconds),
        MISSING if row.peak_mb is None else f"{row.peak_mb:,.0f}",
    ]


def _legend(table: Table, best: str, dagger: str) -> list[str]:
    """Sentences under a table; `best` says how the best adapter looks in this output."""
    scores = [score for row in table.rows for score in row.columns.values()]
    several = any(std is not None for _, std, _ in scores)
    lines = [
        "Scores × 100; mean ± standard deviation over seeds."
        if several
        else "Scores × 100, one seed: no spread is known."
    ]
    if "avg" in table.columns:
        lines[0] += " Avg = mean of VQA, VE, BLEU@4 and CIDEr."
    if any(table.best(column) for column in table.columns):
        lines.append(f"{best} = best GNN adapter of the column.")
    if table.p_adjusted:
        lines.append(
            f"{dagger} = differs from {table.baseline} "
            f"(paired bootstrap over {'seeds and images' if several else 'images only: one training run each'}, "
            "Holm-adjusted p < 0.05)."
        )
    lines += [f"{row.name}: {row.note.rstrip('.')}." for row in table.rows if row.note]
    return lines + list(table.notes)


# --- terminal -------------------------------------------------------------------------------------


def render_text(table: Table, width: int | None = None) -> str:
    """Aligned text. With a `width`, columns that do not fit go into further blocks below."""
    head = [*table.columns.values(), *COSTS]
    body: list[tuple[str, list[str] | None]] = []  # (name, cells), cells None for a heading
    for group, rows in table.groups.items():
        body.append((group, None))
        for row in rows:
            cells = []
            for column in table.columns:
                marks = "*" * (row.name in table.best(column)) + "†" * table.dagger(row.name, column)
                cells.append(_number(row.columns.get(column)) + f"{marks:<2}")
            body.append(("  " + row.name, cells + _costs(row)))
    published = [
        ("  " + name, [cells.get(c, MISSING) + "  " for c in table.columns] + [""] * len(COSTS))
        for name, cells in table.published.items()
    ]
    head[: len(table.columns)] = [text + "  " for text in table.columns.values()]

    everything = body + published
    names = max([len(name) for name, _ in everything] + [6])
    widths = [
        max([len(title)] + [len(cells[i]) for _, cells in everything if cells])
        for i, title in enumerate(head)
    ]
    blocks: list[list[int]] = [[]]
    for i, size in enumerate(widths):
        used = names + sum(widths[j] + 2 for j in blocks[-1])
        if width and blocks[-1] and used + size + 2 > width:
            blocks.append([])
        blocks[-1].append(i)

    lines = [table.title, ""]
    for block in blocks:

        def line(name: str, cells: Sequence[str], block: list[int] = block) -> str:
            return (f"{name:<{names}}" + "".join("  " + cells[i].rjust(widths[i]) for i in block)).rstrip()

        rule = "─" * (names + sum(widths[i] + 2 for i in block))
        lines += [line("Method", head), rule]
        lines += [name if cells is None else line(name, cells) for name, cells in body]
        shown = list(table.columns)[block[0] : block[-1] + 1]
        if any(column in cells for cells in table.published.values() for column in shown):
            lines += [rule, *textwrap.wrap(PUBLISHED_LABEL, width or 1000)]
            lines += [line(name, cells) for name, cells in published]
        lines += [rule, ""]
    for sentence in _legend(table, "*", "†"):
        lines += textwrap.wrap(sentence, width or 1000)
    return "\n".join(lines) + "\n"


# --- Markdown -------------------------------------------------------------------------------------


def render_markdown(table: Table) -> str:
    """A GitHub table; the best GNN adapter of a column in bold."""
    head = ["Method", *table.columns.values(), *COSTS]
    lines = [f"**{_md(table.title)}**", "", _md_line(head), _md_rule(len(head))]
    for group, rows in table.groups.items():
        lines.append(_md_line([f"**{_md(group)}**"] + [""] * (len(head) - 1), raw=True))
        for row in rows:
            cells = []
            for column in table.columns:
                text = _number(row.columns.get(column))
                text = f"**{text}**" if row.name in table.best(column) else text
                cells.append(text + " †" * table.dagger(row.name, column))
            lines.append(_md_line([_md(row.name), *cells, *_costs(row)], raw=True))
    if table.published:
        lines += [
            "",
            f"*{PUBLISHED_LABEL}*",
            "",
            _md_line(["Method", *table.columns.values()]),
            _md_rule(len(table.columns) + 1),
        ]
        lines += [
            _md_line([name, *(cells.get(column, MISSING) for column in table.columns)])
            for name, cells in table.published.items()
        ]
    return "\n".join([*lines, "", *(f"- {_md(line)}" for line in _legend(table, "Bold", "†"))]) + "\n"


def kinds_markdown(
    scores: Mapping[str, Mapping[str, float | tuple[float, float | None, int]]],
    title: str = "",
    corner: str = "Question type",
) -> str:
    """Scores per question type: one line per type, one column per method.

    Args:
        scores: method -> question type -> fraction, or (mean, std, seeds).
        title: printed in bold above.
        corner: heads the first column; lines may stand for something else than question types.
    """
    kinds = sorted({kind for of_kind in scores.values() for kind in of_kind})
    lines = [f"**{_md(title)}**", ""] if title else []
    lines += [_md_line([corner, *scores]), _md_rule(len(scores) + 1)]
    for kind in kinds:
        cells = [of_kind.get(kind) for of_kind in scores.values()]
        cells = [(cell, None, 1) if isinstance(cell, (int, float)) else cell for cell in cells]
        lines.append(_md_line([kind, *map(_number, cells)]))
    return "\n".join(lines) + "\n"


def seeds_markdown(frame: pd.DataFrame) -> str:
    """Every seed's scores, from the frame that `rows_from_frame` takes."""
    columns = [column for column in COLUMNS if column in frame]
    lines = [_md_line(["Method", "Seed", *(COLUMNS[c] for c in columns)]), _md_rule(len(columns) + 2)]
    for _, line in frame.iterrows():
        lines.append(
            _md_line(
                [
                    line["name"],
                    line["seed"],
                    *(MISSING if pd.isna(line[c]) else f"{100 * line[c]:.2f}" for c in columns),
                ]
            )
        )
    return "\n".join(lines) + "\n"


def _md(text: str) -> str:
    return str(text).replace("\\", "\\\\").replace("|", "\\|").replace("*", "\\*").replace("\n", " ")


def _md_rule(columns: int) -> str:
    return "| :--- |" + " ---: |" * (columns - 1)


def _md_line(cells: Sequence[object], raw: bool = False) -> str:
    return "| " + " | ".join(str(cell) if raw else _md(cell) for cell in cells) + " |"


# --- LaTeX ----------------------------------------------------------------------------------------

_TEX = {
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


def _tex(text: str) -> str:
    return "".join(_TEX.get(character, character) for character in str(text))


def render_latex(table: Table) -> str:
    """A `table` environment for booktabs and graphicx; the best GNN adapter of a column in bold."""
    head = ["Method", *table.columns.values(), *COSTS]
    span = len(head)
    lines = [
        r"% \usepackage{booktabs,graphicx}",
        r"\begin{table}[t]",
        r"\centering",
        rf"\caption{{{_tex(' '.join([table.title.rstrip('.') + '.', *_legend(table, 'Bold', '†')]))}}}",
        r"\resizebox{\linewidth}{!}{%",
        rf"\begin{{tabular}}{{l{'r' * (span - 1)}}}",
        r"\toprule",
        " & ".join(map(_tex, head)) + r" \\",
    ]
    for group, rows in table.groups.items():
        lines += [r"\midrule", rf"\multicolumn{{{span}}}{{l}}{{\emph{{{_tex(group)}}}}} \\"]
        for row in rows:
            cells = []
            for column in table.columns:
                text = _tex(_number(row.columns.get(column)))
                text = rf"\textbf{{{text}}}" if row.name in table.best(column) else text
                cells.append(text + r"\textsuperscript{\textdagger}" * table.dagger(row.name, column))
            lines.append(" & ".join([_tex(row.name), *cells, *map(_tex, _costs(row))]) + r" \\")
    if table.published:
        lines += [r"\midrule", rf"\multicolumn{{{span}}}{{l}}{{\emph{{{_tex(PUBLISHED_LABEL)}}}}} \\"]
        lines += [
            " & ".join(
                [
                    _tex(name),
                    *(_tex(cells.get(column, MISSING)) for column in table.columns),
                    *[""] * len(COSTS),
                ]
            )
            + r" \\"
            for name, cells in table.published.items()
        ]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}}", r"\end{table}"]) + "\n"


# --- files ----------------------------------------------------------------------------------------


def table_frame(table: Table) -> pd.DataFrame:
    """Raw numbers, one line per row: `<column>_mean`, `_std` (fractions), `_n`, `_p_adjusted`."""
    lines = []
    for rows in table.groups.values():
        for row in rows:
            line = {"name": row.name, "group": row.group}
            for column in table.columns:
                mean, std, seeds = row.columns.get(column, (None, None, 0))
                line |= {
                    f"{column}_mean": mean,
                    f"{column}_std": std,
                    f"{column}_n": seeds,
                    f"{column}_p_adjusted": table.p_adjusted.get((row.name, column)),
                }
            lines.append(
                line
                | {
                    "parameters": row.parameters,
                    "seconds": row.seconds,
                    "peak_mb": row.peak_mb,
                    "note": row.note,
                }
            )
    for name, cells in table.published.items():
        lines.append(
            {"name": name, "group": PUBLISHED_LABEL}
            | {
                f"{column}_mean": round(float(cells[column]) / 100, 6)
                for column in table.columns
                if column in cells
            }
        )
    frame = pd.DataFrame(lines)
    integers = [column for column in frame.columns if column.endswith("_n") or column == "parameters"]
    return frame.astype(dict.fromkeys(integers, "Int64"))


def write_csv(table: Table, path: str | Path) -> Path:
    """`table_frame` as a CSV file."""
    return _write(Path(path), lambda file: table_frame(table).to_csv(file, index=False))


def draw_png(table: Table, path: str | Path) -> Path:
    """The figure of `experiments.report.table_figure` as a PNG file."""
    from experiments.report.table_figure import draw_table  # matplotlib is slow to import

    return _write(Path(path), lambda file: draw_table(table, file))


def save_all(table: Table, folder: str | Path, stem: str = "ablation") -> dict[str, Path]:
    """Write `<stem>.txt`, `.md`, `.tex`, `.csv` and `.png` into a folder; returns suffix -> path."""
    base = Path(folder) / stem
    paths = {}
    for suffix, render in (("txt", render_text), ("md", render_markdown), ("tex", render_latex)):
        text = render(table)
        paths[suffix] = _write(
            base.with_name(f"{stem}.{suffix}"),
            lambda file, text=text: file.write_text(text, encoding="utf-8"),
        )
    paths["csv"] = write_csv(table, base.with_name(f"{stem}.csv"))
    paths["png"] = draw_png(table, base.with_name(f"{stem}.png"))
    return paths


def _write(path: Path, save: Callable[[Path], object]) -> Path:
    """Save to a temporary neighbour, then rename: nobody sees half a file, a failure leaves the old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        save(temporary)
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
