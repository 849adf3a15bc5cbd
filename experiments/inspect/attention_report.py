"""Figures and tables of attention maps."""

from __future__ import annotations

from pathlib import Path
from unicodedata import combining

import pandas as pd

from analysis.plots.maps import draw_maps
from experiments.inspect.attention_maps import AttentionMaps

QUERY_TITLES = {
    "first": "the first token that sees the image",
    "answer": "the token before the answer",
    "last": "the last token",
}


def draw_queries(result: AttentionMaps, model: str, out: Path, has_prompts: bool = True) -> list[str]:
    """A figure for each query token in a folder; returns their names.

    Args:
        result: the maps.
        model: its title.
        out: the folder.
        has_prompts: whether answers are told apart from prompts before them, such as questions.
    """
    written = []
    pictures = {
        name: (shown.image, shown.name.partition(": ")[2] or name)
        for name, shown in zip(result.names, result.shown)
    }
    for query, table in result.maps.groupby("query", sort=False):
        written.append(f"maps_{query}.png")
        title = f"{model}: where {result.looker or _query_title(query, has_prompts)} looks"
        draw_maps(table, pictures, out / written[-1], title, result.regions)
    return written


def mass_lines(summary: pd.DataFrame) -> str:
    """The mass inside the asked objects as text, a line for each method and token."""
    lines = [
        f"{'method':<12} {'query':<8} {'examples':>8}  {'mass inside':>12}  {'95 % interval':>15}  "
        f"{'less uniform':>12}  {'95 % interval':>16}"
    ]
    for row in summary.itertuples():
        method = row.method + " " * (12 - sum(not combining(letter) for letter in row.method))
        lines.append(
            f"{method} {row.query:<8} {row.examples:>8}  {row.mass:>12.3f}  "
            f"[{row.low:>6.3f}, {row.high:>5.3f}]  {row.excess:>+12.3f}  [{row.excess_low:>+6.3f}, "
            f"{row.excess_high:>+6.3f}]" + (f"  ({row.empty} maps are 0 everywhere)" if row.empty else "")
        )
    return "\n".join(lines)


def _query_title(query: str, has_prompts: bool) -> str:
    if query == "answer" and not has_prompts:
        return "the token before the text"
    return QUERY_TITLES.get(query, f"token {query}")
