"""The checkpoints of a study: their folder, and what is said of one that is missing."""

from pathlib import Path

import pytest

from attngraph.errors import UserError
from experiments.base.outputs import TRAINING_STATE
from experiments.tables.checkpoints import check_checkpoints
from experiments.tables.grid import Grid, load_preset
from experiments.tables.plan import Plan, Wanted, plan_table

PRESET = load_preset("quick")
DATA = Path("data")


def plan(preset: Grid = PRESET, **request) -> Plan:
    return plan_table(preset, Wanted(**request), DATA)


def test_a_checkpoint_that_is_missing_or_unfinished_is_named_with_the_command(tmp_path):
    several = PRESET.model_copy(update={"checkpoints": 2})
    table = plan(several.model_copy(update={"seeds": {"gcn": 2}}), checkpoints=tmp_path)
    said = f"seed1 is missing, .* attngraph pretrain --seed 1 --out {tmp_path}/seed1"
    with pytest.raises(UserError, match=said):
        check_checkpoints(table.cells)
    (tmp_path / "seed1").mkdir()
    (tmp_path / "seed1" / "model.safetensors").touch()
    (tmp_path / "seed1" / TRAINING_STATE).touch()
    said = f"seed1 is not trained to its end, .*: go on with .* --seed 1 --out {tmp_path}/seed1"
    with pytest.raises(UserError, match=said):
        check_checkpoints(table.cells)
    (tmp_path / "seed1" / TRAINING_STATE).unlink()
    check_checkpoints(table.cells)
    check_checkpoints(plan().cells)
