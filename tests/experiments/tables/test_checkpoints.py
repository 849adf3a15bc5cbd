"""The checkpoints of a study: their folder, and what is said of one that is missing."""

from pathlib import Path

import pytest

from attngraph.errors import UserError
from experiments.tables.checkpoints import CHECKPOINTS, check_checkpoints, check_only, checkpoints_folder
from experiments.tables.grid import Grid, load_preset
from experiments.tables.plan import Plan, Wanted, plan_table

PRESET = load_preset("quick")
DATA = Path("data")


def plan(preset: Grid = PRESET, **request) -> Plan:
    return plan_table(preset, Wanted(**request), DATA)


def test_the_folder_of_checkpoints(tmp_path):
    several = PRESET.model_copy(update={"checkpoints": 2})
    assert checkpoints_folder(None, PRESET, "mine") == checkpoints_folder(None, several, None) == CHECKPOINTS
    assert checkpoints_folder(tmp_path, several, None) == tmp_path
    for given, preset, model, said in (
        (tmp_path / "none", several, None, "is no folder: give the one that holds seed1"),
        (tmp_path, PRESET, None, "changes nothing, since the preset has one checkpoint: leave it out"),
        (tmp_path, several, "mine", "changes nothing, since --model is for all seeds: leave it out"),
    ):
        with pytest.raises(UserError, match=said):
            checkpoints_folder(given, preset, model)


def test_a_checkpoint_that_is_missing_is_named_with_the_command(tmp_path):
    several = PRESET.model_copy(update={"checkpoints": 2})
    table = plan(several.model_copy(update={"seeds": {"gcn": 2}}), checkpoints=tmp_path)
    said = f"seed1 is missing, .* attngraph pretrain --seed 1 --out {tmp_path}/seed1"
    with pytest.raises(UserError, match=said):
        check_checkpoints(table.cells)
    (tmp_path / "seed1").mkdir()
    (tmp_path / "seed1" / "model.safetensors").touch()
    check_checkpoints(table.cells)
    check_checkpoints(plan().cells)


def test_only_one_checkpoint():
    several = PRESET.model_copy(update={"checkpoints": 2})
    for only in (None, 0, 1):
        check_only(only, several, None)
    check_only(None, PRESET, "mine")
    for only, preset, model, said in (
        (2, several, None, "must be from 0 to 1, got 2"),
        (-1, several, None, "must be from 0 to 1, got -1"),
        (0, PRESET, None, "0 changes nothing, since the preset has one checkpoint: leave it out"),
        (0, several, "mine", "0 changes nothing, since --model is for all seeds: leave it out"),
    ):
        with pytest.raises(UserError, match=f"--only-checkpoint {said}"):
            check_only(only, preset, model)
