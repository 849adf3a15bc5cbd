"""The recipe: learning rates and weight decay."""

import pytest
from torch import nn

from experiments.pretraining.recipe import Recipe


def test_learning_rates():
    recipe = Recipe(steps=1000, warmup_steps=300, learning_rate=0.1)
    assert recipe.rate(0) == pytest.approx(0.1 / 300)
    assert recipe.rate(299) == recipe.rate(300) == pytest.approx(0.1)
    assert recipe.rate(650) == pytest.approx(0.1 * (0.01 + 0.99 / 2))
    assert recipe.rate(1000) == pytest.approx(0.001)


def test_weight_decay_leaves_biases_norms_and_embeddings_alone():
    model = nn.ModuleDict(
        {"word_embeddings": nn.Embedding(3, 2), "linear": nn.Linear(2, 2), "norm": nn.LayerNorm(2)}
    )
    decayed, free = Recipe(weight_decay=0.3).parameter_groups(model)
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.3, 0.0)
    assert [id(parameter) for parameter in decayed["params"]] == [id(model["linear"].weight)]
    assert len(free["params"]) == 4


def test_the_description_names_what_differs():
    assert Recipe(images=5).describe() != Recipe().describe() == Recipe(steps=5).describe()
    assert "packed into rows of 128 tokens. The\nloss covers" in Recipe().describe()
    assert "each a row of its own. The\nloss covers" in Recipe(row_length=None).describe()
    assert Recipe(images=5).describe().startswith("5 new images in each step, with up to 8 texts each")
