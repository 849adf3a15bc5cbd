"""What it costs to put examples of a picture into one batch: noisier gradients, as the docs derive it, and no
score that seeds would not explain."""

import statistics

import pytest
import torch

from attngraph.experiments.methods import Tuned, method_named
from attngraph.experiments.methods.settings import chosen_settings
from attngraph.experiments.models.batch import IGNORED
from attngraph.experiments.models.loading import load_family
from attngraph.experiments.runs.answering import predict
from attngraph.experiments.runs.data import FeatureCache, Place, TaskData, order_of, picture_numbers, pictures
from attngraph.experiments.runs.experiment import Recipe
from attngraph.experiments.runs.train import LossModule, train
from attngraph.experiments.tasks import TASKS

TASK = TASKS["easy_vqa"]  # ten questions about a picture
SEEDS = 3


@pytest.mark.parametrize("rho", [0.0, 0.3, 1.0])
def test_the_variance_of_a_batch_is_that_of_the_docs(rho):
    """(1 + (k - 1) rho)/B times that of an example, and the mean is that of all."""
    pictures, k, b = 1000, 4, 16
    draw = torch.Generator().manual_seed(0)
    picture = torch.arange(pictures).repeat_interleave(k)
    common, own = (torch.randn(count, 64, generator=draw).double() for count in (pictures, pictures * k))
    gradient = rho**0.5 * common[picture] + (1 - rho) ** 0.5 * own
    gradient = (gradient - gradient.mean(0)) / gradient.std(0)
    for together, expected in ((1, 1 / b), (k, (1 + (k - 1) * rho) / b)):
        order = torch.cat([order_of(len(picture), seed, 0, picture, together) for seed in range(4)])
        batches = gradient[order].unflatten(0, (-1, b)).mean(1)
        assert batches.mean().abs() < 1e-10
        assert batches.var(0).mean() == pytest.approx(expected, rel=0.04)


def questions(split: str, count: int) -> list:
    """About the first so many pictures of a split."""
    examples = TASK.examples(None, split)
    chosen = set(pictures(examples)[:count])
    return [example for example in examples if example.image in chosen]


def adapted(seed: int) -> Tuned:
    """p-adapters on the mini-BLIP."""
    torch.manual_seed(seed)
    method = method_named("pgnn")
    return method.apply(load_family(), method.settings(chosen_settings(), TASK.name))


@pytest.mark.slow
def test_gradients_of_questions_about_a_picture_are_hardly_correlated(tmp_path):
    """As the docs say: rho is about 0.01."""
    tuned, examples = adapted(0), questions("train", 60)
    data = TaskData(tuned.family, TASK, examples, FeatureCache(tmp_path))
    module, rows = LossModule(tuned, 0.1).train(), []
    for position in range(len(examples)):
        inputs = tuned.family.training_inputs([data[Place(position, 0.5)]])
        module.zero_grad()
        module(**inputs, tokens=(inputs["labels"] != IGNORED).sum()).backward()
        rows.append(torch.cat([p.grad.flatten() for p in tuned.parameters().values()]))
    gradient, picture = torch.stack(rows), picture_numbers(examples)
    products = (gradient - gradient.mean(0)) @ (gradient - gradient.mean(0)).T
    same = (picture[:, None] == picture).fill_diagonal_(False)
    other = products[picture[:, None] != picture].mean()  # below 0, since the mean is that of all
    rho = (products[same].mean() - other) / (products.diagonal().mean() - other)
    assert rho == pytest.approx(0.009, abs=0.004)


@pytest.mark.slow
def test_scores_differ_no_more_than_those_of_seeds(tmp_path):
    """With batches of two pictures, eight questions about each, against 16 questions at random."""
    train_on, validated = questions("train", 200), questions("test", 60)
    scores: dict[int, list[float]] = {1: [], 8: []}
    for seed in range(SEEDS):
        for together, found in scores.items():
            tuned, cache = adapted(seed), FeatureCache(tmp_path / "states")
            data = TaskData(tuned.family, TASK, train_on, cache)
            recipe = Recipe(learning_rate=3e-3, steps=40, batch_size=16, group_pictures=together)
            train(tuned, data, recipe, seed, tmp_path / f"{together}-{seed}")
            held_out = TaskData(tuned.family, TASK, validated, cache)
            answers = predict(tuned, held_out, TASK.decoding)
            found.append(float(TASK.score(answers, validated).columns[TASK.selects]))
    differences = [grouped - plain for plain, grouped in zip(*scores.values())]
    error = statistics.stdev(differences) / SEEDS**0.5
    assert min(map(min, scores.values())) > 0.7, "they have learned"
    assert abs(statistics.mean(differences)) < 3 * max(error, 0.005), scores
