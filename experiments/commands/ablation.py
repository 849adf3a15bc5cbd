"""The GNN ablation table.

attngraph ablation                       # preset quick: one seed, under 10 minutes on 2 cores
attngraph ablation --preset full         # 5 seeds for the GNNs; resumable
attngraph ablation --gnn pgnn,gcn --tasks vqa --seeds 3
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import transformers

from adapters.joins import JOINS
from adapters.scheme import SCHEMES
from attngraph.errors import UserError
from experiments.configs.rows import GNNS, ROWS, learning_rate_of, method_of, row_of
from experiments.metrics.captions import bleu4_from_counts
from experiments.models.mini_blip import load_model
from experiments.report.significance import holm, mean_score, paired_bootstrap
from experiments.report.tables import (
    ADAPTERS,
    ATTRIBUTION,
    COLUMNS,
    REFERENCE,
    Table,
    kinds_markdown,
    render_text,
    rows_from_frame,
    save_all,
    seeds_markdown,
    summarise,
)
from experiments.scenes.write import Sizes, write_scenes
from experiments.tasks import TASKS
from experiments.training.cells import Cell, subset, versions, write_json
from experiments.training.device import check_device
from experiments.training.images import ImageStates
from experiments.training.loop import Recipe
from experiments.training.runner import add_run_arguments, jobs_for, run_cells


@dataclass(frozen=True)
class Preset:
    """How much to run.

    Args:
        about: one line for ``--help``.
        seeds: row -> number of seeds, in the order of the table.
        steps: task -> optimiser steps.
        train_examples: task -> training examples used (few-shot subsets keep full fine-tuning from saturating).
        eval_examples: task -> test examples used; None is all.
        sizes: of the drawn data sets.
    """

    about: str
    seeds: dict[str, int]
    steps: dict[str, int]
    train_examples: dict[str, int | None]
    eval_examples: dict[str, int | None]
    sizes: Sizes = Sizes()


STEPS = {"vqa": 250, "ve": 250, "caption": 200, "easy_vqa": 160}
TRAIN_EXAMPLES = {"vqa": None, "ve": None, "caption": None, "easy_vqa": 2000}
ONE_EACH = dict.fromkeys(GNNS, 1)

PRESETS = {
    "quick": Preset(
        "one seed, the four GNNs and the cheap reference rows; under 10 minutes on 2 cores",
        {**ONE_EACH, "frozen": 1, "majority": 1},
        STEPS,
        TRAIN_EXAMPLES,
        {"vqa": None, "ve": None, "caption": None, "easy_vqa": 2000},
    ),
    "full": Preset(
        "5 seeds for the four GNNs, 2 for attribution and fine-tuning rows; under 2 hours on 2 cores",
        {
            **dict.fromkeys(GNNS, 5),
            "rate": 2,
            "p2": 2,
            "residual": 2,
            "fixed_p": 2,
            "frozen": 1,
            "full": 2,
            "text": 2,
            "majority": 1,
        },
        STEPS,
        TRAIN_EXAMPLES,
        dict.fromkeys(TASKS),
    ),
    "smoke": Preset(
        "checks the installation in about a minute; its scores mean nothing",
        {"gcn": 1, "pgnn": 1, "frozen": 1, "majority": 1},
        dict.fromkeys(TASKS, 4),
        dict.fromkeys(TASKS, 64),
        dict.fromkeys(TASKS, 24),
        Sizes(questions=(96, 24, 36), hypotheses=(96, 24, 36), captions=(48, 8, 12)),
    ),
}
DATA_SEED = 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``attngraph ablation``."""
    parser.add_argument(
        "--preset",
        default="quick",
        help="; ".join(f"{k}: {v.about}" for k, v in PRESETS.items()) + " (default: quick)",
    )
    parser.add_argument(
        "--gnn", help="only these adapters, separated by commas (default: those of the preset)"
    )
    parser.add_argument("--tasks", help=f"only these tasks: {','.join(TASKS)} (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="first seed (default: 0)")
    parser.add_argument("--seeds", type=int, help="number of seeds for every row (default: by preset)")
    parser.add_argument(
        "--join", help=f"how adapters join the model: {','.join(JOINS)} (default: chosen on validation)"
    )
    parser.add_argument("--out", type=Path, help="folder of runs and tables (default: runs/ablation-PRESET)")
    add_run_arguments(parser)
    parser.add_argument(
        "--dry-run", action="store_true", help="list the cells and an estimate of time, run nothing"
    )


def run(args: argparse.Namespace) -> int:
    """Run what is missing, then print and save the table."""
    cells, out = plan(args)
    jobs = jobs_for(args.device, args.jobs)
    if args.dry_run:
        dry_run(cells, jobs)
        return 0
    check_device(args.device)
    print(
        f"{len(cells)} cells into {out} (about {_minutes(estimate(cells, jobs))} on 2 cores like the reference machine's; "
        "Ctrl-C is safe, the same command goes on)",
        file=sys.stderr,
    )
    check_table(cells, out)
    prepare(cells, out, args.device, PRESETS[args.preset].sizes, args.download)
    try:
        results = run_cells(cells, out, args.device, jobs)
    except KeyboardInterrupt:
        print(f"\nstopped; finished cells are in {out}, the same command goes on from there", file=sys.stderr)
        return 130
    table = make_table(results, out, args.preset)
    paths = save_all(table, out)
    save_details(results, out)
    print(render_text(table, width=shutil.get_terminal_size((120, 40)).columns))
    print(f"\nsaved: {', '.join(str(path) for path in paths.values())}, {out / 'details.md'}")
    return 0


def plan(args: argparse.Namespace) -> tuple[list[Cell], Path]:
    """The cells that the arguments ask for, and the table's folder; cells of one seed come together.

    Raises:
        UserError: an unknown preset, GNN, task or join, or a number out of range.
    """
    if args.preset not in PRESETS:
        raise UserError(f"unknown preset {args.preset!r}: choose from {', '.join(PRESETS)}")
    preset = PRESETS[args.preset]
    if args.join is not None and args.join not in JOINS:
        raise UserError(f"unknown join {args.join!r}: choose from {', '.join(JOINS)}")
    if args.seeds is not None and args.seeds < 1:
        raise UserError(f"--seeds must be at least 1, got {args.seeds}")
    if args.seed < 0:
        raise UserError(f"--seed must be at least 0, got {args.seed}")
    tasks = _names(args.tasks, TASKS, "task")
    rows = dict(preset.seeds)
    if args.gnn is not None:
        asked = _names(args.gnn, list(dict.fromkeys([*ROWS, *SCHEMES])), "GNN")
        rows = {
            **{name: preset.seeds.get(name, max(preset.seeds.values())) for name in asked},
            **{name: n for name, n in rows.items() if ROWS[name].group == REFERENCE},
        }
    out = args.out or Path("runs") / f"ablation-{args.preset}"
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file: give a folder")
    data = out / "data"
    cells = []
    for k in range(max(rows.values()) if args.seeds is None else args.seeds):
        for key, seeds in rows.items():
            row = row_of(key)
            wanted = seeds if args.seeds is None or not row.trains else args.seeds
            if k >= wanted:
                continue
            for task in tasks:
                recipe = Recipe(learning_rate_of(key, task), preset.steps[task]) if row.trains else None
                cells.append(
                    Cell(
                        key,
                        task,
                        args.seed + k if row.trains else 0,
                        method_of(key, args.join),
                        recipe,
                        data,
                        args.model,
                        train_examples=preset.train_examples[task],
                        eval_examples=preset.eval_examples[task],
                    )
                )
    return cells, out


def _names(given: str | None, known: Sequence[str], what: str) -> list[str]:
    if given is None:
        return list(known)
    names = [name.strip() for name in given.split(",") if name.strip()]
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise UserError(
            f"unknown {what} {', '.join(map(repr, unknown)) or repr(given)}: choose from {', '.join(known)}"
        )
    return list(dict.fromkeys(names))


# Seconds per training step, and per scored example, on one of two cores with both busy: means of the full preset's runs.
STEP_SECONDS = {"frozen": 0.17, "trained": 0.34}  # by what happens to the image encoder
EVAL_SECONDS = {"vqa": 1.7e-3, "ve": 1.9e-3, "caption": 20e-3, "easy_vqa": 1.4e-3}
TEST_EXAMPLES = {
    "vqa": Sizes().questions[2],
    "ve": Sizes().hypotheses[2],
    "caption": Sizes().captions[2],
    "easy_vqa": 9673,
}


def estimate(cells: Sequence[Cell], jobs: int) -> float:
    """Seconds that the cells should take."""
    total = 0.0
    for cell in cells:
        kind = "trained" if cell.row == "full" else "frozen"
        scored = min(cell.eval_examples or math.inf, TEST_EXAMPLES[cell.task])
        total += (
            3
            + EVAL_SECONDS[cell.task] * scored
            + (cell.recipe.steps * STEP_SECONDS[kind] if cell.recipe else 0)
        )
    return total / jobs


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 90 else f"{seconds:.0f} seconds"


def dry_run(cells: Sequence[Cell], jobs: int) -> None:
    """Print the cells and the estimate."""
    for cell in cells:
        rate = (
            f"learning rate {cell.recipe.learning_rate:g}, {cell.recipe.steps} steps"
            if cell.recipe
            else "no training"
        )
        print(f"{row_of(cell.row).title:<28} {cell.task:<9} seed {cell.seed}  {rate}")
    print(
        f"\n{len(cells)} cells, {jobs} at a time: about {_minutes(estimate(cells, jobs))} on a 2-core machine"
    )


def check_table(cells: Sequence[Cell], out: Path) -> None:
    """Raises UserError where the folder holds a table with more than these cells, or something else of its files' names."""
    file = out / "results.json"
    if not file.exists():
        if any(out.glob("ablation.*")):
            raise UserError(f"{out} holds a table without its results.json: give another --out")
        return
    try:
        there = {(r["row"], r["task"], r["seed"]) for r in json.loads(file.read_text())["cells"]}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{file} cannot be read ({type(error).__name__}): give another --out, or delete it"
        ) from None
    more = there - {(cell.row, cell.task, cell.seed) for cell in cells}
    if more:
        raise UserError(
            f"{out} holds a table with {len(more)} runs that this one would leave out, such as "
            f"{' '.join(map(str, sorted(more)[0]))}: give another --out"
        )


def prepare(cells: Sequence[Cell], out: Path, device: str, sizes: Sizes, download: bool = False) -> None:
    """Draw the data and compute the image states that cells share, once, before anything long starts."""
    transformers.utils.logging.disable_progress_bar()
    model, _ = load_model(cells[0].model, allow_download=download)
    model.to(device)
    write_scenes(cells[0].data, DATA_SEED, sizes)
    for cell in {c.task: c for c in cells}.values():
        for split, count in (("train", cell.train_examples), (cell.split, cell.eval_examples)):
            examples = subset(TASKS[cell.task].examples(cell.data, split), count)
            ImageStates(model, examples, "frozen", out / "image-states")


# --- from results to the table -------------------------------------------------------------------------------------


def make_table(results: dict[Cell, dict], out: Path, preset: str) -> Table:
    """The table of finished cells, with significance of every GNN against GCN where both ran."""
    frame = score_frame(results)
    rows = rows_from_frame(frame)
    learned = [row for row in rows if row.name == "pGNN"]
    seeds = {cell.seed for cell in results if cell.row == "fixed_p"}
    if learned and seeds:  # the same seeds as the rows that it is compared with
        of_pgnn = frame[(frame.name == learned[0].name) & frame.seed.isin(seeds)]
        rows.append(
            replace(
                rows_from_frame(of_pgnn)[0],
                name="Learned p",
                group=ATTRIBUTION,
                note="the pGNN row's runs with the seeds of these rows",
            )
        )
    p_adjusted, comparisons = significance(results, out)
    write_json(out / "significance.json", comparisons)
    tasks = list(dict.fromkeys(cell.task for cell in results))
    notes = [
        f"{TASKS[task].title}: {_count(results, task, 'trained_on')} training and {_count(results, task, 'examples')} "
        "test examples"
        for task in tasks
    ]
    notes.append(
        "Time: training and scoring of all tasks for one seed, in one of several parallel workers; peak "
        "memory of that worker"
    )
    return Table(f"GNN ablation, preset {preset}", rows, p_adjusted=p_adjusted, notes=notes)


def _count(results: dict[Cell, dict], task: str, what: str) -> int:
    return max(result[what] for cell, result in results.items() if cell.task == task)


def score_frame(results: dict[Cell, dict]) -> pd.DataFrame:
    """One line per row and seed."""
    lines: dict[tuple, dict] = {}
    for cell, result in results.items():
        row = row_of(cell.row)
        line = lines.setdefault(
            (cell.row, cell.seed),
            {
                "name": row.title,
                "group": row.group,
                "seed": cell.seed,
                "note": row.note or None,
                "seconds": 0.0,
                "parameters": 0,
                "peak_mb": 0.0,
            },
        )
        line.update(result["scores"])
        line["seconds"] += result["train_seconds"] + result["eval_seconds"]
        line["parameters"] = max(line["parameters"], result["parameters"])
        line["peak_mb"] = max(line["peak_mb"], result["peak_mb"])
    return pd.DataFrame(list(lines.values()))


def significance(results: dict[Cell, dict], out: Path) -> tuple[dict[tuple[str, str], float], list[dict]]:
    """Every GNN against GCN in every column: paired bootstrap over seeds and images, Holm-corrected over the table."""
    columns = {
        "vqa": ("vqa",),
        "ve": ("ve",),
        "bleu4": ("caption",),
        "cider": ("caption",),
        "easy_vqa": ("easy_vqa",),
        "avg": ("vqa", "ve", "caption"),
    }
    scores = {
        "bleu4": lambda c: bleu4_from_counts(c[..., :10]),
        "cider": lambda c: mean_score(c[..., 10:]),
        "avg": lambda v, e, c: (
            (mean_score(v) + mean_score(e) + bleu4_from_counts(c[..., :10]) + mean_score(c[..., 10:])) / 4
        ),
    }
    rows = [key for key in dict.fromkeys(cell.row for cell in results) if row_of(key).group == ADAPTERS]
    ran = {(cell.row, cell.task, cell.seed) for cell in results}
    found = []
    for key in rows:
        if key == "gcn":
            continue
        for column, tasks in columns.items():
            shared = [
                seed
                for seed in sorted({cell.seed for cell in results})
                if all((name, task, seed) in ran for name in (key, "gcn") for task in tasks)
            ]
            if not shared:
                continue
            both = [[_statistics(out, name, task, shared) for task in tasks] for name in (key, "gcn")]
            comparison = paired_bootstrap(*both, scores.get(column, mean_score))
            found.append(
                {
                    "row": row_of(key).title,
                    "column": column,
                    "difference": comparison.difference,
                    "low": comparison.low,
                    "high": comparison.high,
                    "p": comparison.p_value,
                    "seeds": comparison.seeds,
                    "images": comparison.examples,
                }
            )
    if found:
        for line, p in zip(found, holm([line["p"] for line in found])):
            line["p_holm"] = float(p)
    return {(line["row"], line["column"]): line["p_holm"] for line in found}, found


def _statistics(out: Path, row: str, task: str, seeds: Sequence[int]) -> np.ndarray:
    """Statistics of each seed and image ``(S, images, K)``; the two caption scores side by side."""
    per_seed = []
    for seed in seeds:
        with np.load(out / "cells" / row / task / f"seed{seed}" / "statistics.npz") as file:
            per_seed.append(np.concatenate([file[name] for name in file.files], axis=-1))
    return np.stack(per_seed)


def save_details(results: dict[Cell, dict], out: Path) -> None:
    """Scores per question type and per seed, learned p, significance: ``details.md`` and ``results.json``."""
    parts = []
    for task in dict.fromkeys(cell.task for cell in results):
        by_row: dict[str, dict[str, list[float]]] = {}
        for cell, result in results.items():
            if cell.task == task:
                for kind, (score, _) in result["kinds"].items():
                    by_row.setdefault(row_of(cell.row).title, {}).setdefault(kind, []).append(score)
        means = {
            row: {kind: tuple(summarise(values)) for kind, values in kinds.items()}
            for row, kinds in by_row.items()
        }
        parts.append(kinds_markdown(means, f"{TASKS[task].title}: score per question type"))
    parts.append("**Every seed**\n\n" + seeds_markdown(score_frame(results)))
    learned = [
        f"- {row_of(c.row).title}, {c.task}, seed {c.seed}: "
        + ", ".join(f"{name} {value:.3f}" for name, value in r["learned"].items())
        for c, r in results.items()
        if r["learned"]
    ]
    if learned:
        parts.append("**Learned scalars**\n\n" + "\n".join(learned) + "\n")
    comparisons = json.loads((out / "significance.json").read_text())
    if comparisons:
        lines = [
            "| GNN | Column | Difference to GCN | 95 % interval | p | p (Holm) |",
            "|:--|:--|--:|:--|--:|--:|",
        ]
        lines += [
            f"| {c['row']} | {COLUMNS[c['column']]} | {100 * c['difference']:+.2f} | "
            f"{100 * c['low']:+.2f} to {100 * c['high']:+.2f} | {c['p']:.3f} | {c['p_holm']:.3f} |"
            for c in comparisons
        ]
        parts.append(
            "**Significance** (paired bootstrap over seeds and images, Holm-corrected over the table)\n\n"
            + "\n".join(lines)
            + "\n"
        )
    (out / "details.md").write_text("\n".join(parts))
    write_json(out / "results.json", {"cells": list(results.values()), **versions()})
