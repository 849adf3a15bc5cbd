r"""A post-hoc summary of the study: all planned columns together, in one test for each pair of rows.

    python docs/examples/post_hoc.py experiments/results/full --out FOLDER

It was chosen after the scores were known: the four planned columns had shown four small leads of one sign,
none of them significant after correction. Its p-values are therefore not those of a planned test.

**Summary.** The difference of two rows in column k, of the runs with one seed, is divided by its standard
deviation over the seeds of one checkpoint (pooled over checkpoints), and the columns are averaged. With these
weights the four planned columns become one, which :mod:`attngraph.experiments.tables.variance` tests like any
other. The table's Way, whose weights do not depend on the differences, is tested as well.

**Sign flips.** If two rows were equivalent, each paired difference would be as likely as its negative. With
every choice of signs for whole checkpoints (of all seeds and columns at once) the same mean is computed
again; p is the share of choices that give at least the observed mean. Here columns are divided by the root
of their mean square, which no choice of signs changes, so this test is exact; with seven checkpoints its
smallest p is 2 / 128. The same test over single seeds keeps the checkpoints fixed.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from attngraph.experiments.base.files import write_text
from attngraph.experiments.tables.compare import compare_pairs
from attngraph.experiments.tables.frame import WAY, Weights, scores_of
from attngraph.experiments.tables.render import markdown_grid
from attngraph.experiments.tables.runs import Run, saved_runs

PLANNED = ("vqa.accuracy", "ve.accuracy", "caption.cider", "easy_vqa.accuracy")
PAIRS = (
    ("pgnn", "gcn"),
    ("tempering", "gcn"),
    ("placebo", "gcn"),
    ("appnp", "gcn"),
    ("gcnii", "gcn"),
    ("pgnn", "tempering"),
    ("pgnn", "placebo"),
)
SUMMARY = "summary"
HEAD = (
    "Rows", "Summary", "Mean", "95 % interval", "p", "By checkpoint", "Above 0",
    "New checkpoints: 95 % interval", "p", "Sign flips of checkpoints", "Of seeds",
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    """Print both summaries of every pair, and Holm's correction within Q1; with ``--out`` write them too."""
    parser = argparse.ArgumentParser(description="Post-hoc summaries of the study over its planned columns.")
    parser.add_argument("source", type=Path, metavar="FOLDER", help="Folder of the study's runs or archives.")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="Folder for post-hoc.csv and post-hoc.md.")
    args = parser.parse_args(argv)
    with saved_runs(args.source) as runs:
        lines, within = summaries(runs), q1_alone(runs)
    text = _markdown(lines, within)
    print(text)
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        write_text(args.out / "post-hoc.csv", pd.DataFrame(lines).to_csv(index=False))
        write_text(args.out / "post-hoc.md", text)


def summaries(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The summary and Way of every pair, as lines of
    :func:`~attngraph.experiments.tables.compare.compare_pairs` without corrected p-values, and with
    ``flips_checkpoints`` and ``flips_seeds``.
    """
    scores = scores_of(runs)
    frame = scores.frame.set_index("seed")
    checkpoints = {run.seed: run.checkpoint for run in runs}
    keys = [column.key for column in scores.columns]
    lines = []
    for pair in PAIRS:
        first, second = (frame[frame["row"] == name][keys] for name in pair)
        differences = (first - second).dropna().sort_index()
        groups = [checkpoints[seed] for seed in differences.index]
        weights: dict[str, Weights] = {SUMMARY: standardised(differences[list(PLANNED)], groups)}
        invariant: dict[str, Weights] = {SUMMARY: by_mean_square(differences[list(PLANNED)])}
        if WAY.key in scores.weights:
            weights[WAY.key] = invariant[WAY.key] = scores.weights[WAY.key]
        for line in compare_pairs(replace(scores, weights=weights), [pair]):
            chosen = invariant[line["column"]]
            mean = sum(weight * differences[key] for key, weight in chosen.items())
            line = {key: value for key, value in line.items() if not key.endswith("p_holm")}
            line["flips_checkpoints"] = sign_flips(mean.groupby(groups).mean().to_numpy())
            line["flips_seeds"] = sign_flips(mean.to_numpy())
            lines.append(line)
    return lines


def q1_alone(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The four comparisons of Q1, Holm-corrected among themselves."""
    return compare_pairs(scores_of(runs), PAIRS[:1], PLANNED)


def standardised(differences: pd.DataFrame, groups: Sequence[Any]) -> dict[str, float]:
    """The weights with which columns of paired differences have the mean of their standardised values.

    Args:
        differences: a line for each seed.
        groups: the checkpoint of each seed; its own mean is not part of the spread.
    """
    centred = differences - differences.groupby(list(groups)).transform("mean")
    spread = ((centred**2).sum() / (len(differences) - len(set(groups)))) ** 0.5
    return {str(key): float(1 / spread[key] / len(spread)) for key in spread.index}


def by_mean_square(differences: pd.DataFrame) -> dict[str, float]:
    """Weights as of :func:`standardised` that depend on no sign of a line."""
    size = (differences**2).mean() ** 0.5
    return {str(key): float(1 / size[key] / len(size)) for key in size.index}


def sign_flips(values: np.ndarray) -> float:
    """The share of all choices of signs with which a mean is at least as far from 0 as with the given
    ones.
    """
    half = len(values) // 2
    first = np.array(list(itertools.product((1, -1), repeat=half)))
    second = np.array(list(itertools.product((1, -1), repeat=len(values) - half)))
    sums = (first @ values[:half])[:, None] + second @ values[half:]
    return float((np.abs(sums) >= abs(values.sum()) * (1 - 1e-9)).mean())


def _p(value: float) -> str:
    return "< 0.0001" if value < 5e-5 else f"{value:.4f}"


def _markdown(lines: Sequence[dict[str, Any]], q1: Sequence[dict[str, Any]]) -> str:
    cells = [
        [
            f"{line['row']} − {line['baseline']}",
            "Way" if line["column"] == WAY.key else "four columns",
            f"{_scale(line) * line['difference']:+.2f}",
            _interval(line, ""),
            _p(line["p"]),
            " ".join(f"{_scale(line) * one:+.2f}" for one in line["by_checkpoint"]),
            f"{sum(one > 0 for one in line['by_checkpoint'])} of {line['checkpoints']}",
            _interval(line, "new_"),
            _p(line["new_p"]),
            _p(line["flips_checkpoints"]),
            _p(line["flips_seeds"]),
        ]
        for line in lines
    ]
    alone = [[line["column"], f"{line['p']:.4f}", f"{line['p_holm']:.3f}"] for line in q1]
    return (
        "**Post hoc**: chosen after the scores were known, and not corrected for anything.\n\n"
        "*Four columns* (VQA, entailment, CIDEr, easy-VQA): mean of the differences in units of their "
        "standard deviation over the seeds of one checkpoint. *Way* in points. p-values are for these "
        "checkpoints, then for new ones, then by sign flips of checkpoints and of seeds.\n\n"
        + markdown_grid(pd.DataFrame(cells, columns=HEAD))
        + "\n**Q1 with Holm's correction over its own four columns**, not over the twelve planned "
        "tests:\n\n" + markdown_grid(pd.DataFrame(alone, columns=["pGNN − GCN", "p", "p (Holm over four)"]))
    )


def _scale(line: dict[str, Any]) -> float:
    return 100.0 if line["column"] == WAY.key else 1.0


def _interval(line: dict[str, Any], which: str) -> str:
    return " to ".join(f"{_scale(line) * line[which + end]:+.2f}" for end in ("low", "high"))


if __name__ == "__main__":
    main()
