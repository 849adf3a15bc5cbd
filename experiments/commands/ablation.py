"""The GNN ablation table: a preset, of which rows, tasks and seeds may be chosen."""

from __future__ import annotations

from pathlib import Path

from experiments.commands.options import AblationOptions
from experiments.tables.grid import load_preset
from experiments.tables.make import make
from experiments.tables.plan import plan_table


def run(options: AblationOptions) -> int:
    """Run what is missing, then print and save the table."""
    grid = load_preset(options.preset, options.changes)
    name = Path(options.preset).stem
    out = options.out or Path("runs") / f"ablation-{name}"
    plan = plan_table(
        grid,
        out / "data",
        rows=options.rows,
        tasks=options.tasks,
        seeds=options.seeds,
        model=options.model,
        data=options.data,
    )
    title = f"GNN ablation, preset {name}"
    return make(options, grid, plan, title, out, out, dry_run=options.dry_run)
