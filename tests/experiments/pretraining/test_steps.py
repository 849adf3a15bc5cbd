"""A step's batch depends on the seed and the step's number, whichever model it is for."""

import pytest
import torch

from experiments.models.images import normalise
from experiments.pretraining.minis import MINIS
from experiments.pretraining.steps import Steps, batches


@pytest.mark.parametrize("mini", MINIS.values(), ids=MINIS)
def test_a_step_depends_on_seed_and_number_only(mini):
    arrange, options = mini.arrange(mini.tokenizer(), mini.recipe), dict(steps=4, images=3, texts=4)
    data = Steps(arrange, seed=0, **options)
    later = list(batches(data, first=2))
    assert len(later) == 2
    for name, value in data[2].items():
        assert torch.equal(value, later[0][name]), name
    assert not torch.equal(data[0]["pixels"], data[1]["pixels"])
    assert not torch.equal(data[0]["pixels"], Steps(arrange, seed=1, **options)[0]["pixels"])
    assert normalise(data[0]["pixels"]).shape == (3, 3, 64, 64)
