r"""Results of the study of distances, in the order of its protocol (docs/protocol-distances.md)::

    python -m attngraph.experiments.studies.distances_report runs/distances --rates runs/distances-rates

It reads a finished table, its ``prediction.csv``, and the files of the search for learning rates, and writes
``report.md``, ``comparisons.csv`` (scores as fractions) and the figure ``distances``. Differences in the
report are in points; p-values and intervals are for new checkpoints, seeds and images.

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
from attngraph.experiments.studies.distances import ARMS, COUPLED, FREE, NOTHING
from attngraph.experiments.studies.distances_prediction import FILE as PREDICTION
from attngraph.experiments.studies.distances_prediction import PRESET
from attngraph.experiments.studies.distances_rates import (
    OTHER_RATES,
    RESAMPLES,
    Rates,
    commands,
    second_rates,
    trials_of,
    tuning,
    with_rates,
)
from attngraph.experiments.tables.compare import compare_pairs, holm
from attngraph.experiments.tables.frame import FROZEN, Scores, scores_of
from attngraph.experiments.tables.grid import load_preset
from attngraph.experiments.tables.plan import plan_table
from attngraph.experiments.tables.render import markdown_grid
from attngraph.experiments.tables.runs import Run, saved_runs
from attngraph.experiments.tables.tune import DIVERGED, SETTINGS
from attngraph.experiments.tasks.catalogue import SCENE

ACCURACY = "vqa.accuracy"
COLUMNS = {"caption": SCENE, "vqa": ACCURACY}  # of each task
MARGINS = {SCENE: 0.01, ACCURACY: 0.005}  # of equivalence; also what H0 must reach
SUMMARY = "summary"
LEVEL = 0.05
FIRST = 4  # checkpoints of the first look

Key = tuple[str, str, int]  # row, task and seed of a run


@dataclass(frozen=True)
class Question:
    """One of the four comparisons: ``row`` minus ``baseline``, which are to be equivalent or not."""

    name: str
    row: str
    baseline: str
    equivalent: bool = False

    @property
    def rows(self) -> tuple[str, str]:
        """The two rows."""
        return self.row, self.baseline


QUESTIONS = (
    Question("H0", "oracle_free", "nothing_free"),
    Question("H1", "natural", "closed_form", equivalent=True),
    Question("H2", "natural", "other_patch", equivalent=True),
    Question("H3", "natural_free", "natural"),
)
HOLDS, NO_CONCLUSION = "above 0", "no conclusion, since H0 fails"


def main(argv: Sequence[str] | None = None) -> None:
    """Print the report and write its files; with ``--first-look`` print that alone."""
    parser = argparse.ArgumentParser(description="Report of the study of distances.")
    parser.add_argument("source", type=Path, help="Folder of the table: runs or archives.")
    parser.add_argument("--rates", type=Path, required=True, help="Folder of `attngraph search`.")
    parser.add_argument(
        "--other", type=Path, nargs="+", default=[], help="Folders of arms that were run at a second rate."
    )
    parser.add_argument(
        "--out", type=Path, help="Folder of the report. Default: report in that of the table."
    )
    parser.add_argument("--first-look", action="store_true", help="H0 and H2 on the first four checkpoints.")
    parser.add_argument("--closed-form", type=Path, help="Markdown table of pGNN's closed form by layer.")
    parser.add_argument("--set", dest="changes", action="append", default=[], help="Change of the preset.")
    args = parser.parse_args(argv)
    trials, chosen = trials_of(args.rates), chosen_settings(args.rates / SETTINGS)
    second = second_rates(trials, chosen, [row for question in QUESTIONS for row in question.rows])
    write_settings(args.rates / OTHER_RATES, with_rates(chosen, second))
    planned = planned_runs(chosen, args.changes)
    with saved_runs(args.source) as runs:
        if args.first_look:
            print(first_look(runs, planned))
            return
        prediction = read_prediction(args.source)
        check_complete(runs, planned)
        with saved_runs(*args.other) as others:
            again = at_second_rates(others, runs, second, args.rates)
            text, table = report(runs, again, trials, chosen, prediction)
        figure = draw(runs, prediction, args.closed_form)
    out = args.out or args.source / "report"
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "report.md", text)
    write_text(out / "comparisons.csv", table.to_csv(index=False))
    save(figure, out / "distances", _CAPTION)
    print(text)


# ---- the runs ---------------------------------------------------------------------------------------------


def planned_runs(chosen: Settings, changes: Sequence[str] = ()) -> dict[Key, float | None]:
    """Row, task and seed of each run of the table -> its learning rate; None without training.

    Args:
        chosen: the chosen settings.
        changes: changes of the preset.
    """
    grid = load_preset(str(PRESET), changes)
    cells = plan_table(grid.model_copy(update={"settings": chosen})).cells
    return {(c.label, c.task, c.seed): c.recipe and c.recipe.learning_rate for c in cells}


def rates_of(runs: Sequence[Run]) -> dict[Key, float | None]:
    """Row, task and seed of each run -> its learning rate."""
    return {(run.row, run.task, run.seed): _rate(run) for run in runs}


def _rate(run: Run) -> float | None:
    recipe = run.settings.get("recipe")
    return None if recipe is None else float(recipe["learning_rate"])


def check_complete(runs: Sequence[Run], planned: Mapping[Key, float | None]) -> None:
    """Raise a UserError if the table lacks runs, has others, or has an arm with two rates or with a higher
    rate than the chosen one. A lower one is that of an arm that diverged.
    """
    rates = rates_of(runs)
    if lacking := sorted(planned.keys() - rates.keys()):
        raise UserError(
            f"{len(lacking)} of {len(planned)} runs are missing, the first one {_named(*lacking[0])}: run "
            "attngraph ablation to its end"
        )
    if foreign := sorted(rates.keys() - planned.keys()):
        raise UserError(f"{_named(*foreign[0])} is not a run of the preset: remove it")
    for (row, task, seed), rate in rates.items():
        first, highest = rates[row, task, 0], planned[row, task, seed]
        if rate != first:
            raise UserError(
                f"there are runs of {row} on {task} at the learning rates {first:g} and {rate:g}: repeat "
                "those at the higher one"
            )
        if rate is not None and highest is not None and rate > highest:
            raise UserError(
                f"runs of {row} on {task} have the learning rate {rate:g}, and {highest:g} was chosen: "
                f"repeat them with --settings {SETTINGS}"
            )


def _named(row: str, task: str, seed: int) -> str:
    return f"{row} on {task} with seed {seed}"


def at_second_rates(others: Sequence[Run], runs: Sequence[Run], second: Rates, folder: Path) -> list[Run]:
    """The runs at second rates.

    Args:
        others: runs of arms with ``other-rates.yaml``; those at the rate of the table are skipped.
        runs: runs of the table.
        second: the second rates.
        folder: folder of the search.

    Raises:
        UserError: a run is missing, or has another rate.
    """
    table = rates_of(runs)
    again = [run for run in others if _rate(run) != table.get((run.row, run.task, run.seed))]
    found = rates_of(again)
    wanted = {key: second[key[:2]] for key, rate in table.items() if second.get(key[:2], rate) != rate}
    if unlike := sorted(key for key in {*wanted, *found} if wanted.get(key) != found.get(key)):
        row, task, seed = unlike[0]
        expected = f"needs {wanted[unlike[0]]:g}" if unlike[0] in wanted else "has no second rate"
        raise UserError(
            f"{_named(row, task, seed)} {expected}: give the folders of attngraph ablation "
            f"{commands(second, folder)} to --other"
        )
    return again


def report(
    runs: Sequence[Run],
    again: Sequence[Run],
    trials: pd.DataFrame,
    chosen: Settings,
    prediction: pd.DataFrame,
) -> tuple[str, pd.DataFrame]:
    """The report as Markdown, and all comparisons.

    Args:
        runs: runs of the table.
        again: runs of arms at second rates.
        trials: trials of the search for rates.
        chosen: the chosen settings.
        prediction: mass saved by each arm.
    """
    titles = {
        SCENE: "Captions, Scene F1 (primary)",
        ACCURACY: "VQA, accuracy (secondary)",
        SUMMARY: "Both tasks, in standard deviations between seeds of one checkpoint",
    }
    parts = [
        "# Study of distances\n",
        counts(runs, trials, chosen),
        markdown_grid(arms(runs), "Arms: mean ± standard deviation over seeds, × 100"),
    ]
    tables = []
    for key, title in titles.items():
        at_chosen = compared(runs, key).assign(at="")
        at_second = with_second_rates(runs, again, key)
        tables += [at_chosen, at_second]
        parts.append(markdown_grid(shown(at_chosen), title))
        if len(at_second):
            parts.append(markdown_grid(shown(at_second), f"{title}: at second rates"))
        parts.append(conclusion(at_chosen, at_second))
    second = {(run.row, run.task): float(_rate(run) or 0) for run in again}
    parts += [
        markdown_grid(
            learned(runs), "Exponents and mass moved in cross-attention: mean over layers ± over seeds"
        ),
        markdown_grid(
            tuning(trials, chosen, second), "Tuning noise: in which share of resamples each rate wins"
        ),
        predicted(runs, prediction),
    ]
    return "\n".join(parts), pd.concat(tables, ignore_index=True)


# ---- the four comparisons ---------------------------------------------------------------------------------


def compared(runs: Sequence[Run], key: str, questions: Sequence[Question] = QUESTIONS) -> pd.DataFrame:
    """A line for each question: the fields of :func:`attngraph.experiments.tables.compare.compare_pairs`,
    with names of rows; ``question``; ``test_p`` of the planned test, and ``test_p_holm``;
    ``difference_p_holm``, corrected as if all four tests were of no difference; ``answer``. Where H0, the
    first, fails, the others have no answer.

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
    answers = [answer(question, line, margin) for question, line in zip(questions, table.to_dict("records"))]
    if answers[0] != HOLDS:
        answers[1:] = [NO_CONCLUSION] * len(answers[1:])
    table["answer"] = answers
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
        side = "above" if line["difference"] > 0 else "below"
        return f"different, {side} 0" if differs else "neither equivalent nor different"
    if not sure:
        return "no significant difference"
    if line["difference"] < 0:
        return "below 0"
    small = question.name == "H0" and margin is not None and line["difference"] < margin
    return HOLDS + (f", but by less than {100 * margin:g}" if small else "")


def with_second_rates(runs: Sequence[Run], again: Sequence[Run], key: str) -> pd.DataFrame:
    """As :func:`compared`, for each question and each of its arms with a second rate, and for both of them:
    the comparison with the runs at second rates instead. Column ``at`` names the arms and their rates.

    Args:
        runs: runs of the table.
        again: runs of arms at second rates.
        key: key of a column, or :data:`SUMMARY`.
    """
    tables = []
    for question in QUESTIONS:
        for rows in [(question.row,), (question.baseline,), question.rows]:
            new = [run for run in again if run.row in rows and (key == SUMMARY or COLUMNS[run.task] == key)]
            if {run.row for run in new} != set(rows):
                continue
            replaced = rates_of(new).keys()
            kept = [run for run in runs if (run.row, run.task, run.seed) not in replaced]
            table = compared([*kept, *new], key)
            at = ", ".join(
                f"{METHODS[row].title} at {rate:g}" + (f" on {task}" if key == SUMMARY else "")
                for row, task, rate in sorted({(run.row, run.task, _rate(run)) for run in new})
            )
            tables.append(table[table["question"] == question.name].assign(at=at))
    return pd.concat(tables) if tables else pd.DataFrame()


def conclusion(at_chosen: pd.DataFrame, at_second: pd.DataFrame) -> str:
    """Whether H1 to H3 may be read, and which answers depend on the rate."""
    answers = dict(zip(at_chosen["question"], at_chosen["answer"]))
    if answers["H0"] == HOLDS:
        said = ["H0 holds: the adapters make use of distances that know what is relevant."]
    else:
        said = [
            "**H0 fails**: there is no evidence that mass on distractors limits these adapters. There are no "
            "conclusions from H1 to H3."
        ]
    for line in at_second.to_dict("records"):
        question, answer, at = line["question"], line["answer"], line["at"]
        if answer != answers[question]:
            said.append(f"**{question} depends on the rate**: {answers[question]}; with {at} {answer}.")
    return "\n\n".join(said) + "\n"


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """Comparisons as texts."""
    unit = 1 if (table["column"] == SUMMARY).all() else 100
    lines = []
    for line in table.to_dict("records"):
        title = f"{METHODS[line['row']].title} − {METHODS[line['baseline']].title}"
        title += f" ({line['at']})" if line.get("at") else ""
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


def first_look(runs: Sequence[Run], planned: Mapping[Key, float | None]) -> str:
    """H0 and H2 on captions of the first :data:`FIRST` checkpoints, and whether the study stops.

    Args:
        runs: runs of the unfinished table.
        planned: result of :func:`planned_runs`.

    Raises:
        UserError: a run of them is missing.
    """
    questions = [question for question in QUESTIONS if question.name in ("H0", "H2")]
    rows = {row for question in questions for row in question.rows}
    checkpoints = sum(row == FROZEN and task == "caption" for row, task, _ in planned)
    asked = {
        (row, task, seed): rate
        for (row, task, seed), rate in planned.items()
        if task == "caption" and row in rows and seed % checkpoints < FIRST
    }
    seen = [run for run in runs if (run.row, run.task, run.seed) in asked]
    check_complete(seen, asked)
    table = compared(seen, SCENE, questions)
    line = table.iloc[0]
    stops = line["difference"] < 0 and line["high"] < MARGINS[SCENE]
    said = "The study stops." if stops else "The study continues."
    seen_so_far = shown(table).drop(columns="Answer")
    return f"{markdown_grid(seen_so_far, 'First look: Scene F1 on four checkpoints')}\n{said}\n"


# ---- further tables ---------------------------------------------------------------------------------------


def counts(runs: Sequence[Run], trials: pd.DataFrame, chosen: Settings) -> str:
    """Numbers of runs, of runs below the frozen model with the same checkpoint, and of diverged runs."""
    frozen = {
        (run.task, run.checkpoint): run.result["scores"][COLUMNS[run.task]]
        for run in runs
        if run.row == FROZEN
    }
    trained = [run for run in runs if run.row != FROZEN]
    below = [
        run for run in trained if run.result["scores"][COLUMNS[run.task]] < frozen[run.task, run.checkpoint]
    ]
    checkpoints = len({run.checkpoint for run in runs})
    diverged = (trials["score"] == DIVERGED).sum()
    text = (
        f"{len(runs)} runs on {checkpoints} checkpoints; {len(below)} of {len(trained)} below the frozen "
        f"model. {diverged} of {len(trials)} runs of the search for rates diverged.\n"
    )
    for row, task, rate in dict.fromkeys((run.row, run.task, _rate(run)) for run in trained):
        if rate != (best := chosen.methods[row][task].learning_rate):
            text += f"\n**{METHODS[row].title} on {task} diverged at {best:g}**, and is shown at {rate:g}.\n"
    return text


def arms(runs: Sequence[Run]) -> pd.DataFrame:
    """Every arm in every column."""
    scores = scores_of(runs)
    columns = {column.key: column.heading for column in scores.columns}
    order = [name for name in (*(arm.name for arm in ARMS), FROZEN) if name in set(scores.frame["row"])]
    groups = scores.frame.groupby("row")[list(columns)]
    mean, spread = 100 * groups.mean().loc[order], 100 * groups.std().loc[order]
    text = mean.map("{:.2f}".format) + spread.map(lambda x: "" if np.isnan(x) else f" ± {x:.2f}")
    text.insert(0, "Arm", [METHODS[name].title for name in order])
    return text.rename(columns=columns).reset_index(drop=True)


def learned(runs: Sequence[Run]) -> pd.DataFrame:
    """The learned exponents of each arm and task, and the fraction of mass that its weights move."""
    lines = []
    for run in runs:
        if run.row == FROZEN:
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


# ---- the prediction ---------------------------------------------------------------------------------------


def read_prediction(table: Path) -> pd.DataFrame:
    """The prediction in a table's folder.

    Raises:
        UserError: it is missing.
    """
    if not (table / PREDICTION).is_file():
        raise UserError(
            f"{table} has no {PREDICTION}: write it with python -m "
            f"attngraph.experiments.studies.distances_prediction {table}"
        )
    return pd.read_csv(table / PREDICTION)


def gains(runs: Sequence[Run], prediction: pd.DataFrame) -> pd.DataFrame:
    """For each arm with distances and each checkpoint: ``saved``, the reduction of mass on distractors
    compared with the arm without distances and the same exponents, and ``gain``, the difference in Scene F1;
    as fractions.

    Raises:
        UserError: there is no prediction for a checkpoint or an arm.
    """
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
                if not {(checkpoint, arm.name), (checkpoint, nothing)} <= set(saved.index):
                    raise UserError(
                        f"{PREDICTION} lacks {arm.name} or {nothing} on the checkpoint with the digest "
                        f"{checkpoint}: write it again"
                    )
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


def draw(runs: Sequence[Run], prediction: pd.DataFrame, closed_form: Path | None = None) -> Figure:
    """pGNN's weights and its closed form in the layers of models, if a file has them; the contrast of the
    distances that each arm sees; and gains over saved masses."""
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
