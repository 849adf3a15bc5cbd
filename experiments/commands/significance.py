"""Recompute every comparison and p value of a table from its raw results; simulate how often they are wrong.

    attngraph significance runs/ablation-full                           # a table's folder
    attngraph significance runs/ablation-full --rows pgnn --baseline gcn,p2 --columns vqa.accuracy,ve.accuracy
    attngraph significance runs/ablation-full --pack --out archives     # a compressed archive for each seed
    attngraph significance archives                                     # the same p values from the archives
    attngraph significance archives --restore --out runs/again          # cells from which ablation goes on
    attngraph significance --simulate                                   # minutes; errors, coverage, power

:mod:`experiments.report.variance` has the formulas.
"""

from __future__ import annotations

import argparse
import platform
from pathlib import Path

import numpy as np
import pandas as pd

from attngraph.errors import UserError
from experiments.arguments import Between, path, seed, word
from experiments.files import whole, write_text
from experiments.outputs import Outputs, check_folder
from experiments.progress import note
from experiments.report.archive import PATTERN, pack, restore
from experiments.report.comparison import BASELINE
from experiments.report.details import SIGNIFICANCE_HEAD, significance_cells, significance_markdown
from experiments.report.markdown import markdown_table
from experiments.report.recomputed import recompute, saved_runs
from experiments.report.simulation import SCORED, simulate
from experiments.report.text import aligned
from experiments.report.wording import scope
from experiments.training.lock import sole_use

TABLE, TEXT = NAMES = ("significance.csv", "significance.md")
SIMULATED = ("simulation.csv", "simulation.md")
RUNS = 8_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``attngraph significance``."""
    add = parser.add_argument
    add(
        "source",
        nargs="?",
        type=path,
        metavar="FOLDER",
        help=f"Read this folder: one with a table's cells, or one with archives of them ({PATTERN}).",
    )
    add(
        "--baseline",
        type=word,
        metavar="NAMES",
        help=f"Compare with these rows, separated by commas. Default: {BASELINE}.",
    )
    add(
        "--rows",
        type=word,
        metavar="NAMES",
        help="Compare these rows, separated by commas; Holm's correction is over them. Default: the GNN "
        "adapters and pGNN's controls.",
    )
    add(
        "--columns",
        type=word,
        metavar="NAMES",
        help="Compare in these columns, separated by commas, such as vqa.accuracy. Default: all.",
    )
    add(
        "--out",
        type=path,
        metavar="FOLDER",
        help="Write tables, archives or cells into this folder. Default: tables are printed only.",
    )
    add("--pack", action="store_true", help="Write an archive of FOLDER's finished cells for each seed.")
    add("--restore", action="store_true", help="Put the cells of FOLDER's archives into a table's folder.")
    add("--simulate", action="store_true", help="Run made-up studies instead: how often p values are wrong.")
    add(
        "--runs",
        type=Between(1, 10**7),
        metavar="N",
        help=f"Run each made-up study so often. Default: {RUNS}.",
    )
    add("--seed", type=seed, metavar="N", help="Set the seed of the simulation. Default: 0.")


def run(args: argparse.Namespace) -> int:
    """Do what the options ask for."""
    _check(args)
    if args.simulate:
        return _simulate(args)
    if not args.source.is_dir():
        raise UserError(f"{args.source} is no folder: give one with a table's cells or with archives of them")
    if args.pack:
        return _pack(args)
    if args.restore:
        return _restore(args)
    baseline = args.baseline or BASELINE
    about = {"baseline": baseline, "rows": args.rows, "columns": args.columns}
    settings = {"folder": str(args.source), **about}
    outputs = None if args.out is None else Outputs(args.out, "significance", settings, NAMES)
    if outputs is not None:
        outputs.check()
    with saved_runs(args.source) as runs:
        lines, headings, about = recompute(runs, _names(baseline), _names(args.rows), _names(args.columns))
    cells = [significance_cells(line, headings) for line in lines]
    said = f"{scope(lines)} {about}".strip()
    print(f"{said}\n\n{aligned([SIGNIFICANCE_HEAD, *cells])}")
    if outputs is not None:
        with outputs.alone(), outputs.writing() as part:
            _write_csv(pd.DataFrame(lines), part / TABLE)
            write_text(part / TEXT, significance_markdown(lines, headings, about))
        note(f"saved: {args.out / TABLE}, {args.out / TEXT}")
    return 0


def _check(args: argparse.Namespace) -> None:
    """Raise UserError for options that contradict one another."""
    modes = [name for name in ("--simulate", "--pack", "--restore") if getattr(args, name[2:])]
    if len(modes) > 1:
        raise UserError(f"{modes[0]} and {modes[1]} are two different things: give one of them")
    if args.simulate and args.source is not None:
        raise UserError(f"--simulate reads no folder: leave {args.source} out")
    if not args.simulate and args.source is None:
        raise UserError("no FOLDER is given: give one with a table's cells or archives, or --simulate")
    for name in ("--runs", "--seed"):
        if getattr(args, name[2:]) is not None and not args.simulate:
            raise UserError(f"{name} belongs to --simulate: give both, or leave it out")
    for name in ("--baseline", "--rows", "--columns"):
        if getattr(args, name[2:]) is not None and modes:
            raise UserError(f"{name} says what is compared, and {modes[0]} compares nothing: leave it out")
    if (args.pack or args.restore) and args.out is None:
        raise UserError(f"{modes[0]} needs --out FOLDER: give a folder to write into")


def _pack(args: argparse.Namespace) -> int:
    check_folder(args.out, "ablation")
    paths = pack(args.source, args.out)
    size = sum(file.stat().st_size for file in paths) / 1e6
    print(f"{len(paths)} archives, {size:.1f} MB: {', '.join(map(str, paths))}")
    return 0


def _restore(args: argparse.Namespace) -> int:
    check_folder(args.out, "ablation")
    archives = sorted(args.source.glob(PATTERN))
    if not archives:
        raise UserError(f"{args.source} holds no archives ({PATTERN}): give a folder that --pack wrote")
    with sole_use(args.out):
        count = restore(archives, args.out)
    print(f"{count} cells of {len(archives)} archives are new in {args.out}")
    return 0


def _simulate(args: argparse.Namespace) -> int:
    settings = {"seed": args.seed or 0, "runs": args.runs or RUNS}
    outputs = None if args.out is None else Outputs(args.out, "significance", settings, SIMULATED)
    if outputs is not None:
        outputs.check()
    frame = simulate(settings["runs"], settings["seed"])
    text = _simulation_markdown(frame, **settings)
    print(text)
    if outputs is not None:
        with outputs.alone(), outputs.writing() as part:
            _write_csv(frame, part / SIMULATED[0])
            write_text(part / SIMULATED[1], text)
        note(f"saved: {args.out}/{', '.join(SIMULATED)}")
    return 0


def _simulation_markdown(frame: pd.DataFrame, runs: int, seed: int) -> str:
    """The studies without and with a difference, and how they were made."""
    made = (
        f"`attngraph significance --simulate --seed {seed} --runs {runs}` on {platform.system()} "
        f"{platform.machine()}, NumPy {np.__version__}; {runs} runs of normal studies, "
        f"{max(runs // SCORED, 1)} of scored ones. *these*: new seeds and images with these "
        "checkpoints; *new*: new checkpoints too; *plain*: Satterthwaite's t without a lower "
        "bound and without checkpoints.\n"
    )
    null, power = frame[frame["gain"] == 0], frame[frame["gain"] > 0]
    parts = [made]
    for part, title in ((null, "No difference: share of p values below"), (power, "Power")):
        columns = [name for name in part.columns if part[name].notna().any()]
        lines = [["" if pd.isna(value) else _short(value) for value in line] for line in part[columns].values]
        parts.append(markdown_table(columns, lines, title))
    return "\n".join(parts)


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _names(given: str | None) -> list[str] | None:
    return (
        None
        if given is None
        else list(dict.fromkeys(name.strip() for name in given.split(",") if name.strip()))
    )


def _write_csv(frame: pd.DataFrame, file: Path) -> None:
    with whole(file) as part:
        frame.to_csv(part, index=False)
