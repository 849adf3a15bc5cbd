"""The GNN ablation table: a preset, of which rows, tasks and seeds may be chosen."""

from __future__ import annotations

from pathlib import Path

from experiments.commands.options import AblationOptions
from experiments.tables.grid import load_preset
from experiments.tables.make import Work, check_named, make, wanted_of
from experiments.tables.plan import plan_table


def run(options: AblationOptions) -> int:
    """Run what is missing, then print and save the table."""
    grid = load_preset(options.preset, options.changes)
    name = Path(options.preset).stem
    out = options.out or Path("runs") / f"ablation-{name}"
    plan = plan_table(grid, wanted_of(options, options.rows, options.seeds), out / "data")
    if not options.dry_run:
        check_named(options, grid)
    return make(options, Work(f"GNN ablation, preset {name}", plan, out, out, grid), options.dry_run)
