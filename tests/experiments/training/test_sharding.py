"""What cannot be divided among processes says so; what is not divided is left alone.

That divided runs give what others give is tested in ``test_together.py``.
"""

import json
from dataclasses import replace

import pytest
import torch
from accelerate import PartialState

from attngraph.errors import UserError
from experiments.cli import main
from experiments.methods import method_named
from experiments.training import sharding
from experiments.training.cells import run_cell
from experiments.training.execution import Execution
from experiments.training.prepare import prepare
from experiments.training.recipe import Recipe
from tests.experiments.training.small import RECIPE, small_cell

SHARED = replace(RECIPE, shard=True)


def test_one_process_is_refused_before_anything_is_made(tmp_path, capsys):
    words = ("--set", "method=full", "--set", "recipe.shard=true", "--out", str(tmp_path / "out"))
    assert main(["train", "scenes-pgnn", *words]) == 2
    assert "shard divides a run among processes, and this is one: use torchrun" in capsys.readouterr().err
    assert not (tmp_path / "out" / "cells").exists() and not (tmp_path / "out" / "data").exists()


def test_a_finished_run_is_shown_on_one_process(tmp_path, monkeypatch):
    cell = small_cell(tmp_path, monkeypatch, RECIPE)
    run_cell(cell, Execution(tmp_path))
    file = cell.folder(tmp_path) / "config.json"
    config = json.loads(file.read_text())
    config["settings"]["recipe"]["shard"] = True  # as if several processes had made it
    file.write_text(json.dumps(config))
    prepare([replace(cell, recipe=SHARED)], Execution(tmp_path), None)


@pytest.mark.parametrize("method", ["pgnn", "lora", "prefix"])
def test_methods_that_train_little_are_refused(method, monkeypatch):
    monkeypatch.setattr(PartialState(), "num_processes", 2)
    sharding.check_shards(method_named(method), RECIPE)
    with pytest.raises(UserError, match="shard is for methods that train the model's own weights"):
        sharding.check_shards(method_named(method), SHARED)


@pytest.mark.parametrize(
    "name, more", [("compile", {"compile": True}), ("float16", {"precision": "float16"})]
)
def test_what_was_never_tried_is_refused(name, more, monkeypatch):
    monkeypatch.setattr(PartialState(), "num_processes", 2)
    with pytest.raises(UserError, match=f"shard goes with no {name}"):
        sharding.check_shards(method_named("full"), replace(SHARED, **more))
    sharding.check_shards(method_named("full"), SHARED)


def test_what_is_not_divided_stays_as_it_is():
    module = torch.nn.Linear(2, 2)
    with sharding.together(module):
        assert sharding.put_together(module) == []
    value = torch.ones(2)
    assert sharding.whole_tensor(value) is value and sharding.divided_like(value, module.bias) is value


def test_old_descriptions_stay():
    assert "shard" not in Recipe(1e-3, 10).description() and SHARED.description()["shard"]
