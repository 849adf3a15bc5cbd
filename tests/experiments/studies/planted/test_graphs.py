"""What is planted is there, and nothing else gives it away."""

import pytest
import torch
from scipy import stats

from experiments.studies.planted import graphs
from experiments.studies.planted.graphs import CLASSES, CLEAN, EDGES, GROUPS, MASSES, SHAPES, TOPIC, draw

CASES = [(ratio, mass) for ratio in SHAPES for mass in MASSES]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def case(request):
    ratio, mass = request.param
    return ratio, mass, draw(40, ratio, mass, 3, "test", torch.float64)


def test_mass(case):
    ratio, mass, planted = case
    assert planted.weight.shape[1:] == SHAPES[ratio]
    torch.testing.assert_close(planted.weight.sum(-1), torch.ones(40, SHAPES[ratio][0]).double())
    away = (planted.weight * ~planted.relevant).sum(-1)
    torch.testing.assert_close(away, torch.full_like(away, mass))


def test_every_value_has_the_same_number_of_edges(case):
    ratio, _, planted = case
    assert ((planted.weight > 0).sum(1) == int(EDGES * ratio)).all()
    assert ((planted.weight > 0).sum(2) == EDGES).all()


def test_neither_weights_nor_degrees_tell_relevant_values(case):
    _, _, planted = case
    edge = planted.weight > 0
    degree = planted.weight.sum(1, keepdim=True).expand_as(planted.weight)
    for numbers in (planted.weight, degree):
        relevant, distractor = numbers[edge & planted.relevant], numbers[edge & ~planted.relevant]
        assert abs(stats.ttest_ind(relevant, distractor).statistic) < 4
    assert (
        stats.ks_2samp(
            planted.weight[edge & planted.relevant], planted.weight[edge & ~planted.relevant]
        ).pvalue
        > 1e-3
    )


@pytest.mark.parametrize("c", [-0.9, 0.0, 0.5, 1.0])
def test_cosines(case, c):
    _, _, planted = case
    query = planted.query(c)
    ones = torch.ones(())
    torch.testing.assert_close(query.norm(dim=-1), ones.expand(query.shape[:2]).double())
    torch.testing.assert_close(planted.value.norm(dim=-1), ones.expand(planted.value.shape[:2]).double())
    torch.testing.assert_close((query * planted.topic).sum(-1), torch.full(query.shape[:2], c).double())
    # the class content is orthogonal to all queries, and so are other groups' topics
    dot = query @ planted.value.transpose(1, 2)
    torch.testing.assert_close(dot, c * TOPIC**0.5 * planted.relevant.double())


def test_the_answer_is_the_class_of_the_relevant_values(case):
    _, _, planted = case
    directions = torch.from_numpy(graphs._frame(3)[2 * GROUPS :])
    content = planted.value @ directions.T  # (g, m, classes)
    share = torch.take_along_dim(content, planted.answer[:, None, :], 2)  # (g, m, n)
    at_relevant = share.transpose(1, 2)[planted.relevant]
    torch.testing.assert_close(at_relevant, torch.full_like(at_relevant, ((1 - TOPIC) * CLEAN) ** 0.5))
    topics = torch.from_numpy(graphs._frame(3)[:GROUPS])
    torch.testing.assert_close(directions @ topics.T, torch.zeros(CLASSES, GROUPS).double())


def test_graphs_follow_from_the_seed_and_splits_share_none():
    ratio, mass = CASES[1]
    first, again = (draw(30, ratio, mass, 0, "train") for _ in range(2))
    assert all(torch.equal(getattr(first, name), getattr(again, name)) for name in vars(first))
    weights = [draw(30, ratio, mass, seed, split).weight for seed in (0, 1) for split in graphs.SPLITS]
    every = torch.cat(weights).flatten(1)
    assert len(every.unique(dim=0)) == len(every) == 180


def test_classes_are_drawn_anew_for_every_graph():
    planted = draw(400, *CASES[1], 0, "train")
    group = (planted.topic @ planted.topic[0, 0]).round() == 1  # queries of one group
    counts = planted.answer[group].bincount(minlength=CLASSES)
    assert counts.min() > 0.5 * counts.sum() / CLASSES
