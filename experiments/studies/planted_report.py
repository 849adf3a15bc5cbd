"""What the runs on planted graphs say, condition by condition, next to theory; in a table, in words, as
figures.

A row's rate is chosen in each condition by the mean validation accuracy over seeds, and so is the row without
distances that others are compared with. Gains are means over seeds of paired differences of test accuracies;
their intervals are Student's, of 95 %.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.colors import CenteredNorm
from matplotlib.lines import Line2D
from scipy import stats

from attngraph.analysis.plots.style import COLOURS, DIVERGING, GREY, PAGE, new_figure, save, styled
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


# ---- as figures --------------------------------------------------------------------------------------------

FIGURES = ("planted-gain", "planted-gcn", "planted-theory")
_PGNN = "pGNN (μ 0.1)"
_MARKERS = ("v", "o", "^")  # of the ratios N1/N2
_DIAGRAM = (
    "c: cosine of a query and its relevant values' topic. Bold: the 95 % interval over seeds excludes 0. One "
    "colour scale for all panels."
)


def draw(table: pd.DataFrame, folder: Path) -> None:
    """Write the three :data:`FIGURES`: pGNN's gain over the best row without distances, next to the predicted
    one; its gain over GCN; predicted and learned accuracy and p."""
    gain, gcn, theory = (folder / stem for stem in FIGURES)
    _phases(
        table, "pgnn", gain,
        f"Gain of {_PGNN} over the best scheme without distances, in points of accuracy; in brackets: "
        f"predicted. {_DIAGRAM}",
    )  # fmt: skip
    _phases(
        table, "pgnn_gcn", gcn,
        f"Gain of {_PGNN} over GCN, in points of accuracy, also where distances carry no information "
        f"(c = 0). {_DIAGRAM}",
    )  # fmt: skip
    _against_theory(table, theory)


def _phases(table: pd.DataFrame, gain_of: str, stem: Path, caption: str) -> None:
    """A gain over contrast and mass, a panel for each ratio; that of pGNN next to the predicted one."""
    ratios = sorted(table.ratio.unique())
    limit = max(1.0, 100 * table[f"{gain_of}_gain"].abs().max())
    with styled():
        figure = new_figure(PAGE, 0.55 + 0.75 * len(ratios))
        panels = figure.subplots(len(ratios), 1, squeeze=False, sharex=True).ravel()
        for panel, ratio in zip(panels, ratios):
            wide = table[table.ratio == ratio].pivot(index="mass", columns="contrast")
            gain = 100 * wide[f"{gain_of}_gain"]
            sure = (wide[f"{gain_of}_low"] > 0) | (wide[f"{gain_of}_high"] < 0)
            image = panel.imshow(gain, DIVERGING, CenteredNorm(0, limit), aspect="auto", origin="lower")
            for (y, x), value in np.ndenumerate(gain.to_numpy()):
                theory = f" ({100 * wide['theory_gain'].iloc[y, x]:+.1f})" if gain_of == "pgnn" else ""
                panel.text(
                    x,
                    y,
                    f"{value:+.1f}{theory}".replace("-", "−"),
                    ha="center",
                    va="center",
                    fontsize=7,
                    fontweight="bold" if sure.iloc[y, x] else "normal",
                    color="white" if abs(value) > 0.6 * limit else "black",
                )
            panel.set_xticks(range(gain.shape[1]), [f"{c:g}".replace("-", "−") for c in gain.columns])
            panel.set_yticks(range(gain.shape[0]), [f"{mass:.0%}" for mass in gain.index])
            panel.set_title(f"N1/N2 = {ratio:g}")
        panels[-1].set_xlabel("contrast c")
        figure.supylabel("mass on distractors", fontsize=8)
        bar = figure.colorbar(image, ax=panels, fraction=0.02, aspect=40, pad=0.01)
        bar.outline.set_visible(False)
        bar.set_label("gain, points")
    save(figure, stem, caption)


def _against_theory(table: pd.DataFrame, stem: Path) -> None:
    """Accuracy and p of pGNN over what theory gives them; the colour is the mass, the marker the ratio."""
    masses, ratios = sorted(table.mass.unique()), sorted(table.ratio.unique())
    low = 100 * min(table.theory_test.min(), table.pgnn_test.min()) - 3
    with styled():
        figure = new_figure(PAGE, 3.3)
        for panel, ends, factor, expected, seen, name in zip(
            figure.subplots(1, 2),
            ((low, 101), (0.9, 3.1)),
            (100, 1),
            ("theory_test", "theory_p"),
            ("pgnn_test", "pgnn_p"),
            ("accuracy, %", "p"),
        ):
            panel.plot(ends, ends, "--", color=GREY, linewidth=0.8)
            for (mass, ratio), points in table.groupby(["mass", "ratio"]):
                colour, marker = COLOURS[masses.index(mass)], _MARKERS[ratios.index(ratio)]
                panel.plot(factor * points[expected], factor * points[seen], marker, color=colour, alpha=0.7)
            panel.set_xlabel(f"{name}: predicted at the best p")
            panel.set_ylabel(f"{name}: {_PGNN}")
            panel.grid()
        dots: Any = {"linestyle": "none"}
        colours = [
            Line2D([], [], marker="s", color=colour, label=f"mass {mass:.0%}", **dots)
            for mass, colour in zip(masses, COLOURS)
        ]
        shapes = [
            Line2D([], [], marker=marker, color="#444444", label=f"N1/N2 = {ratio:g}", **dots)
            for ratio, marker in zip(ratios, _MARKERS)
        ]
        figure.legend(handles=[*colours, *shapes], loc="outside lower center", ncols=6)
    caption = (
        f"Accuracy and p of {_PGNN}, learned (mean over seeds) and predicted: a point for each "
        "condition; colour: mass on distractors, shape: N1/N2. Dashed: equality."
    )
    save(figure, stem, caption)
