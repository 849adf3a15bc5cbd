"""Evaluation of scores of answers (:mod:`attngraph.experiments.studies.detect`): AUROC with intervals,
comparisons, a table and a figure, all computed from the records of the runs.

Axes: S runs (checkpoints × seeds of one task), N answers, B replicates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from attngraph.analysis.bootstrap import poisson
from attngraph.analysis.plots.style import COLOURS, GREY, PAGE, new_figure, save, styled
from attngraph.experiments.studies.detect import ADDED, DETECTORS, KIND, PERMUTED, PROBABILITY
from attngraph.experiments.tables.compare import LEVEL, holm
from attngraph.experiments.tables.variance import variances

REPLICATES = 1000  # of the bootstrap over images
MARGIN = 0.02  # of AUROC: a 90 % interval within it is a tie
ALL, WITHIN = "all answers", "answers of one kind"  # the pairs of right and wrong answers that are compared
#: Question -> the two compared scores: suffixes of a detector's name, or a complete name.
QUESTIONS = {
    "edges": ("real − permuted edges", "{}", "{}" + PERMUTED),
    "probability": ("detector − probability", "{}", PROBABILITY),
    "addition": ("both − probability", "{}" + ADDED, PROBABILITY),
}

Record = Mapping[str, Any]  # of one model, task and seed


def auroc(
    scores: np.ndarray, right: np.ndarray, weights: np.ndarray, kinds: np.ndarray | None = None
) -> np.ndarray:
    r"""Area under the ROC curve of weighted answers.

    .. math:: \frac{\sum_{i, j} w_i w_j (1[s_i > s_j] + \tfrac12 1[s_i = s_j])}{\sum_{i, j} w_i w_j}

    over pairs of a right answer i and a wrong answer j.

    Args:
        scores: higher for answers that are more likely to be right, ``(N,)``.
        right: whether answers are right, bool ``(N,)``.
        weights: weights of the answers in each replicate, ``(B, N)``.
        kinds: kinds of the questions, ``(N,)``: only pairs of the same kind are used. None for all pairs.

    Returns:
        ``(B,)``; NaN if there is no pair.
    """
    kinds = np.zeros(len(scores)) if kinds is None else kinds
    concordant, pairs = np.zeros(len(weights)), np.zeros(len(weights))
    for kind in np.unique(kinds):
        own = np.flatnonzero(kinds == kind)
        own = own[np.argsort(scores[own], kind="stable")]
        starts = np.flatnonzero(np.diff(scores[own], prepend=-np.inf))  # of equal scores
        positive, negative = (
            np.add.reduceat(weights[:, own] * chosen[own], starts, axis=1) for chosen in (right, ~right)
        )
        below = np.cumsum(negative, axis=1) - negative / 2
        concordant += (positive * below).sum(1)
        pairs += positive.sum(1) * negative.sum(1)
    return np.divide(concordant, pairs, out=np.full_like(pairs, np.nan), where=pairs > 0)


class Areas:
    """AUROC of every detector in the runs of one task, and of resampled images.

    The Poisson bootstrap samples a weight for each image, the same in all runs and for all questions about
    the image.

    Args:
        records: records of the task, on the same examples.
        pairs: :data:`ALL` or :data:`WITHIN`.
    """

    def __init__(self, records: Sequence[Record], pairs: str = ALL):
        self.records = records
        self.checkpoints = [record["weights"] for record in records]
        test = records[0]["test"]
        images, place = np.unique(test["image"], return_inverse=True)
        self.images = len(images)
        drawn = np.stack([poisson(0, k, REPLICATES) for k in range(self.images)], axis=1)
        weights = np.concatenate([np.ones((1, self.images)), drawn])[:, place]  # (1 + B, N)
        kinds = np.array(test["kind"]) if pairs == WITHIN else None
        self._areas = {
            name: np.stack(
                [
                    auroc(
                        np.array(one["test"]["scores"][name]),
                        np.array(one["test"]["right"]) == 1,
                        weights,
                        kinds,
                    )
                    for one in records
                ]
            )
            for name in test["scores"]
        }

    def of(self, name: str) -> np.ndarray:
        """AUROC of a detector in each run, ``(S,)``."""
        return self._areas[name][:, 0]

    def by_checkpoint(self, name: str) -> dict[str, tuple[float, float, float]]:
        """Digest of the weights -> AUROC, mean over seeds, and its interval over images (percentiles)."""
        found = {}
        for checkpoint in dict.fromkeys(self.checkpoints):
            own = [one == checkpoint for one in self.checkpoints]
            means = self._areas[name][own].mean(0)
            low, high = np.nanquantile(means[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
            found[checkpoint] = (float(means[0]), float(low), float(high))
        return found

    def mean(self, name: str, other: str | None = None) -> dict[str, Any]:
        """The mean AUROC of a detector over runs, or its mean lead over another.

        Returns:
            ``estimate``, ``low``, ``high``, ``p`` (of no difference, two-sided) and ``tie`` (whether the 90 %
            interval is within :data:`MARGIN`): for new checkpoints, or with one checkpoint for this one.
        """
        areas = self._areas[name] if other is None else self._areas[name] - self._areas[other]
        whole = areas[:, np.isfinite(areas).all(0)]
        covariance = np.atleast_2d(np.cov(whole[:, 1:]))
        these, new = variances(areas[:, 0], covariance, self.checkpoints, self.images)
        variance, estimate = new or these, float(areas[:, 0].mean())
        reach, narrow = variance.reach(LEVEL), variance.reach(2 * LEVEL - 1)
        return {
            "estimate": estimate,
            "low": estimate - reach,
            "high": estimate + reach,
            "p": float(variance.p_values(estimate)),
            "tie": abs(estimate) + narrow < MARGIN,
        }


def summarise(records: Sequence[Record]) -> dict[str, Any]:
    """All numbers of the report.

    Args:
        records: records of all runs, each with ``model``, ``weights``, ``task``, ``seed`` and the result of
            :func:`attngraph.experiments.studies.detect.detect`.

    Returns:
        ``areas``: for each task, kind of pairs and detector the mean with its interval, and
        ``by_checkpoint``; ``comparisons``: for each question, task and detector the mean difference with its
        interval, ``p_holm`` and ``outcome``, and the difference ``within`` kinds.
    """
    tasks = list(dict.fromkeys(record["task"] for record in records))
    areas = {
        (task, pairs): Areas([one for one in records if one["task"] == task], pairs)
        for task in tasks
        for pairs in (ALL, WITHIN)
    }
    lines = [
        {"task": task, "pairs": pairs, "detector": name, **part.mean(name)}
        | {"by_checkpoint": part.by_checkpoint(name)}
        for (task, pairs), part in areas.items()
        for name in part.records[0]["test"]["scores"]
    ]
    for line in lines:
        del line["p"], line["tie"]
    comparisons = []
    for question, (_, first, second) in QUESTIONS.items():
        family = []
        for task in tasks:
            for detector in DETECTORS:
                names = first.format(detector), second.format(detector)
                within = areas[task, WITHIN].mean(*names)
                family.append(
                    {
                        "question": question,
                        "task": task,
                        "detector": detector,
                        **areas[task, ALL].mean(*names),
                    }
                    | {"within": [within[name] for name in ("estimate", "low", "high")]}
                )
        for line, p in zip(family, holm([line["p"] for line in family]), strict=True):
            line["p_holm"] = float(p)
            line["outcome"] = outcome(line)
        comparisons += family
    return {"areas": lines, "comparisons": comparisons}


def outcome(comparison: Mapping[str, Any]) -> str:
    """``higher`` or ``lower`` if the corrected p-value is below 0.05, else ``tie`` or ``undecided``."""
    if comparison["p_holm"] < 1 - LEVEL:
        return "higher" if comparison["estimate"] > 0 else "lower"
    return "tie" if comparison["tie"] else "undecided"


# ---- in words ----------------------------------------------------------------------------------------------


def markdown(records: Sequence[Record], summary: Mapping[str, Any], about: str) -> str:
    """The report: tables of AUROC and of comparisons; ``about`` describes the runs."""
    checkpoints = {record["weights"]: record["model"] for record in records}
    over = f"over {len(checkpoints)} checkpoints" if len(checkpoints) > 1 else "of one checkpoint"
    parts = ["# Right and wrong answers from attention graphs", about]
    for task in dict.fromkeys(record["task"] for record in records):
        lines = {(line["pairs"], line["detector"]): line for line in summary["areas"] if line["task"] == task}
        right = [100 * record["accuracy"] for record in records if record["task"] == task]
        parts.append(
            f"## {task}: AUROC\n\nMean {over}, with 95 % interval. {min(right):.1f} to {max(right):.1f} % of "
            "the test answers are right."
        )
        rows = [
            ["detector", *(f"{kind}, {pairs}" for pairs in (ALL, WITHIN) for kind in ("real", "permuted"))]
        ]
        for detector in (PROBABILITY, KIND, *DETECTORS, *(name + ADDED for name in DETECTORS)):
            names = [detector, detector + PERMUTED]
            shown = [lines.get((pairs, name)) for pairs in (ALL, WITHIN) for name in names]
            rows.append([detector, *("" if line is None else _interval(line, ".3f") for line in shown)])
        parts.append(_table(rows))
        parts.append("By checkpoint, all answers, 95 % interval over images:")
        shown = [PROBABILITY, *(name + ending for name in DETECTORS for ending in ("", PERMUTED))]
        rows = [["checkpoint", *shown]]
        for weights, model in checkpoints.items():
            found = [lines[ALL, name]["by_checkpoint"].get(weights) for name in shown]
            if None not in found:
                rows.append(
                    [
                        model,
                        *(f"{one[0]:.3f} [{one[1]:.3f}, {one[2]:.3f}]" for one in found if one is not None),
                    ]
                )
        parts.append(_table(rows))
    for question, (title, _, _) in QUESTIONS.items():
        parts.append(f"## {title}\n\nDifference of AUROC {over}, with 95 % interval; p Holm-corrected.")
        rows = [["task", "detector", ALL, "p", "outcome", WITHIN]]
        for line in summary["comparisons"]:
            if line["question"] == question:
                within = dict(zip(("estimate", "low", "high"), line["within"]))
                rows.append(
                    [
                        line["task"],
                        line["detector"],
                        _interval(line),
                        f"{line['p_holm']:.2g}",
                        line["outcome"],
                    ]
                    + [_interval(within)]
                )
        parts.append(_table(rows))
    return "\n\n".join(parts) + "\n"


def _interval(line: Mapping[str, Any], form: str = "+.3f") -> str:
    return f"{line['estimate']:{form}} [{line['low']:{form}}, {line['high']:{form}}]"


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body])


# ---- as a figure -------------------------------------------------------------------------------------------

_REAL, _NULL = COLOURS[:2]
_CAPTION = (
    "AUROC of each detector of wrong answers, with real attention graphs and with permuted edges: the mean "
    "over checkpoints and seeds with its 95 % interval, and a small point for each checkpoint. Dotted: "
    "chance."
)


def draw(summary: Mapping[str, Any], stem: Path) -> None:
    """AUROC of each detector on real and permuted graphs, a panel for each task."""
    tasks = list(dict.fromkeys(line["task"] for line in summary["areas"]))
    names = (PROBABILITY, KIND, *DETECTORS)
    with styled():
        figure = new_figure(PAGE, 2.5)
        panels = figure.subplots(1, len(tasks), sharey=True, squeeze=False)[0]
        for panel, task in zip(panels, tasks):
            lines = {
                line["detector"]: line
                for line in summary["areas"]
                if line["task"] == task and line["pairs"] == ALL
            }
            for ending, colour, marker, shift, label in (
                ("", _REAL, "o", -0.15, "real graph"),
                (PERMUTED, _NULL, "s", 0.15, "permuted edges"),
            ):
                for place, name in enumerate(names):
                    line = lines.get(name + ending)
                    if line is None:
                        continue
                    y = place + (shift if name in DETECTORS else 0)
                    each = [one[0] for one in line["by_checkpoint"].values()]
                    panel.plot(each, [y] * len(each), ".", color=colour, alpha=0.35, markersize=3)
                    ends = [[line["estimate"] - line["low"]], [line["high"] - line["estimate"]]]
                    panel.errorbar(
                        line["estimate"], y, xerr=ends, fmt=marker, color=colour, capsize=2,
                        label=label if name == DETECTORS[0] else None,
                    )  # fmt: skip
            panel.axvline(0.5, color=GREY, linewidth=0.8, linestyle=":")
            panel.set(title=task, xlabel="AUROC, right versus wrong answers", yticks=range(len(names)))
            panel.set_yticklabels(names)
        panels[0].invert_yaxis()
        panels[-1].legend(loc="best")
    save(figure, stem, _CAPTION)
