"""What the runs on planted graphs say, condition by condition, next to theory; in a table, in words, as a
figure.

A row's rate is chosen in each condition by the mean validation accuracy over seeds, and so is the row without
distances that others are compared with. Gains are means over seeds of paired differences of test accuracies;
their intervals are Student's, of 95 %.
"""

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
from scipy import stats

from attngraph.experiments.studies.planted import ROWS, WITHOUT
from attngraph.experiments.studies.planted_theory import predict

CONDITION = ["ratio", "mass", "contrast"]
COMPARED = ("pgnn", "pgnn_mu1", "placebo")  # rows whose gain over the best row without distances is reported
LEVEL = 0.95
TITLES = {name: row.title for name, row in ROWS.items()}


def chosen(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs, with the columns of ``planted.COLUMNS``, at each row's best rate in each condition."""
    means = runs.groupby([*CONDITION, "row", "rate"], as_index=False).validation.mean()
    best = means.loc[means.groupby([*CONDITION, "row"]).validation.idxmax()]
    return runs.merge(best[[*CONDITION, "row", "rate"]], on=[*CONDITION, "row", "rate"])


def interval(differences: np.ndarray) -> tuple[float, float, float]:
    """Mean and Student's interval of paired differences."""
    mean = float(np.mean(differences))
    half = float(stats.sem(differences) * stats.t.ppf((1 + LEVEL) / 2, len(differences) - 1))
    return mean, mean - half, mean + half


def conditions(runs: pd.DataFrame) -> pd.DataFrame:
    """A line for each condition: what was expected, and what came.

    Returns:
        ``ratio``, ``mass``, ``contrast``; ``measured``, the contrast of distances, beside ``expected``;
        ``without``, the best row without distances, and ``without_test``, its accuracy; for each row of
        :data:`COMPARED` ``<row>_test``, ``<row>_gain`` with ``_low`` and ``_high``, and ``<row>_p``;
        ``pgnn_gcn_gain`` with ``_low`` and ``_high``, the gain of pGNN over GCN; and theory's
        ``theory_without``, ``theory_test``, ``theory_gain`` and ``theory_p``. Accuracies and gains are
        shares.
    """
    lines = []
    for (ratio, mass, contrast), part in chosen(runs).groupby(CONDITION):
        means = part.groupby("row")[["validation", "test", "p"]].mean()
        without = means.loc[list(WITHOUT)].validation.idxmax()
        tests = part.pivot(index="seed", columns="row", values="test")
        expected = predict(contrast, mass, ratio)
        line = {
            "ratio": ratio,
            "mass": mass,
            "contrast": contrast,
            "measured": part.measured.mean(),
            "expected": expected.contrast,
            "without": without,
            "without_test": means.test[without],
        }
        for row in COMPARED:
            line[f"{row}_test"] = means.test[row]
            line |= _gain(row, tests[row] - tests[without])
            line[f"{row}_p"] = means.p[row]
        line |= _gain("pgnn_gcn", tests["pgnn"] - tests["gcn"])
        line |= {"theory_without": expected.tempered, "theory_test": expected.best}
        lines.append(line | {"theory_gain": expected.gain, "theory_p": expected.p})
    return pd.DataFrame(lines)


def _gain(name: str, differences: pd.Series) -> dict[str, float]:
    return dict(
        zip((f"{name}_gain", f"{name}_low", f"{name}_high"), interval(differences.to_numpy()), strict=True)
    )


# ---- in words ----------------------------------------------------------------------------------------------


def text(runs: pd.DataFrame, table: pd.DataFrame, about: str) -> str:
    """The report: of runs, of the ``table`` of their :func:`conditions`, and ``about`` seeds and machine."""
    best = chosen(runs).assign(title=lambda part: part.row.map(TITLES))
    picked = best.drop_duplicates([*CONDITION, "row"])
    parts = [
        f"Planted graphs: {len(table)} conditions, {len(runs):,} runs; {about}",
        "Accuracies and gains in %; test graphs, each row at its best rate on validation graphs.",
    ]
    for (ratio, mass), part in best.groupby(["ratio", "mass"]):
        parts.append(f"\nN1/N2 {ratio:g}, {mass:.0%} of the mass on distractors, by c")
        parts.append(_accuracies(part, mass, ratio).to_string())
    parts += ["", *_agreement(table)]
    compared = {row: f"{TITLES[row]} against the best row without distances" for row in COMPARED}
    for row, against in (compared | {"pgnn_gcn": f"{TITLES['pgnn']} against GCN"}).items():
        parts.append(f"\n{against}: where the gain and its interval lie\n{_wins(table, row).to_string()}")
    rates = pd.crosstab(picked.title, picked.rate).reindex(TITLES.values()).rename_axis(index=None)
    parts.append(f"\nBest rates: in how many conditions\n{rates.to_string()}")
    return "\n".join(parts) + "\n"


def _accuracies(part: pd.DataFrame, mass: float, ratio: float) -> pd.DataFrame:
    """All rows of a mass and ratio, mean ± standard deviation over seeds; and theory's."""
    tests = 100 * part.pivot_table(index="title", columns="contrast", values="test", aggfunc=["mean", "std"])
    shown = tests["mean"].map("{:.1f}".format) + " ± " + tests["std"].map("{:.1f}".format)
    shown = shown.reindex(TITLES.values())
    expected = [predict(c, mass, ratio) for c in shown.columns]
    shown.loc["theory: p = 2"] = [f"{100 * one.without:.1f}" for one in expected]
    shown.loc["theory: best p"] = [f"{100 * one.best:.1f}" for one in expected]
    return shown.rename_axis(index=None, columns=None)


def _agreement(table: pd.DataFrame) -> list[str]:
    """Seen beside predicted."""
    signs = np.sign(table.pgnn_p - 2) == np.sign(table.theory_p - 2)
    lines = [f"Sign of p − 2 as predicted in {signs.sum()} of {len(table)} conditions"]
    for line in table[~signs].itertuples():
        lines.append(f"  not at N1/N2 {line.ratio:g}, mass {line.mass:g}, c {line.contrast:g}")
    for name, seen, expected in (
        ("contrast of distances", table.measured, table.expected),
        ("accuracy of pGNN", table.pgnn_test, table.theory_test),
        ("gain of pGNN", table.pgnn_gain, table.theory_gain),
    ):
        r, rank = seen.corr(expected), seen.corr(expected, method="spearman")
        lines.append(
            f"Seen against predicted {name}: r {r:.3f}, rank correlation {rank:.3f}, mean distance "
            f"{(seen - expected).abs().mean():.3f}"
        )
    return lines


def _wins(table: pd.DataFrame, row: str) -> pd.DataFrame:
    """In how many conditions a row's mean gain lies above 0, and its interval above or below, by the sign of
    c; and the mean of its gains."""
    gain = 100 * table[f"{row}_gain"]
    each = {
        "conditions": 1,
        "mean above 0": gain > 0,
        "interval above": table[f"{row}_low"] > 0,
        "interval below": table[f"{row}_high"] < 0,
    }
    sign = np.sign(table.contrast).map({-1: "c < 0", 0: "c = 0", 1: "c > 0"}).rename(None)
    return pd.DataFrame(each).groupby(sign).sum().assign(gain=gain.groupby(sign).mean().round(1))


# ---- as a figure -------------------------------------------------------------------------------------------

_STYLE: Any = {"font.family": "DejaVu Sans", "font.size": 10, "axes.titlesize": 11, "text.parse_math": False}
_MASS_COLOURS = ("#1b9e77", "#0b5fa5", "#d95f02")
_RATIO_MARKERS = ("v", "o", "^")


def draw(table: pd.DataFrame, path: Path) -> None:
    """The gains of pGNN over contrast and mass, and predicted against learned accuracy and p, as a PNG."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(14, 13.5), dpi=120, facecolor="white", layout="constrained")
        FigureCanvasAgg(figure)
        upper, middle, lower = figure.subfigures(3, 1, height_ratios=(4, 4, 5))
        _phases(
            upper,
            table,
            "pgnn",
            "Gain of pGNN (μ 0.1) over the best scheme without distances, points of accuracy; in brackets: "
            "predicted; bold: 95 % interval excludes 0",
        )
        _phases(
            middle,
            table,
            "pgnn_gcn",
            "Gain of pGNN (μ 0.1) over GCN, also where distances say nothing (c = 0); bold as above",
        )
        lower.suptitle("Theory and runs: a point for each condition", fontweight="bold")
        _against_theory(*lower.subplots(1, 2), table)
        figure.savefig(path)


def _phases(figure: Any, table: pd.DataFrame, gain_of: str, title: str) -> None:
    """A gain over contrast and mass, a panel for each ratio; that of pGNN beside the predicted one."""
    figure.suptitle(title, fontweight="bold")
    ratios = sorted(table.ratio.unique())
    panels = figure.subplots(1, len(ratios), squeeze=False)[0]
    limit = max(1.0, 100 * table[f"{gain_of}_gain"].abs().max())
    for panel, ratio in zip(panels, ratios):
        wide = table[table.ratio == ratio].pivot(index="mass", columns="contrast")
        gain = 100 * wide[f"{gain_of}_gain"]
        sure = (wide[f"{gain_of}_low"] > 0) | (wide[f"{gain_of}_high"] < 0)
        panel.imshow(gain, cmap="RdBu", norm=TwoSlopeNorm(0, -limit, limit), aspect="auto", origin="lower")
        for (y, x), value in np.ndenumerate(gain.to_numpy()):
            theory = f"\n({100 * wide['theory_gain'].iloc[y, x]:+.1f})" if gain_of == "pgnn" else ""
            panel.text(
                x,
                y,
                f"{value:+.1f}{theory}",
                ha="center",
                va="center",
                fontsize=9,
                fontweight="bold" if sure.iloc[y, x] else "normal",
                color="white" if abs(value) > 0.6 * limit else "black",
            )
        panel.set_xticks(range(gain.shape[1]), [f"{c:g}" for c in gain.columns])
        panel.set_yticks(range(gain.shape[0]), [f"{mass:.0%}" for mass in gain.index])
        panel.set_title(f"N1/N2 = {ratio:g}")
        panel.set_xlabel("c: cosine of query and relevant values' topic")
    panels[0].set_ylabel("mass on distractors")


def _against_theory(accuracy: Axes, exponent: Axes, table: pd.DataFrame) -> None:
    """Accuracy and p of pGNN over what theory gives them; the colour is the mass, the marker the ratio."""
    groups = [
        (f"mass {mass:.0%}, N1/N2 {ratio:g}", points, colour, marker)
        for colour, (mass, part) in zip(_MASS_COLOURS, table.groupby("mass"))
        for marker, (ratio, points) in zip(_RATIO_MARKERS, part.groupby("ratio"))
    ]
    low = 100 * min(table.theory_test.min(), table.pgnn_test.min()) - 3
    for panel, ends, factor, expected, seen, name in (
        (accuracy, (low, 101), 100, "theory_test", "pgnn_test", "accuracy, %"),
        (exponent, (0.9, 3.1), 1, "theory_p", "pgnn_p", "p"),
    ):
        panel.plot(ends, ends, "--", color="black", linewidth=1)
        for label, points, colour, marker in groups:
            panel.plot(
                factor * points[expected],
                factor * points[seen],
                marker,
                color=colour,
                markersize=5,
                label=label,
            )
        panel.set_xlabel(f"{name}: predicted at the best p")
        panel.set_ylabel(f"{name}: pGNN, μ 0.1")
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(color="#e5e5e5", linewidth=0.6)
        panel.set_axisbelow(True)
    exponent.legend(frameon=False, fontsize=8)
