"""What cannot be divided among processes says so; what is not divided is left alone.

That divided runs give what others give is tested in ``test_together.py``.
"""

from dataclasses import replace

import pytest
import torch
from accelerate import PartialState

from attngraph.errors import UserError
from experiments.training import sharding
from experiments.training.recipe import Recipe
from tests.experiments.training.small import RECIPE, small_run, train_small

SHARED = replace(RECIPE, shard=True)


def test_one_process_is_refused(tmp_path):
    with pytest.raises(UserError, match="this is one: use torchrun"):
        train_small(tmp_path, "full", SHARED)


@pytest.mark.parametrize("method", ["pgnn", "lora", "prefix"])
def test_methods_that_train_little_are_refused(method, tmp_path, monkeypatch):
    monkeypatch.setattr(PartialState(), "num_processes", 2)
    tuned, _ = small_run(tmp_path, method)
    with pytest.raises(UserError, match="shard is for methods that train the model's own weights"):
        sharding.check_shards(tuned, SHARED)


@pytest.mark.parametrize(
    "name, more", [("compile", {"compile": True}), ("float16", {"precision": "float16"})]
)
def test_what_was_never_tried_is_refused(name, more, tmp_path, monkeypatch):
    monkeypatch.setattr(PartialState(), "num_processes", 2)
    tuned, _ = small_run(tmp_path, "full")
    with pytest.raises(UserError, match=f"shard goes with no {name}"):
        sharding.check_shards(tuned, replace(SHARED, **more))
    sharding.check_shards(tuned, SHARED)


def test_what_is_not_divided_stays_as_it_is():
    module = torch.nn.Linear(2, 2)
    with sharding.together(module):
        assert sharding.put_together(module) == []
    value = torch.ones(2)
    assert sharding.whole_tensor(value) is value and sharding.divided_like(value, module.bias) is value


def test_old_descriptions_stay():
    assert "shard" not in Recipe(1e-3, 10).description() and SHARED.description()["shard"]
