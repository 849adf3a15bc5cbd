"""Results of the runs on planted graphs, by condition and next to theory: a table, a text and figures.

A row's rate is chosen in each condition by the mean validation accuracy over seeds, and so is the row without
distances that others are compared with. Gains are means over seeds of paired differences of test accuracies;
their intervals are Student's, of 95 %.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.colors import CenteredNorm
from matplotlib.lines import Line2D

from attngraph.analysis.plots.style import COLOURS, DIVERGING, GREY, PAGE, new_figure, save, styled
from attngraph.experiments.studies.planted import EXPONENTS, ROWS, WITHOUT
from attngraph.experiments.studies.planted_theory import Prediction, predict, predict_cue
from attngraph.experiments.tables.method_comparison import interval

#: Rows whose gain over the best row without distances is reported.
COMPARED = ("pgnn", "pgnn_mu1", "placebo", "closed", "free")
TITLES = {name: row.title for name, row in ROWS.items()}


def condition(runs: pd.DataFrame) -> list[str]:
    """The columns that make a condition: two of a part of the study, and the contrast."""
    return list(runs.columns[:3])


def expected(axes: Mapping[str, Any], contrast: float) -> Prediction:
    """Prediction for values of the first two columns."""
    if "cue" in axes:
        return predict_cue(axes["cue"], axes["factor"], contrast)
    return predict(contrast, axes["mass"], axes["ratio"])


def present(names: Iterable[str], runs: pd.DataFrame) -> list[str]:
    """Those rows that were run."""
    return [name for name in names if name in set(runs.row)]


def chosen(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs, with the columns of ``planted.Study.columns``, at each row's best rate in each condition."""
    keys = [*condition(runs), "row"]
    means = runs.groupby([*keys, "rate"], as_index=False).validation.mean()
    best = means.loc[means.groupby(keys).validation.idxmax()]
    return runs.merge(best[[*keys, "rate"]], on=[*keys, "rate"])


def conditions(runs: pd.DataFrame) -> pd.DataFrame:
    """A line for each condition: what was expected, and what was measured.

    Returns:
        The condition; ``measured``, the contrast of distances, and ``expected``;
        ``without``, the best row without distances, and ``without_test``, its accuracy; for each row of
        :data:`COMPARED` ``<row>_test``, ``<row>_gain`` with ``_low`` and ``_high``, and the exponents that
        it learns, ``<row>_p``; ``pgnn_gcn_gain`` with ``_low`` and ``_high``, the gain of pGNN over GCN; and
        predicted ``theory_without``, ``theory_test``, ``theory_gain``, ``theory_p``, and with cues
        ``theory_<row>_gain`` of the other gains. Accuracies and gains are fractions.
    """
    lines, names = [], condition(runs)
    exponents = [name for name in EXPONENTS if name in runs]
    for key, part in chosen(runs).groupby(names):
        axes = dict(zip(names, key))
        means = part.groupby("row")[["validation", "test", *exponents]].mean()
        without = means.loc[present(WITHOUT, runs)].validation.idxmax()
        tests = part.pivot(index="seed", columns="row", values="test")
        theory = expected(axes, axes["contrast"])
        line = {
            **axes,
            "measured": part.measured.mean(),
            "expected": theory.contrast,
            "without": without,
            "without_test": means.test[without],
        }
        for row in present(COMPARED, runs):
            line[f"{row}_test"] = means.test[row]
            line |= _gain(row, tests[row] - tests[without])
            learned = ROWS[row].make().learned()
            line |= {f"{row}_{name}": means[name][row] for name in exponents if name in learned}
        line |= _gain("pgnn_gcn", tests["pgnn"] - tests["gcn"])
        line |= {"theory_without": theory.without, "theory_test": theory.best}
        line |= {"theory_gain": theory.gain, "theory_p": theory.p}
        if "cue" in axes:
            of = {row: theory.accuracy[TITLES[row]] for row in ("gcn", "closed", "free")}
            line |= {f"theory_{row}_gain": of[row] - theory.without for row in ("closed", "free")}
            line["theory_pgnn_gcn_gain"] = theory.best - of["gcn"]
        lines.append(line)
    return pd.DataFrame(lines)


def _gain(name: str, differences: pd.Series) -> dict[str, float]:
    low, mean, high = interval(differences.tolist())
    return {f"{name}_gain": mean, f"{name}_low": low, f"{name}_high": high}


# ---- in words ----------------------------------------------------------------------------------------------


def text(runs: pd.DataFrame, table: pd.DataFrame, about: str) -> str:
    """The report: of runs, of the ``table`` of their :func:`conditions`, and ``about`` seeds and machine."""
    best = chosen(runs).assign(title=lambda part: part.row.map(TITLES))
    names = condition(runs)
    picked = best.drop_duplicates([*names, "row"])
    parts = [
        f"Planted graphs: {len(table)} conditions, {len(runs):,} runs; {about}",
        "Accuracies and gains in %; test graphs, each row at its best rate on validation graphs.",
    ]
    for key, part in best.groupby(names[:2]):
        axes = dict(zip(names, key))
        parts.append(f"\n{_described(axes)}, by c")
        parts.append(_accuracies(part, axes).to_string())
    parts += ["", *_agreement(table)]
    compared = {
        row: f"{TITLES[row]} against the best row without distances" for row in present(COMPARED, runs)
    }
    for row, against in (compared | {"pgnn_gcn": f"{TITLES['pgnn']} against GCN"}).items():
        parts.append(f"\n{against}: where the gain and its interval lie\n{_wins(table, row).to_string()}")
    titles = [TITLES[row] for row in present(ROWS, runs)]
    rates = pd.crosstab(picked.title, picked.rate).reindex(titles).rename_axis(index=None)
    parts.append(f"\nBest rates: in how many conditions\n{rates.to_string()}")
    return "\n".join(parts) + "\n"


def _described(axes: Mapping[str, Any]) -> str:
    """The values of the first two columns."""
    if "cue" in axes:
        return f"{axes['cue']} of distractors {axes['factor']:.3g} times that of relevant values"
    return f"N1/N2 {axes['ratio']:g}, {axes['mass']:.0%} of the mass on distractors"


def _accuracies(part: pd.DataFrame, axes: Mapping[str, Any]) -> pd.DataFrame:
    """All rows of a part, mean ± standard deviation over seeds; and theory's."""
    tests = 100 * part.pivot_table(index="title", columns="contrast", values="test", aggfunc=["mean", "std"])
    shown = tests["mean"].map("{:.1f}".format) + " ± " + tests["std"].map("{:.1f}".format)
    shown = shown.reindex([TITLES[row] for row in present(ROWS, part)])
    theory = [expected(axes, c) for c in shown.columns]
    for name in theory[0].accuracy:
        shown.loc[f"theory: {name}"] = [f"{100 * one.accuracy[name]:.1f}" for one in theory]
    return shown.rename_axis(index=None, columns=None)


def _agreement(table: pd.DataFrame) -> list[str]:
    """Comparison of measured and predicted numbers."""
    signs = np.sign(table.pgnn_p - 2) == np.sign(table.theory_p - 2)
    lines = [f"Sign of p − 2 as predicted in {signs.sum()} of {len(table)} conditions"]
    for line in table[~signs].to_dict("records"):
        lines.append(f"  not at {_described(line)}, c {line['contrast']:g}")
    for name, seen, expected in (
        ("contrast of distances", table.measured, table.expected),
        ("accuracy of pGNN", table.pgnn_test, table.theory_test),
        ("gain of pGNN", table.pgnn_gain, table.theory_gain),
        *(
            (f"gain of {TITLES[row].lower()}", table[f"{row}_gain"], table[f"theory_{row}_gain"])
            for row in ("closed", "free")
            if f"theory_{row}_gain" in table
        ),
    ):
        r, rank = seen.corr(expected), seen.corr(expected, method="spearman")
        lines.append(
            f"Seen against predicted {name}: r {r:.3f}, rank correlation {rank:.3f}, mean distance "
            f"{(seen - expected).abs().mean():.3f}"
        )
    return lines


def _wins(table: pd.DataFrame, row: str) -> pd.DataFrame:
    """In how many conditions a row's mean gain is above 0, and its interval above or below, by the sign of c
    or by the cue; and the mean of its gains."""
    gain = 100 * table[f"{row}_gain"]
    each = {
        "conditions": 1,
        "mean above 0": gain > 0,
        "interval above": table[f"{row}_low"] > 0,
        "interval below": table[f"{row}_high"] < 0,
    }
    if "cue" in table:
        group = table.cue + table.factor.map(" {:.3g}".format)
    else:
        group = np.sign(table.contrast).map({-1: "c < 0", 0: "c = 0", 1: "c > 0"})
    group = group.rename(None)
    return pd.DataFrame(each).groupby(group).sum().assign(gain=gain.groupby(group).mean().round(1))


# ---- as figures --------------------------------------------------------------------------------------------

DIRECTION = ("planted-gain", "planted-gcn", "planted-theory")
CUES = "planted-cues"
FIGURES = (*DIRECTION, CUES)
_PGNN = "pGNN (μ 0.1)"
_MARKERS = ("v", "o", "^")  # of the ratios N1/N2
_DIAGRAM = (
    "c: cosine of a query and its relevant values' topic. Bold: the 95 % interval over seeds excludes 0. One "
    "colour scale for all panels."
)


def draw(table: pd.DataFrame, folder: Path) -> tuple[str, ...]:
    """Write figures and return their names. By direction: pGNN's gain over the best row without distances,
    next to the predicted one; its gain over GCN; predicted and learned accuracy and p. With cues: one figure
    of all gains."""
    if "cue" in table:
        _cues(table, folder / CUES)
        return (CUES,)
    gain, gcn, theory = (folder / stem for stem in DIRECTION)
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
    return DIRECTION


def _phases(table: pd.DataFrame, gain_of: str, stem: Path, caption: str) -> None:
    """A gain over contrast and mass, a panel for each ratio; that of pGNN next to the predicted one."""
    ratios = sorted(table.ratio.unique())
    limit = max(1.0, 100 * table[f"{gain_of}_gain"].abs().max())
    with styled():
        figure = new_figure(PAGE, 0.55 + 0.75 * len(ratios))
        panels = figure.subplots(len(ratios), 1, squeeze=False, sharex=True).ravel()
        for panel, ratio in zip(panels, ratios):
            part = table[table.ratio == ratio]
            image = _heat_map(panel, part, "mass", gain_of, limit)
            masses = sorted(part.mass.unique())
            panel.set_yticks(range(len(masses)), [f"{mass:.0%}" for mass in masses])
            panel.set_title(f"N1/N2 = {ratio:g}")
        panels[-1].set_xlabel("contrast c")
        figure.supylabel("mass on distractors", fontsize=8)
        _colour_bar(figure, image, panels)
    save(figure, stem, caption)


def _cues(table: pd.DataFrame, stem: Path) -> None:
    """All gains over contrast and the factor of the cue, a line of panels for each cue."""
    shown = {"pgnn": _PGNN, "closed": TITLES["closed"], "free": TITLES["free"], "pgnn_gcn": f"{_PGNN} − GCN"}
    names = list(dict.fromkeys(table.cue))
    limit = 100 * table[[f"{gain_of}_gain" for gain_of in shown]].abs().max(axis=None)
    with styled():
        figure = new_figure(PAGE, 0.5 + 0.85 * len(names))
        panels = figure.subplots(len(names), len(shown), sharex=True, squeeze=False)
        for line, name in zip(panels, names):
            part = table[table.cue == name]
            for panel, gain_of in zip(line, shown):
                image = _heat_map(panel, part, "factor", gain_of, limit, compact=True)
                panel.set_yticks([])
            factors = sorted(part.factor.unique())
            line[0].set_yticks(range(len(factors)), [f"× {factor:.2g}" for factor in factors])
            line[0].set_ylabel(name)
        for panel, title in zip(panels[0], shown.values()):
            panel.set_title(title)
        figure.supxlabel("contrast c", fontsize=8)
        _colour_bar(figure, image, panels)
    caption = (
        "Gains in points of accuracy over the best scheme without distances, and of pGNN over GCN; in "
        "brackets: predicted. Distractors differ from relevant values by the cue: the weight of an edge, the "
        f"degree or the length of a value is larger by the factor at the left. {_DIAGRAM}"
    )
    save(figure, stem, caption)


def _heat_map(
    panel: Any, part: pd.DataFrame, by: str, gain_of: str, limit: float, compact: bool = False
) -> Any:
    """A gain over contrast and another column, and the predicted one if there is one."""
    wide = part.pivot(index=by, columns="contrast")
    gain = 100 * wide[f"{gain_of}_gain"]
    sure = (wide[f"{gain_of}_low"] > 0) | (wide[f"{gain_of}_high"] < 0)
    image = panel.imshow(gain, DIVERGING, CenteredNorm(0, limit), aspect="auto", origin="lower")
    digits, gap, size = (0, "\n", 6) if compact else (1, " ", 7)
    predicted = "theory_gain" if gain_of == "pgnn" else f"theory_{gain_of}_gain"
    for (y, x), value in np.ndenumerate(gain.to_numpy()):
        text = f"{round(value, digits) + 0.0:+.{digits}f}"  # not -0
        if predicted in part:
            theory = round(100 * wide[predicted].iloc[y, x], digits) + 0.0
            text += f"{gap}({theory:+.{digits}f})"
        panel.text(
            x,
            y,
            text.replace("-", "−"),
            ha="center",
            va="center",
            fontsize=size,
            fontweight="bold" if sure.iloc[y, x] else "normal",
            color="white" if abs(value) > 0.6 * limit else "black",
        )
    panel.set_xticks(range(gain.shape[1]), [f"{c:g}".replace("-", "−") for c in gain.columns])
    return image


def _colour_bar(figure: Any, image: Any, panels: Any) -> None:
    bar = figure.colorbar(image, ax=panels, fraction=0.02, aspect=40, pad=0.01)
    bar.outline.set_visible(False)
    bar.set_label("gain, points")


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
