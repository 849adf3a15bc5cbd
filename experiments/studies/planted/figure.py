"""The figure of the planted control: every scheme's accuracy, the phase diagram, and theory beside runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure

from experiments.studies.planted.study import ROWS
from experiments.studies.planted.summary import chosen
from experiments.studies.planted.theory import predict

_STYLE: Any = {"font.family": "DejaVu Sans", "font.size": 10, "axes.titlesize": 11, "text.parse_math": False}
_BLUE, _ORANGE, _GREEN, _GREY = "#0b5fa5", "#d95f02", "#1b9e77", "#777777"
#: Row → colour, marker, line.
_LINES = {
    "gcn": ("#444444", "s", "-"),
    "appnp": ("#999999", "^", ":"),
    "gcnii": ("#999999", "v", "-."),
    "residual": ("#999999", "D", "--"),
    "p2": ("#999999", "x", "-"),
    "tempering": (_GREEN, "P", "-"),
    "placebo": (_ORANGE, "o", "--"),
    "pgnn": (_BLUE, "o", "-"),
    "pgnn_mu1": ("#56b4e9", "o", "-"),
}
_MASS_COLOURS = (_GREEN, _BLUE, _ORANGE)
_RATIO_MARKERS = ("v", "o", "^")


def draw(runs: pd.DataFrame, table: pd.DataFrame, path: Path) -> None:
    """Draw the figure.

    Args:
        runs: with the columns of ``study.COLUMNS``.
        table: of :func:`experiments.studies.planted.summary.conditions`.
        path: of the PNG.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(14, 18.5), dpi=120, facecolor="white", layout="constrained")
        FigureCanvasAgg(figure)
        parts = figure.subfigures(4, 1, squeeze=False, height_ratios=(5, 4, 4, 5))[:, 0]
        upper, middle, over_gcn, lower = parts
        _accuracies(upper, chosen(runs))
        _phases(
            middle,
            table,
            "pgnn",
            "Gain of pGNN (μ 0.1) over the best scheme without distances, points of accuracy; in brackets: "
            "predicted; bold: 95 % interval without 0",
        )
        _phases(
            over_gcn,
            table,
            "pgnn_gcn",
            "Gain of pGNN (μ 0.1) over GCN, also where distances say nothing (c = 0); bold as above",
        )
        axes = lower.subplots(1, 3)
        lower.suptitle("Theory and runs: a point for each condition", fontweight="bold")
        _against_contrast(axes[0], table)
        _against_prediction(axes[1], table)
        _exponents(axes[2], table)
        figure.savefig(path)


def _accuracies(figure: Any, best: pd.DataFrame) -> None:
    """Accuracy over c, a panel for each mass, at the ratio nearest to 1."""
    ratio = min(best.ratio.unique(), key=lambda value: abs(np.log(value)))
    masses = sorted(best.mass.unique())
    figure.suptitle(f"Accuracy of all schemes at N1/N2 = {ratio:g} (mean over seeds)", fontweight="bold")
    panels = figure.subplots(1, len(masses), squeeze=False)[0]
    for panel, mass in zip(panels, masses):
        part = best[(best.ratio == ratio) & (best.mass == mass)]
        means = 100 * part.groupby(["row", "contrast"]).test.mean()
        for name, row in ROWS.items():
            colour, marker, line = _LINES[name]
            own = means[name]
            panel.plot(own.index, own, line, marker=marker, color=colour, markersize=5, label=row.title)
        c = np.linspace(part.contrast.min(), part.contrast.max(), 25)
        theory = [100 * predict(float(value), mass, ratio).best for value in c]
        panel.plot(c, theory, "--", color="black", linewidth=1.2, label="theory, best p")
        panel.set_title(f"{mass:.0%} of the mass on distractors")
        panel.set_xlabel("c: cosine of query and relevant values' topic")
        _plain(panel)
    panels[0].set_ylabel("test accuracy, %")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)


def _phases(figure: Any, table: pd.DataFrame, gain_of: str, title: str) -> None:
    """A gain over contrast and mass, a panel for each ratio; that of pGNN beside the predicted one."""
    figure.suptitle(title, fontweight="bold")
    ratios = sorted(table.ratio.unique())
    panels = figure.subplots(1, len(ratios), squeeze=False)[0]
    limit = max(1.0, 100 * table[f"{gain_of}_gain"].abs().max())
    norm = TwoSlopeNorm(0, -limit, limit)
    for panel, ratio in zip(panels, ratios):
        part = table[table.ratio == ratio]
        gain, low, high, theory = (
            part.pivot(index="mass", columns="contrast", values=column)
            for column in (f"{gain_of}_gain", f"{gain_of}_low", f"{gain_of}_high", "theory_gain")
        )
        panel.imshow(100 * gain, cmap="RdBu", norm=norm, aspect="auto", origin="lower")
        for (y, x), value in np.ndenumerate(100 * gain.to_numpy()):
            sure = low.iloc[y, x] > 0 or high.iloc[y, x] < 0
            panel.text(
                x,
                y,
                f"{value:+.1f}" + (f"\n({100 * theory.iloc[y, x]:+.1f})" if gain_of == "pgnn" else ""),
                ha="center",
                va="center",
                fontsize=9,
                fontweight="bold" if sure else "normal",
                color="white" if abs(value) > 0.6 * limit else "black",
            )
        panel.set_xticks(range(gain.shape[1]), [f"{c:g}" for c in gain.columns])
        panel.set_yticks(range(gain.shape[0]), [f"{mass:.0%}" for mass in gain.index])
        panel.set_title(f"N1/N2 = {ratio:g}")
        panel.set_xlabel("c")
    panels[0].set_ylabel("mass on distractors")


def _groups(table: pd.DataFrame):
    """Parts of a table with their colour (mass), marker (ratio) and label."""
    for colour, (mass, part) in zip(_MASS_COLOURS, table.groupby("mass")):
        for marker, (ratio, points) in zip(_RATIO_MARKERS, part.groupby("ratio")):
            yield points, colour, marker, f"mass {mass:.0%}, N1/N2 {ratio:g}"


def _against_contrast(panel: Axes, table: pd.DataFrame) -> None:
    """Gain of pGNN and of rotated queries over the measured contrast."""
    panel.axhline(0, color="black", linewidth=0.8)
    panel.axvline(0, color="black", linewidth=0.8)
    panel.plot(
        table.measured,
        100 * table.placebo_gain,
        "x",
        color=_GREY,
        markersize=5,
        label="rotated queries, all conditions",
    )
    for points, colour, marker, label in _groups(table):
        spread = 100 * np.abs(points[["pgnn_low", "pgnn_high"]].to_numpy().T - points.pgnn_gain.to_numpy())
        panel.errorbar(
            points.measured,
            100 * points.pgnn_gain,
            spread,
            fmt=marker,
            color=colour,
            markersize=5,
            linewidth=1,
            label=label,
        )
    panel.set_xlabel("measured contrast of distances (above 0: distractors are farther)")
    panel.set_ylabel("gain of pGNN (μ 0.1), points of accuracy")
    panel.xaxis.label.set_fontsize(9)
    panel.legend(frameon=False, fontsize=8)
    _plain(panel)


def _against_prediction(panel: Axes, table: pd.DataFrame) -> None:
    """Accuracy of pGNN over the accuracy that theory gives it."""
    low = 100 * min(table.theory_test.min(), table.pgnn_test.min()) - 3
    panel.plot([low, 101], [low, 101], "--", color="black", linewidth=1)
    for points, colour, marker, _ in _groups(table):
        panel.plot(100 * points.theory_test, 100 * points.pgnn_test, marker, color=colour, markersize=5)
    panel.set_xlabel("predicted accuracy of pGNN at its best p, %")
    panel.set_ylabel("accuracy of pGNN (μ 0.1), %")
    _plain(panel)


def _exponents(panel: Axes, table: pd.DataFrame) -> None:
    """The learned p over c; the predicted ones are rings."""
    panel.axhline(2, color="black", linewidth=0.8)
    wide = 0.06
    for k, (points, colour, marker, _) in enumerate(_groups(table)):
        shift = wide * (k / 4 - 1)
        panel.plot(points.contrast + shift, points.pgnn_p, marker, color=colour, markersize=5)
        panel.plot(
            points.contrast + shift,
            points.theory_p,
            marker,
            color=colour,
            markersize=9,
            markerfacecolor="none",
        )
    panel.set_ylim(0.85, 3.15)
    panel.set_xlabel("c (conditions side by side)")
    panel.set_ylabel("p: learned (filled), predicted (open)")
    _plain(panel)


def _plain(panel: Axes) -> None:
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(color="#e5e5e5", linewidth=0.6)
    panel.set_axisbelow(True)
