r"""Results of the study of distances, in the order of its protocol (docs/protocol-distances.md)::

    python -m attngraph.experiments.studies.distances_report runs/distances --rates runs/distances-rates

It reads a finished table, its ``prediction.csv``, and the runs that chose the learning rates, and writes
``report.md``, ``comparisons.csv`` and the figure ``distances``. Differences are in points; p-values and
intervals are for new checkpoints, seeds and images.

With ``--first-look``, it can be called while the table is being made (captions come first, checkpoint by
checkpoint). Where another learning rate wins often, ``other-rates.yaml`` in the folder of ``--rates`` has it;
the arm is run there, too, by the command of the table with ``--settings`` of that file, ``--rows``,
``--tasks`` and another ``--out``, whose folder is ``--other`` here.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from attngraph.analysis.plots.style import COLOURS, GREY, PAGE, SMALL, new_figure, save, styled
from attngraph.errors import UserError
from attngraph.experiments.base.files import write_text
from attngraph.experiments.methods import METHODS
from attngraph.experiments.methods.settings import Settings, chosen_settings, write_settings
from attngraph.experiments.runs.experiment import AT_RATE
from attngraph.experiments.runs.saved import read_config
from attngraph.experiments.studies.distances import ARMS, COUPLED, FREE, NOTHING
from attngraph.experiments.studies.distances_prediction import FILE as PREDICTION
from attngraph.experiments.tables.compare import compare_pairs, holm
from attngraph.experiments.tables.frame import Scores, scores_of
from attngraph.experiments.tables.render import markdown_grid
from attngraph.experiments.tables.runs import RESULTS, Run, saved_runs
from attngraph.experiments.tables.tune import DIVERGED
from attngraph.experiments.tasks.catalogue import SCENE

ACCURACY = "vqa.accuracy"
COLUMNS = {"caption": SCENE, "vqa": ACCURACY}  # of each task
MARGINS = {SCENE: 0.01, ACCURACY: 0.005}  # of equivalence; also what H0 must reach
SUMMARY = "summary"
LEVEL, RESAMPLES = 0.05, 10_000
OFTEN = 0.2  # of resamples in which another rate wins, so that the arm is also run there
OTHER_RATES = "other-rates.yaml"
FIRST = 4  # checkpoints of the first look


@dataclass(frozen=True)
class Question:
    """One of the four comparisons: ``row`` minus ``baseline``, which are to be equivalent or not."""

    name: str
    row: str
    baseline: str
    equivalent: bool = False


QUESTIONS = (
    Question("H0", "oracle_free", "nothing_free"),
    Question("H1", "natural", "closed_form", equivalent=True),
    Question("H2", "natural", "other_patch", equivalent=True),
    Question("H3", "natural_free", "natural"),
)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the report and write its files; with ``--first-look`` print that alone."""
    parser = argparse.ArgumentParser(description="Report of the study of distances.")
    parser.add_argument("source", type=Path, help="Folder of the table: runs or archives.")
    parser.add_argument("--rates", type=Path, help="Folder of `attngraph search`, which chose the rates.")
    parser.add_argument("--other", type=Path, help="Folder of arms that were run at another rate, too.")
    parser.add_argument(
        "--out", type=Path, help="Folder of the report. Default: report in that of the table."
    )
    parser.add_argument("--first-look", action="store_true", help="H0 and H2 on the first four checkpoints.")
    parser.add_argument("--closed-form", type=Path, help="Markdown table of pGNN's closed form by layer.")
    args = parser.parse_args(argv)
    if args.rates is not None:
        write_settings(args.rates / OTHER_RATES, at_other_rates(args.rates))
    with saved_runs(args.source) as runs:
        if args.first_look:
            print(first_look(runs))
            return
        check_complete(args.source, runs)
        if args.other is None:
            text, table = report(runs, args.source, args.rates)
        else:
            with saved_runs(args.other) as others:
                check_other(args.other, others, runs)
                text, table = report(runs, args.source, args.rates, others)
        figure = draw(runs, args.source, args.closed_form)
    out = args.out or args.source / "report"
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "report.md", text)
    write_text(out / "comparisons.csv", table.to_csv(index=False))
    if figure is not None:
        save(figure, out / "distances", _CAPTION)
    print(text)


def check_complete(source: Path, runs: Sequence[Run]) -> None:
    """Raise a UserError if the table is not finished, or arms differ in their seeds, so that scores are not
    seen before.
    """
    arm_names = {arm.name for arm in ARMS}
    seeds = {frozenset(of) for (row, _), of in seeds_of(runs).items() if row in arm_names}
    is_table = not (source / "cells").is_dir() or (source / RESULTS).is_file()
    if not is_table or len(seeds) != 1:
        raise UserError(f"{source} is not complete: run attngraph ablation to its end, or use --first-look")


def check_other(folder: Path, others: Sequence[Run], runs: Sequence[Run]) -> None:
    """Raise a UserError if an arm at another rate lacks runs that the table has."""
    table = seeds_of(runs)
    for (row, task), seeds in seeds_of(others).items():
        if seeds != table.get((row, task)):
            raise UserError(f"{folder} is not complete ({row}, {task}): run attngraph ablation to its end")


def seeds_of(runs: Sequence[Run]) -> dict[tuple[str, str], set[int]]:
    """The seeds of each row and task."""
    seeds: dict[tuple[str, str], set[int]] = {}
    for run in runs:
        seeds.setdefault((run.row, run.task), set()).add(run.seed)
    return seeds


def report(
    runs: Sequence[Run], source: Path, rates: Path | None, others: Sequence[Run] = ()
) -> tuple[str, pd.DataFrame]:
    """The report as Markdown, and all comparisons.

    Args:
        runs: runs of the table.
        source: its folder, with the prediction.
        rates: folder of the search for rates.
        others: runs of arms at another rate.
    """
    primary, secondary, summary = (compared(runs, key) for key in (SCENE, ACCURACY, SUMMARY))
    tables = [primary, secondary, summary]
    parts = [
        "# Study of distances\n",
        counts(runs),
        markdown_grid(arms(runs), "Arms: mean ± standard deviation over seeds, × 100"),
        markdown_grid(shown(primary), "Captions, Scene F1 (primary)"),
        conclusion(primary),
        markdown_grid(shown(secondary), "VQA, accuracy (secondary)"),
        markdown_grid(shown(summary), "Both tasks, in standard deviations between seeds of one checkpoint"),
        markdown_grid(
            learned(runs), "Exponents and mass moved in cross-attention: mean over layers ± over seeds"
        ),
    ]
    for row in dict.fromkeys(run.row for run in others if run.row != "frozen"):
        again = [run for run in others if run.row == row and _rate(run) != _rate(_same(runs, run))]
        replaced = {(run.task, run.seed) for run in again}
        kept = [run for run in runs if run.row != row or (run.task, run.seed) not in replaced]
        for key in (SCENE, ACCURACY, SUMMARY):
            of_key = [run for run in again if key in (SUMMARY, COLUMNS[run.task])]
            if of_key:
                table = compared([*kept, *again], key).assign(other_rate=row)
                table = table[(table["row"] == row) | (table["baseline"] == row)]
                tables.append(table)
                at = " and ".join(f"{rate:g}" for rate in dict.fromkeys(map(_rate, of_key)))
                title = f"{METHODS[row].title} at {at}: {key}"
                parts.append(markdown_grid(shown(table), title))
    if rates is not None:
        parts.append(markdown_grid(tuning(rates), "Tuning noise: in which share of resamples each rate wins"))
    if (source / PREDICTION).is_file():
        parts.append(predicted(runs, pd.read_csv(source / PREDICTION)))
    return "\n".join(parts), pd.concat(tables, ignore_index=True)


def _same(runs: Sequence[Run], run: Run) -> Run:
    return next(one for one in runs if (one.row, one.task, one.seed) == (run.row, run.task, run.seed))


def _rate(run: Run) -> float:
    return float(run.settings["recipe"]["learning_rate"])


# ---- the four comparisons ---------------------------------------------------------------------------------


def compared(runs: Sequence[Run], key: str, questions: Sequence[Question] = QUESTIONS) -> pd.DataFrame:
    """A line for each question: the fields of :func:`attngraph.experiments.tables.compare.compare_pairs`,
    with names of rows; ``question``; ``test_p`` of the planned test, and ``test_p_holm``;
    ``difference_p_holm``, corrected as if all four tests were of no difference; ``answer``.

    Args:
        runs: runs of the table.
        key: key of a column, or :data:`SUMMARY`.
        questions: the questions.
    """
    scores = scores_of(runs)
    margin = MARGINS.get(key)
    lines = []
    for question in questions:
        pair = (question.row, question.baseline)
        of_pair = scores
        if key == SUMMARY:
            of_pair = replace(scores, weights={SUMMARY: standardised(scores, pair)})
        (line,) = compare_pairs(of_pair, [pair], [key], margin)
        line |= {"question": question.name, "row": question.row, "baseline": question.baseline}
        for name in ("low", "high", "p", "equivalent_p"):  # with one checkpoint: for this one
            if name in line:
                line[name] = line[name] if line[f"new_{name}"] is None else line[f"new_{name}"]
        tosts = question.equivalent and margin is not None
        line["test_p"] = line["equivalent_p"] if tosts else line["p"]
        lines.append({name: x for name, x in line.items() if not name.startswith("new_")})
    table = pd.DataFrame(lines)
    table["test_p_holm"] = holm(table["test_p"].tolist())
    table["difference_p_holm"] = holm(table["p"].tolist())
    table["answer"] = [
        answer(question, line, margin) for question, line in zip(questions, table.to_dict("records"))
    ]
    return table.drop(columns=["p_holm", "equivalent_p_holm"], errors="ignore")


def standardised(scores: Scores, pair: tuple[str, str]) -> dict[str, float]:
    """Weights for the mean over the two tasks of the difference of two rows, each divided by its standard
    deviation between the seeds of one checkpoint; 0 if that is 0, as in runs of a few steps.
    """
    columns = [SCENE, ACCURACY]
    frame = scores.frame.set_index("seed")
    first, second = (frame.loc[frame["row"] == row, columns] for row in pair)
    differences = (first - second).dropna()
    checkpoint = {run.seed: run.checkpoint for run in scores.runs}
    groups = [checkpoint[seed] for seed in differences.index]
    centred = differences - differences.groupby(groups).transform("mean")
    spread = ((centred**2).sum() / (len(differences) - len(set(groups)))) ** 0.5
    return {key: float(1 / (len(columns) * spread[key])) if spread[key] else 0.0 for key in columns}


def answer(question: Question, line: Mapping[str, Any], margin: float | None) -> str:
    """The conclusion at :data:`LEVEL`."""
    sure, differs = line["test_p_holm"] < LEVEL, line["difference_p_holm"] < LEVEL
    if question.equivalent and margin is not None:
        if sure:
            return "equivalent" + (", with a difference" if differs else "")
        return "different" if differs else "neither equivalent nor different"
    if not sure:
        return "no significant difference"
    if line["difference"] < 0:
        return "below 0"
    small = question.name == "H0" and margin is not None and line["difference"] < margin
    return "above 0" + (f", but by less than {100 * margin:g}" if small else "")


def conclusion(primary: pd.DataFrame) -> str:
    """Whether H1 to H3 may be read."""
    if primary.loc[primary["question"] == "H0", "answer"].item() == "above 0":
        return "H0 holds: the adapters make use of distances that know what is relevant.\n"
    return (
        "**H0 fails**: mass on distractors does not limit these adapters. There are no conclusions from H1 "
        "to H3.\n"
    )


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """Comparisons as texts."""
    unit = 1 if (table["column"] == SUMMARY).all() else 100
    lines = []
    for line in table.to_dict("records"):
        title = f"{METHODS[line['row']].title} − {METHODS[line['baseline']].title}"
        interval = f"{unit * line['low']:+.2f} to {unit * line['high']:+.2f}"
        by_checkpoint = " ".join(f"{unit * one:+.2f}" for one in line["by_checkpoint"])
        p_values = [f"{line[name]:.4f}" for name in ("p", "test_p", "test_p_holm")]
        numbers = (f"{unit * line['difference']:+.2f}", interval, *p_values, line["answer"], by_checkpoint)
        lines.append((line["question"], title, *numbers))
    head = (
        "",
        "Comparison",
        "Difference",
        "95 % interval",
        "p of no difference",
        "p of the test",
        "p (Holm)",
    )
    return pd.DataFrame(lines, columns=[*head, "Answer", "By checkpoint"])


def first_look(runs: Sequence[Run]) -> str:
    """H0 and H2 on captions of the first :data:`FIRST` checkpoints, and whether the study stops.

    Raises:
        UserError: a run of them is missing.
    """
    questions = [question for question in QUESTIONS if question.name in ("H0", "H2")]
    rows = {name for question in questions for name in (question.row, question.baseline)}
    captions = [run for run in runs if run.task == "caption" and run.row in rows]
    checkpoint = {run.seed: run.checkpoint for run in sorted(captions, key=lambda run: run.seed)}
    first = list(dict.fromkeys(checkpoint.values()))[:FIRST]
    chosen = [run for run in captions if run.checkpoint in first]
    if len(first) < FIRST or len(chosen) != 2 * FIRST * len(rows):
        raise UserError(f"the first look needs two seeds of {', '.join(sorted(rows))} on {FIRST} checkpoints")
    table = compared(chosen, SCENE, questions)
    line = table.iloc[0]
    stops = line["difference"] < 0 and line["high"] < MARGINS[SCENE]
    said = "The study stops." if stops else "The study continues."
    return f"{markdown_grid(shown(table), 'First look: Scene F1 on four checkpoints')}\n{said}\n"


# ---- further tables ---------------------------------------------------------------------------------------


def counts(runs: Sequence[Run]) -> str:
    """Numbers of runs, and of runs below the frozen model with the same checkpoint."""
    frozen = {
        (run.task, run.checkpoint): run.result["scores"][COLUMNS[run.task]]
        for run in runs
        if run.row == "frozen"
    }
    trained = [run for run in runs if run.row != "frozen" and (run.task, run.checkpoint) in frozen]
    below = [
        run for run in trained if run.result["scores"][COLUMNS[run.task]] < frozen[run.task, run.checkpoint]
    ]
    checkpoints = len({run.checkpoint for run in runs})
    return (
        f"{len(runs)} runs on {checkpoints} checkpoints; {len(below)} of {len(trained)} below the frozen "
        "model.\n"
    )


def arms(runs: Sequence[Run]) -> pd.DataFrame:
    """Every arm in every column."""
    scores = scores_of(runs)
    columns = {column.key: column.heading for column in scores.columns}
    order = [name for name in (*(arm.name for arm in ARMS), "frozen") if name in set(scores.frame["row"])]
    groups = scores.frame.groupby("row")[list(columns)]
    mean, spread = 100 * groups.mean().loc[order], 100 * groups.std().loc[order]
    text = mean.map("{:.2f}".format) + spread.map(lambda x: "" if np.isnan(x) else f" ± {x:.2f}")
    text.insert(0, "Arm", [METHODS[name].title for name in order])
    return text.rename(columns=columns).reset_index(drop=True)


def learned(runs: Sequence[Run]) -> pd.DataFrame:
    """The learned exponents of each arm and task, and the fraction of mass that its weights move."""
    lines = []
    for run in runs:
        if run.row == "frozen":
            continue
        cross = {k: x for k, x in run.result.get("learned", {}).items() if "crossattention" in k}
        exponents = {
            name: [x for key, x in cross.items() if key.rpartition(".")[2] == name]
            for name in ("p", "a", "b")
        }
        effects = [x for layer, x in run.result.get("effects", {}).items() if "crossattention" in layer]
        values = {**exponents, "mass moved": [effect["moved"] for effect in effects if "moved" in effect]}
        of_run = {name: np.mean(of) if of else np.nan for name, of in values.items()}
        lines.append({"row": run.row, "Task": run.task, **of_run})
    frame = pd.DataFrame(lines)
    names = ["p", "a", "b", "mass moved"]
    groups = frame.groupby(["row", "Task"])[names]
    mean, spread = groups.mean(), groups.std()
    text = mean.map(lambda x: "" if np.isnan(x) else f"{x:.2f}")
    text += spread.map(lambda x: "" if np.isnan(x) else f" ± {x:.2f}")
    order = [
        (arm.name, name) for arm in ARMS for name in ("caption", "vqa") if (arm.name, name) in text.index
    ]
    text = text.loc[order].reset_index()
    text.insert(0, "Arm", [METHODS[name].title for name in text.pop("row")])
    return text


# ---- tuning noise -----------------------------------------------------------------------------------------


def wins(rates: Path) -> pd.DataFrame:
    """Fraction of :data:`RESAMPLES` resamples of the checkpoints in which each rate has the best mean:
    ``method``, ``task``, ``rate``, ``mean``, ``share``. A rate at which a run diverged never has it.
    """
    trials = pd.read_csv(rates / "search.csv")
    weights = {}
    for file in rates.glob(f"cells/*{AT_RATE}*/*/seed*/config.json"):
        weights[int(file.parent.name.removeprefix("seed"))] = read_config(file.parent)["settings"]["weights"]
    trials["checkpoint"] = trials["seed"].map(weights)
    count = trials["checkpoint"].nunique()
    draws = np.random.default_rng(0).integers(count, size=(RESAMPLES, count))
    lines = []
    for (method, task), part in trials.groupby(["method", "task"], sort=False):
        means = part.pivot_table(index="checkpoint", columns="rate", values="score")
        means[means.columns[means.eq(DIVERGED).any()]] = DIVERGED
        winners = means.to_numpy()[draws].mean(axis=1).argmax(axis=1)
        shares = np.bincount(winners, minlength=means.shape[1]) / RESAMPLES
        for rate, mean, share in zip(means.columns, means.mean(), shares):
            lines.append({"method": method, "task": task, "rate": rate, "mean": mean, "share": share})
    return pd.DataFrame(lines)


def tuning(rates: Path) -> pd.DataFrame:
    """:func:`wins` as texts."""
    lines = []
    for (method, task), part in wins(rates).groupby(["method", "task"], sort=False):
        best = float(part.loc[part["mean"].idxmax(), "rate"])
        every = ", ".join(f"{line.rate:g}: {line.share:.2f}" for line in part.itertuples())
        other = other_rate(part, best)
        also = "" if other is None else f"{other:g}"
        lines.append((METHODS[method].title, task, f"{best:g}", every, also))
    return pd.DataFrame(lines, columns=["Arm", "Task", "Chosen", "Rate: share", "Also run at"])


def other_rate(shares: pd.DataFrame, chosen: float) -> float | None:
    """The rate that wins most often, apart from the chosen one; None if its share of the resamples is at most
    :data:`OFTEN`.
    """
    others = shares[(shares["rate"] != chosen) & (shares["share"] > OFTEN)]
    return float(others.loc[others["share"].idxmax(), "rate"]) if len(others) else None


def at_other_rates(rates: Path) -> Settings:
    """The chosen settings of arms and tasks for which another rate wins too often, with that rate instead."""
    settings = chosen_settings(rates / "settings.yaml")
    for (method, task), part in wins(rates).groupby(["method", "task"], sort=False):
        chosen = settings.methods[method][task]
        rate = other_rate(part, chosen.learning_rate)
        if rate is not None:
            settings.methods[method][task] = chosen.model_copy(update={"learning_rate": rate})
    return settings


# ---- the prediction ---------------------------------------------------------------------------------------


def gains(runs: Sequence[Run], prediction: pd.DataFrame) -> pd.DataFrame:
    """For each arm with distances and each checkpoint: ``saved``, the reduction of mass on distractors
    compared with the arm without distances and the same exponents, and ``gain``, the difference in Scene F1;
    as fractions.

    Raises:
        UserError: a checkpoint of the runs has no prediction.
    """
    if lacking := {run.checkpoint for run in runs} - set(prediction["checkpoint"]):
        digests = ", ".join(sorted(lacking))
        raise UserError(f"{PREDICTION} lacks checkpoints with the digests {digests}: write it again")
    saved = prediction.groupby(["checkpoint", "arm"])["saved"].mean()
    scores = pd.Series(
        {
            (run.checkpoint, run.row, run.seed): run.result["scores"][SCENE]
            for run in runs
            if run.task == "caption"
        }
    )
    means = scores.groupby(level=[0, 1]).mean()
    held = {run.row for run in runs}
    lines = []
    for arms_of in (COUPLED, FREE):
        nothing = arms_of[NOTHING].name
        for arm in arms_of.values():
            if arm.name == nothing or not {arm.name, nothing} <= held:
                continue
            for checkpoint in dict.fromkeys(run.checkpoint for run in runs):
                lines.append(
                    {
                        "arm": arm.name,
                        "checkpoint": checkpoint,
                        "saved": saved[checkpoint, arm.name] - saved[checkpoint, nothing],
                        "gain": means[checkpoint, arm.name] - means[checkpoint, nothing],
                    }
                )
    return pd.DataFrame(lines)


def slope(points: pd.DataFrame, resamples: int = RESAMPLES) -> tuple[float, float, float, float]:
    """Slope of the gain over the mass saved, by least squares; its 95 % interval and two-sided p-value, by
    resampling arms and checkpoints independently (Owen, Annals of Applied Statistics 1, 2007)."""
    x, y = (
        points.pivot(index="arm", columns="checkpoint", values=name).to_numpy() for name in ("saved", "gain")
    )
    rng = np.random.default_rng(0)
    found = []
    for _ in range(resamples):
        rows, columns = (rng.integers(count, size=count) for count in x.shape)
        found.append(_slope(x[np.ix_(rows, columns)], y[np.ix_(rows, columns)]))
    low, high = np.nanquantile(found, [0.025, 0.975])
    known = np.array(found)[~np.isnan(found)]
    tails = min((known <= 0).mean(), (known >= 0).mean())
    return _slope(x, y), float(low), float(high), float(min(1.0, 2 * tails))


def _slope(x: np.ndarray, y: np.ndarray) -> float:
    centred = x - x.mean()
    square = (centred**2).sum()
    return float((centred * y).sum() / square) if square > 0 else np.nan


def predicted(runs: Sequence[Run], prediction: pd.DataFrame) -> str:
    """The prediction and the result."""
    points = gains(runs, prediction)
    means = 100 * points.groupby("arm", sort=False)[["saved", "gain"]].mean()
    table = pd.DataFrame(
        {
            "Arm": [METHODS[name].title for name in means.index],
            "Mass saved, points": means["saved"].map("{:+.1f}".format).tolist(),
            "Gain in Scene F1, points": means["gain"].map("{:+.2f}".format).tolist(),
        }
    )
    value, low, high, p = slope(points)
    size = f"{points['arm'].nunique()} arms × {points['checkpoint'].nunique()} checkpoints"
    said = (
        f"Slope: {value:.3f} points of Scene F1 for each point of mass saved (95 % interval {low:.3f} to "
        f"{high:.3f}, p {p:.4f}; {size}).\n"
    )
    return (
        f"{markdown_grid(table, 'Prediction: compared with seeing nothing, mean over checkpoints')}\n{said}"
    )


# ---- the figure -------------------------------------------------------------------------------------------


_CAPTION = (
    "Left, where the file is given: correlation of pGNN's weights with their closed form, a point for each "
    "layer of a model. Then the contrast of the distances that each arm sees in the frozen models, a point "
    "for each checkpoint (mean over layers). Right: gain in Scene F1 over seeing nothing against the mass on "
    "distractors that the distances are predicted to save, a point for each arm and checkpoint, with the "
    "line of least squares."
)


def draw(runs: Sequence[Run], source: Path, closed_form: Path | None = None) -> Figure | None:
    """pGNN's weights and its closed form in the layers of models, if a file has them; the contrast of the
    distances that each arm sees; and gains over saved masses. None without a prediction."""
    if not (source / PREDICTION).is_file():
        return None
    prediction = pd.read_csv(source / PREDICTION)
    panels = 2 + (closed_form is not None)
    with styled():
        figure = new_figure(PAGE, 2.6)
        axes = list(np.ravel(figure.subplots(1, panels)))
        if closed_form is not None:
            _draw_closed_form(axes.pop(0), closed_form)
        _draw_contrast(axes[0], prediction)
        _draw_gains(axes[1], gains(runs, prediction))
    return figure


def _draw_closed_form(axes: Axes, file: Path) -> None:
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    table = pd.read_csv(io.StringIO("\n".join(lines[:1] + lines[2:])), sep="|", skipinitialspace=True)
    table.columns = table.columns.str.strip()
    table["kind"] = table["kind"].str.strip()
    models = list(dict.fromkeys(table["model"].str.strip()))
    for kind, part in table.groupby("kind"):
        axes.scatter(part["r"], part["model"].str.strip().map(models.index), s=9, label=f"{kind}-attention")
    axes.set_yticks(range(len(models)), models)
    axes.set(xlabel="correlation with the closed form", ylim=(len(models) - 0.5, -0.5))
    axes.legend()


def _draw_contrast(axes: Axes, prediction: pd.DataFrame) -> None:
    """A dot for each checkpoint, the mean over layers."""
    names = [arm.name for arm in COUPLED.values() if arm.name != NOTHING]
    means = prediction.groupby(["arm", "checkpoint"])["contrast"].mean()
    for place, name in enumerate(names):
        values = means[name]
        axes.scatter(values, np.full(len(values), place), s=9, color=COLOURS[0])
    axes.axvline(0, color=GREY, linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(names)), [METHODS[name].title for name in names])
    axes.invert_yaxis()
    axes.set(xlabel="contrast of distances, frozen models")


def _draw_gains(axes: Axes, points: pd.DataFrame) -> None:
    """All arms and checkpoints, and the line of least squares."""
    for name, part in points.groupby("arm", sort=False):
        axes.scatter(100 * part["saved"], 100 * part["gain"], s=9, label=METHODS[str(name)].title)
    x, y = 100 * points["saved"].to_numpy(), 100 * points["gain"].to_numpy()
    ends = np.array([x.min(), x.max()])
    axes.plot(ends, y.mean() + _slope(x, y) * (ends - x.mean()), color="black", linewidth=0.9)
    axes.axhline(0, color=GREY, linewidth=0.8, linestyle=":")
    axes.set(xlabel="predicted: mass saved (points)", ylabel="gain in Scene F1 (points)")
    axes.legend(fontsize=SMALL)


if __name__ == "__main__":
    main()
