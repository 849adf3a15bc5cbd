"""The GNN ablation table: a preset, of which rows, tasks and seeds may be chosen."""

from __future__ import annotations

from pathlib import Path

from attngraph.experiments.commands.options import AblationOptions
from attngraph.experiments.tables.grid import load_preset
from attngraph.experiments.tables.make import make


def run(options: AblationOptions) -> int:
    """Run what is missing, then print and save the table."""
    grid = load_preset(options.preset, options.changes).with_settings(options.settings)
    name = Path(options.preset).stem
    out = options.out or Path("runs") / f"ablation-{name}"
    return make(options, options.seeds, grid, f"GNN ablation, preset {name}", out, out)
