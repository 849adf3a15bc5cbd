"""Plots shipped figures again from the results that are stored next to them, as their commands do::

    python docs/figures/stored.py [FOLDER]

Each figure is written as PNG, SVG and PDF with its caption into the folder (default: the repository), under
its path in the repository. Attention maps, t-SNE and heterophily need a model: run their commands.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib.ticker import NullFormatter

from attngraph.analysis.plots.overlays import draw_mass
from attngraph.analysis.plots.style import COLUMN, new_figure, save, styled
from attngraph.experiments.methods import method_named
from attngraph.experiments.studies import bench, planted_report
from attngraph.experiments.tables.figure import draw_table
from attngraph.experiments.tables.frame import AVERAGE, WAY, Row, table_columns, task_of
from attngraph.experiments.tables.grid import Grid, load_preset, load_table
from attngraph.experiments.tables.table import Table, axis_of, published_in
from attngraph.experiments.tasks import TASKS

ROOT = Path(__file__).resolve().parents[2]


def draw_comparisons(source: Path, stem: Path, grid: Grid) -> None:
    """The figure of a table, from the comparisons that it saved."""
    comparisons = json.loads((source.parent / "significance.json").read_text(encoding="utf-8"))
    keys = {line["column"] for line in comparisons}
    columns = list(table_columns({name: task for name, task in TASKS.items() if name in map(task_of, keys)}))
    if WAY.key in keys:
        columns.insert(columns.index(AVERAGE) + 1 if AVERAGE in columns else len(columns), WAY)
    methods = [method_named(name) for name in grid.counts]
    table = Table(
        title=source.with_suffix(".txt").read_text(encoding="utf-8").partition("\n")[0],
        rows=[Row(method.title, grid.blocks.get(method.name, method.group), {}) for method in methods],
        columns=columns,
        baseline=method_named(grid.baseline).title,
        comparisons=comparisons,
        published=published_in(grid, columns),
        **axis_of(grid),
    )
    drawn = draw_table(table)
    assert drawn is not None
    save(drawn[0], stem, drawn[1])


def draw_planted(source: Path, stem: Path) -> None:
    """All figures of planted graphs, from their runs."""
    runs = pd.read_csv(source.parent / "planted.csv")
    planted_report.draw(planted_report.conditions(runs), stem.parent)


def draw_localisation(source: Path, stem: Path) -> None:
    """The mass of maps inside objects, from its summary."""
    draw_mass(pd.read_csv(source.parent / "summary.csv", dtype={"query": str}), stem, "mini-BLIP.")


def draw_loss(source: Path, stem: Path) -> None:
    """The loss of pre-training, from its log."""
    log = pd.read_csv(source.parent / "training_log.csv")
    with styled():
        figure = new_figure(COLUMN, 2)
        axes = figure.subplots()
        axes.plot(log["step"], log["loss"])
        axes.set(
            xscale="log", yscale="log", xlabel="step", ylabel="training loss", yticks=(0.2, 0.5, 1, 2, 5)
        )
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(NullFormatter())
        axes.grid()
    save(figure, stem, f"{source.parent.name}: training loss of pre-training, mean over 20 steps.")


def draw_bench(source: Path, stem: Path) -> None:
    """A training step without and with adapters, from its measurements."""
    results = json.loads((source.parent / "results.json").read_text(encoding="utf-8"))
    bench.draw(results["benchmarks"][bench.FIGURE], stem)


def figures() -> dict[Path, Callable[[Path, Path], None]]:
    """Path of a figure without suffix, from the repository on -> the function that plots it, which takes the
    stored and the new path."""
    results, checkpoints = Path("experiments/results"), Path("experiments/checkpoints")
    grids = {results / preset / "ablation": load_preset(preset) for preset in ("full", "quick")}
    for folder, names in (
        ("tables", ("main", "gnn", "position", "width", "concat", "p")),
        ("tables-mplug", ("main", "gnn")),
    ):
        grids |= {results / folder / name / name: load_table(name, "scenes") for name in names}
    grids[results / "peft" / "peft"] = load_table("peft", "peft")
    return {
        **{path: partial(draw_comparisons, grid=grid) for path, grid in grids.items()},
        results / "planted" / planted_report.DIRECTION[0]: draw_planted,
        results / "planted" / "cues" / planted_report.CUES: draw_planted,
        results / "attention" / "mass": draw_localisation,
        results / "bench" / "training" / "bench": draw_bench,
        **{checkpoints / model / "loss": draw_loss for model in ("mini-blip", "mini-mplug")},
    }


def main(folder: Path = ROOT) -> None:
    """Plot all of them."""
    for path, draw in figures().items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        draw(ROOT / path, folder / path)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
