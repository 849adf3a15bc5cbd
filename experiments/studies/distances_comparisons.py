"""The comparisons of the study of distances, H0 to H3, at the chosen and at second rates; their answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from attngraph.experiments.methods import METHODS
from attngraph.experiments.studies.distances_rates import rate_of
from attngraph.experiments.tables.compare import compare_pairs, holm, p_text
from attngraph.experiments.tables.frame import Scores, scores_of
from attngraph.experiments.tables.runs import Run
from attngraph.experiments.tasks.catalogue import SCENE

ACCURACY = "vqa.accuracy"
COLUMNS = {"caption": SCENE, "vqa": ACCURACY}  # of each task
MARGINS = {SCENE: 0.01, ACCURACY: 0.005}  # of equivalence; also what H0 must reach
SUMMARY = "summary"
ALPHA = 0.05


@dataclass(frozen=True)
class Question:
    """One of the four comparisons: ``row`` minus ``baseline``; whether their equivalence is tested."""

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
HOLDS, NO_ANSWER = "above 0", "none, since H0 fails"


def comparisons(runs: Sequence[Run], key: str, questions: Sequence[Question] = QUESTIONS) -> pd.DataFrame:
    """A line for each question: the fields of :func:`attngraph.experiments.tables.compare.compare_pairs`, for
    new checkpoints if there are several, with names of rows; ``question``; ``test_p`` of the planned test.

    Args:
        runs: runs of the table.
        key: key of a column, or :data:`SUMMARY`.
        questions: the questions.
    """
    scores, pairs = scores_of(runs), [question.rows for question in questions]
    if key == SUMMARY:
        of_pairs = [replace(scores, weights={SUMMARY: standardised(scores, pair)}) for pair in pairs]
        found = [line for of, pair in zip(of_pairs, pairs) for line in compare_pairs(of, [pair], [key])]
    else:
        found = compare_pairs(scores, pairs, [key], MARGINS[key])
    lines = []
    for question, line in zip(questions, found, strict=True):
        line |= {"question": question.name, "row": question.row, "baseline": question.baseline}
        for name in ("low", "high", "p", "equivalent_p"):
            if line.get(f"new_{name}") is not None:
                line[name] = line[f"new_{name}"]
        line["test_p"] = line["equivalent_p"] if question.equivalent and key != SUMMARY else line["p"]
        unused = ("speaks_for", "p_holm", "equivalent_p_holm")
        lines.append({name: x for name, x in line.items() if name not in unused and "new_" not in name})
    return pd.DataFrame(lines)


def compared(runs: Sequence[Run], key: str) -> pd.DataFrame:
    """:func:`comparisons` of a column, with ``test_p_holm``; ``difference_p_holm``, corrected as if all tests
    were of no difference; ``answer``.
    """
    table = comparisons(runs, key)
    table["test_p_holm"] = holm(table["test_p"].tolist())
    table["difference_p_holm"] = holm(table["p"].tolist())
    table["answer"] = [
        answer(question, line, MARGINS[key]) for question, line in zip(QUESTIONS, table.to_dict("records"))
    ]
    return table


def gated(table: pd.DataFrame, holds: bool) -> pd.DataFrame:
    """The answers; there are none to H1 to H3 unless H0 holds at the chosen rates."""
    if holds or not len(table):
        return table
    return table.assign(answer=table["answer"].where(table["question"] == "H0", NO_ANSWER))


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


def answer(question: Question, line: Mapping[str, Any], margin: float) -> str:
    """The answer at :data:`ALPHA`."""
    sure, differs = line["test_p_holm"] < ALPHA, line["difference_p_holm"] < ALPHA
    side = "above 0" if line["difference"] > 0 else "below 0"
    if question.equivalent:
        if sure:
            return "equivalent" + (", with a difference" if differs else "")
        return f"different, {side}" if differs else "neither equivalent nor different"
    if not sure:
        return "no significant difference"
    small = question.name == "H0" and 0 < line["difference"] < margin
    return side + (f", but by less than {100 * margin:g}" if small else "")


def with_second_rates(runs: Sequence[Run], again: Sequence[Run], key: str) -> pd.DataFrame:
    """As :func:`compared`, for each question and each of its arms with a second rate, and for both of them:
    the comparison with the runs at second rates instead. Column ``at`` names the arms and their rates.

    Args:
        runs: runs of the table.
        again: runs of arms at second rates.
        key: key of a column.
    """
    tables = []
    for question in QUESTIONS:
        for rows in [(question.row,), (question.baseline,), question.rows]:
            new = [run for run in again if run.row in rows and COLUMNS[run.task] == key]
            rates = {run.row: rate_of(run) for run in new}
            if rates.keys() == set(rows):
                at = "; ".join(f"{METHODS[row].title} at {rates[row]:g}" for row in rows)
                kept = [run for run in runs if run.row not in rows or COLUMNS[run.task] != key]
                table = compared([*kept, *new], key)
                tables.append(table[table["question"] == question.name].assign(at=at))
    return pd.concat(tables) if tables else pd.DataFrame()


def conclusion(title: str, at_chosen: pd.DataFrame, at_second: pd.DataFrame) -> str:
    """Whether H1 to H3 may be read, and which answers depend on the rate.

    Args:
        title: of the column.
        at_chosen: comparisons at the chosen rates.
        at_second: comparisons at second rates.
    """
    answers = dict(zip(at_chosen["question"], at_chosen["answer"]))
    if answers["H0"] == HOLDS:
        said = [f"{title}: H0 holds."]
    else:
        said = [f"**{title}: H0 fails** ({answers['H0']}), so there is no answer to H1, H2 and H3."]
    for line in at_second.to_dict("records"):
        question, other, at = line["question"], line["answer"], line["at"]
        if other != answers[question]:
            said.append(
                f"**{question} depends on the rate**: {answers[question]}, and with {at} {other}."
                + (" So do the answers to H1, H2 and H3." if question == "H0" else "")
            )
    return "\n\n".join(said) + "\n"


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """Comparisons as texts."""
    unit = 1 if (table["column"] == SUMMARY).all() else 100
    lines = []
    for line in table.to_dict("records"):
        title = f"{METHODS[line['row']].title} − {METHODS[line['baseline']].title}"
        text = {
            "": line["question"],
            "Comparison": f"{title} ({line['at']})" if "at" in line else title,
            "Difference": f"{unit * line['difference']:+.2f}",
            "95 % interval": f"{unit * line['low']:+.2f} to {unit * line['high']:+.2f}",
            "p of no difference": p_text(line["p"]),
        }
        if "answer" in line:
            text |= {"p of the test": p_text(line["test_p"]), "p (Holm)": p_text(line["test_p_holm"])}
            text["Answer"] = line["answer"]
        text["By checkpoint"] = " ".join(f"{unit * one:+.2f}" for one in line["by_checkpoint"])
        lines.append(text)
    return pd.DataFrame(lines)
