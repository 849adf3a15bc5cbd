"""Examples as samples: targets by draw, images as the method lets the model see them, fixed subsets."""

from pathlib import Path

import pytest
import torch

from experiments.runs.data import TaskData, subset
from experiments.runs.features import FeatureCache
from experiments.runs.order import batch_positions
from tests.experiments.runs.small import SmallTask, small_examples, small_family


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    folder, family = tmp_path_factory.mktemp("data"), small_family()
    examples = small_examples(folder / "pictures")
    return lambda vision, limit=1: TaskData(
        family, SmallTask(examples), examples, vision, FeatureCache(folder / "cache", limit)
    )


def test_a_draw_picks_the_target(make):
    data = make("trained")
    assert [data[2, draw].answer for draw in (0.0, 0.49, 0.5, 0.99)] == ["yes", "yes", "no", "no"]
    assert data.sample(2).answer is None and data.sample(2).prompt == data[2, 0.1].prompt == "is it green ?"
    assert len(data) == 8 and data[2, 0.0].name == "e2"


def test_images_are_shown_as_the_method_says(make):
    trained, frozen, hidden = make("trained"), make("frozen"), make("zero")
    assert isinstance(trained[2, 0.0].image, Path) and trained.features is None
    states = trained.family.encode_images([trained[2, 0.0].image])[0]
    assert torch.allclose(frozen[2, 0.0].image, states, atol=1e-6)
    assert torch.equal(hidden[2, 0.0].image, torch.zeros(65, 16))
    assert isinstance(make("frozen", 0)[2, 0.0].image, Path), "encoded in place without a cache"


@pytest.mark.parametrize("vision", ["trained", "frozen", "zero"])
def test_samples_are_what_the_family_trains_on(make, vision):
    data = make(vision)
    positions, draws = batch_positions(len(data), 3, 0, 0)
    inputs = data.family.training_inputs([data[place] for place in zip(positions.tolist(), draws.tolist())])
    labels = inputs.pop("labels")
    assert data.family.logits(inputs).shape[:2] == labels.shape == (3, labels.shape[1])


def test_subsets_do_not_depend_on_method_or_seed():
    examples = list(range(100))
    assert subset(examples, 10) == subset(examples, 10) and len(set(subset(examples, 10))) == 10
    assert subset(examples, 10) != examples[:10]
    torch.manual_seed(5)
    assert subset(examples, 10) == subset(examples, 10)
    assert subset(examples, None) is examples and subset(examples, 200) is examples
