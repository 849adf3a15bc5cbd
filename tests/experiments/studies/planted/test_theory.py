"""Closed forms against measurements on drawn graphs."""

import pytest
import torch

from adapters import GCN, PGNN, Tempering
from analysis.contrast import contrast, square_distances
from experiments.studies.planted import graphs, theory
from experiments.studies.planted.graphs import GROUPS, MASSES, SHAPES, TOPIC, draw

CONTRASTS = (-0.9, -0.3, 0.0, 0.6)


@pytest.mark.parametrize("ratio", SHAPES)
@pytest.mark.parametrize("c", CONTRASTS)
def test_distances(ratio, c):
    planted = draw(20, ratio, 0.5, 0, "test", torch.float64)
    graph = planted.graph(c)
    measured = square_distances(graph)[:, 0]
    degree = planted.weight.sum(1, keepdim=True)
    relevant = 1 + 1 / degree - 2 * c * (TOPIC / degree) ** 0.5
    expected = torch.where(planted.relevant, relevant, 1 + 1 / degree)
    edge = planted.weight > 0
    torch.testing.assert_close(measured[edge], expected[edge])
    for side, mean_field in zip((planted.relevant, ~planted.relevant), theory.square_distances(c, ratio)):
        weight = planted.weight * side
        assert float((weight * measured).sum() / weight.sum()) == pytest.approx(mean_field, rel=0.05)
    found = float(contrast(graph, planted.region()).contrast.mean())
    assert found == pytest.approx(theory.measured_contrast(c, ratio), abs=0.02)


@pytest.mark.parametrize("ratio", SHAPES)
def test_with_mean_degrees_the_ratio_does_not_matter(ratio):
    planted = draw(20, ratio, 0.5, 0, "test", torch.float64)
    found = float(contrast(planted.graph(0.6), planted.region(), degree="mean").contrast.mean())
    assert found == pytest.approx(theory.measured_contrast(0.6, 1), abs=0.02)


def share_on_distractors(scheme, planted, c) -> float:
    weight = scheme.reweight(planted.graph(c))[:, 0]
    weight = weight / weight.sum(-1, keepdim=True)
    return float((weight * ~planted.relevant).sum(-1).mean())


@pytest.mark.parametrize("mass", MASSES)
@pytest.mark.parametrize("c", CONTRASTS)
@pytest.mark.parametrize("p", [1.0, 1.6, 3.0])
def test_mass_on_distractors(mass, c, p):
    planted = draw(60, list(SHAPES)[1], mass, 1, "test", torch.float64)
    found = share_on_distractors(PGNN(p=p, learn_p=False), planted, c)
    assert found == pytest.approx(theory.distractor_mass(p, c, mass, 1), abs=0.015)
    for scheme in (GCN(), Tempering(p=p, learn_p=False)):
        assert share_on_distractors(scheme, planted, c) == pytest.approx(mass, abs=0.01)


@pytest.mark.parametrize(
    ("mass", "c", "p"),
    [(0.25, 0.0, 2.0), (0.5, 0.0, 2.0), (0.5, 0.9, 1.0), (0.5, -0.9, 3.0), (0.75, 0.9, 1.0)],
)
def test_accuracy_of_the_linear_readout(mass, c, p):
    """With the true directions of the classes."""
    ratio = list(SHAPES)[1]
    planted = draw(1500, ratio, mass, 2, "test", torch.float64)
    weight = PGNN(p=p, learn_p=False).reweight(planted.graph(c))[:, 0]
    directions = torch.from_numpy(graphs._frame(2)[2 * GROUPS :])
    score = weight / weight.sum(-1, keepdim=True) @ planted.value @ directions.T
    found = float((score.argmax(-1) == planted.answer).double().mean())
    expected = theory.accuracy(theory.distractor_mass(p, c, mass, 1), mass, p)
    assert found == pytest.approx(expected, abs=0.03)


def test_what_is_predicted():
    near, none, little, far = (theory.predict(c, 0.5, 1) for c in (0.9, 0.0, -0.3, -0.9))
    assert near.p == 1 and far.p == 3 and near.gain > far.gain > 0.03
    assert none.gain == 0 and none.p == 1  # evens out M, as tempering does
    assert little.gain < -0.01  # one p for two tasks
    assert near.contrast > 0 == none.contrast > far.contrast
    for mass in MASSES:
        wide, narrow = theory.predict(0.6, mass, 4), theory.predict(0.6, mass, 0.25)
        assert wide.gain == pytest.approx(narrow.gain) and wide.gain < theory.predict(0.6, mass, 1).gain
