"""Planted graphs: what is planted is there and nothing gives it away; closed forms against measurements; runs
stacked as if alone; choices on validation graphs and paired gains."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from attngraph.adapters import GCN, PGNN, Tempering
from attngraph.analysis.contrast import contrast, square_distances
from attngraph.experiments.cli import main
from attngraph.experiments.commands import planted as command
from attngraph.experiments.studies import planted, planted_theory
from attngraph.experiments.studies.planted import (
    CLASSES,
    CLEAN,
    COLUMNS,
    EDGES,
    GROUPS,
    MASSES,
    ROWS,
    SHAPES,
    TOPIC,
    Study,
    draw,
    drawn,
    train,
)
from attngraph.experiments.studies.planted_report import FIGURES, chosen, conditions, interval, text

# ---- graphs ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=list(zip(SHAPES, MASSES)), ids=lambda case: f"{case[0]}-{case[1]}")
def case(request):
    """Each ratio once and each mass once."""
    ratio, mass = request.param
    return ratio, mass, draw(40, ratio, mass, 3, "test", torch.float64)


def test_mass_and_numbers_of_edges(case):
    ratio, mass, made = case
    assert made.weight.shape[1:] == SHAPES[ratio]
    torch.testing.assert_close(made.weight.sum(-1), torch.ones(40, SHAPES[ratio][0]).double())
    away = (made.weight * ~made.relevant).sum(-1)
    torch.testing.assert_close(away, torch.full_like(away, mass))
    assert ((made.weight > 0).sum(1) == int(EDGES * ratio)).all()
    assert ((made.weight > 0).sum(2) == EDGES).all()


def test_neither_weights_nor_degrees_tell_relevant_values(case):
    _, _, made = case
    edge = made.weight > 0
    degree = made.weight.sum(1, keepdim=True).expand_as(made.weight)
    for numbers in (made.weight, degree):
        relevant, distractor = numbers[edge & made.relevant], numbers[edge & ~made.relevant]
        assert abs(stats.ttest_ind(relevant, distractor).statistic) < 4
    assert stats.ks_2samp(made.weight[edge & made.relevant], made.weight[edge & ~made.relevant]).pvalue > 1e-3


@pytest.mark.parametrize("c", [-0.9, 0.5])
def test_cosines(case, c):
    """The class content is orthogonal to all queries, and so are other groups' topics."""
    _, _, made = case
    query = made.query(c)
    for features in (query, made.value):
        torch.testing.assert_close(features.norm(dim=-1), torch.ones(features.shape[:2]).double())
    torch.testing.assert_close((query * made.topic).sum(-1), torch.full(query.shape[:2], c).double())
    dot = query @ made.value.transpose(1, 2)
    torch.testing.assert_close(dot, c * TOPIC**0.5 * made.relevant.double())


def test_the_answer_is_the_class_of_the_relevant_values(case):
    _, _, made = case
    directions = torch.from_numpy(planted._frame(3)[2 * GROUPS :])
    content = made.value @ directions.T  # (g, m, classes)
    share = torch.take_along_dim(content, made.answer[:, None, :], 2)  # (g, m, n)
    at_relevant = share.transpose(1, 2)[made.relevant]
    torch.testing.assert_close(at_relevant, torch.full_like(at_relevant, ((1 - TOPIC) * CLEAN) ** 0.5))
    topics = torch.from_numpy(planted._frame(3)[:GROUPS])
    torch.testing.assert_close(directions @ topics.T, torch.zeros(CLASSES, GROUPS).double())


def test_graphs_follow_from_the_seed_and_splits_share_none():
    first, again = (draw(30, Fraction(1), 0.5, 0, "train") for _ in range(2))
    assert all(torch.equal(getattr(first, name), getattr(again, name)) for name in vars(first))
    weights = [draw(30, Fraction(1), 0.5, seed, split).weight for seed in (0, 1) for split in planted.SPLITS]
    every = torch.cat(weights).flatten(1)
    assert len(every.unique(dim=0)) == len(every) == 180
    made = draw(400, Fraction(1), 0.5, 0, "train")
    group = (made.topic @ made.topic[0, 0]).round() == 1  # queries of one group
    counts = made.answer[group].bincount(minlength=CLASSES)
    assert counts.min() > 0.5 * counts.sum() / CLASSES, "classes are drawn again for every graph"


# ---- theory ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ratio", "c"), list(zip(SHAPES, (-0.9, 0.6, -0.3))))
def test_distances(ratio, c):
    made = draw(20, ratio, 0.5, 0, "test", torch.float64)
    graph = made.graph(c)
    measured = square_distances(graph)[:, 0]
    degree = made.weight.sum(1, keepdim=True)
    relevant = 1 + 1 / degree - 2 * c * (TOPIC / degree) ** 0.5
    expected = torch.where(made.relevant, relevant, 1 + 1 / degree)
    edge = made.weight > 0
    torch.testing.assert_close(measured[edge], expected[edge])
    theory = planted_theory.square_distances(c, ratio)
    for side, mean_field in zip((made.relevant, ~made.relevant), theory):
        weight = made.weight * side
        assert float((weight * measured).sum() / weight.sum()) == pytest.approx(mean_field, rel=0.05)
    for options, alike in (({}, ratio), ({"degree": "mean"}, 1)):  # with mean degrees the ratio is 1
        found = float(contrast(graph, made.region(), **options).contrast.mean())
        assert found == pytest.approx(planted_theory.measured_contrast(c, alike), abs=0.02)


@pytest.mark.parametrize(
    ("mass", "c", "p"), [(0.25, -0.9, 1.6), (0.5, -0.3, 3.0), (0.75, 0.6, 1.0), (0.5, 0.0, 1.0)]
)
def test_mass_on_distractors(mass, c, p):
    made = draw(60, Fraction(1), mass, 1, "test", torch.float64)

    def share(scheme) -> float:
        weight = scheme.reweight(made.graph(c))[:, 0]
        weight = weight / weight.sum(-1, keepdim=True)
        return float((weight * ~made.relevant).sum(-1).mean())

    found = share(PGNN(p=p, learn_p=False))
    assert found == pytest.approx(planted_theory.distractor_mass(p, c, mass, 1), abs=0.015)
    for scheme in (GCN(), Tempering(p=p, learn_p=False)):
        assert share(scheme) == pytest.approx(mass, abs=0.01)


@pytest.mark.parametrize(("mass", "c", "p"), [(0.25, 0.0, 2.0), (0.5, -0.9, 3.0), (0.75, 0.9, 1.0)])
def test_accuracy_of_the_linear_readout(mass, c, p):
    """With the true directions of the classes."""
    made = draw(1500, Fraction(1), mass, 2, "test", torch.float64)
    weight = PGNN(p=p, learn_p=False).reweight(made.graph(c))[:, 0]
    directions = torch.from_numpy(planted._frame(2)[2 * GROUPS :])
    score = weight / weight.sum(-1, keepdim=True) @ made.value @ directions.T
    found = float((score.argmax(-1) == made.answer).double().mean())
    expected = planted_theory.accuracy(planted_theory.distractor_mass(p, c, mass, 1), mass, p)
    assert found == pytest.approx(expected, abs=0.03)


def test_what_is_predicted():
    near, none, little, far = (planted_theory.predict(c, 0.5, 1) for c in (0.9, 0.0, -0.3, -0.9))
    assert near.p == 1 and far.p == 3 and near.gain > far.gain > 0.03
    assert none.gain == 0 and none.p == 1  # evens out M, as tempering does
    assert little.gain < -0.01  # one p for two tasks
    assert near.contrast > 0 == none.contrast > far.contrast
    wide, narrow, even = (planted_theory.predict(0.6, 0.5, ratio) for ratio in (4, 0.25, 1))
    assert wide.gain == pytest.approx(narrow.gain) and wide.gain < even.gain


# ---- training ----------------------------------------------------------------------------------------------

TINY = Study(ratios=(Fraction(1),), masses=(0.5,), contrasts=(-0.9, 0.3), steps=4, batch=2, scored=4)


def trained(study: Study, name: str, rate: float, seeds) -> dict[str, torch.Tensor]:
    return train(study, ROWS[name], rate, drawn(study, Fraction(1), 0.5, seeds), seeds)


@pytest.mark.parametrize("name, join", [("gcnii", "replace"), ("pgnn", "blend")])
def test_stacking_changes_no_run(name, join):
    study = replace(TINY, join=join)
    together = trained(study, name, 0.05, [0, 5])
    alone = trained(replace(study, contrasts=(0.3,)), name, 0.05, [5])
    for field, value in alone.items():
        torch.testing.assert_close(together[field][1:, 1:], value, equal_nan=True, rtol=1e-4, atol=1e-5)
    assert (name == "pgnn") == bool(together["p"].isfinite().all())


def test_p_moves_as_theory_says():
    study = replace(TINY, contrasts=(-0.9, 0.9), steps=40, batch=6, scored=20)
    runs = trained(study, "pgnn", 0.03, [0, 1])
    assert (runs["p"][:, 0] > 2).all() and (runs["p"][:, 1] < 1.3).all()
    assert (runs["test"][:, 1] > runs["test"][:, 0]).all() and runs["test"].min() > 2 / 8


# ---- the report --------------------------------------------------------------------------------------------


@pytest.fixture
def runs() -> pd.DataFrame:
    """Two conditions; the rate 0.1 is better on validation graphs, 0.2 on test graphs; of the rows without
    distances tempering is best on validation graphs."""
    random = np.random.default_rng(0)
    lines = []
    for c in (-0.9, 0.9):
        for name in ROWS:
            skill = 0.6 + 0.2 * ("pgnn" in name) + 0.05 * (name == "tempering")
            p = 1.5 if "pgnn" in name else np.nan
            for rate in (0.1, 0.2):
                for seed in range(4):
                    test = skill + rate + 0.01 * random.standard_normal()
                    lines.append((1.0, 0.5, c, name, rate, seed, c / 2, skill - rate / 2, test, p))
    return pd.DataFrame(lines, columns=list(COLUMNS))


def test_choices_are_made_on_validation_graphs_and_gains_are_paired(runs):
    assert set(chosen(runs).rate) == {0.1}
    assert set(conditions(runs).without) == {"tempering"}
    line = conditions(runs).iloc[0]
    at = runs[(runs.contrast == -0.9) & (runs.rate == 0.1)].set_index("seed")
    difference = at.test[at.row == "pgnn"] - at.test[at.row == "tempering"]
    assert line.pgnn_gain == pytest.approx(difference.mean())
    whole = stats.ttest_1samp(difference, 0).confidence_interval(0.95)
    assert (line.pgnn_low, line.pgnn_high) == pytest.approx((whole.low, whole.high))
    over_gcn = interval((at.test[at.row == "pgnn"] - at.test[at.row == "gcn"]).to_numpy())
    assert (line.pgnn_gcn_gain, line.pgnn_gcn_low, line.pgnn_gcn_high) == pytest.approx(over_gcn)


def test_the_report_says_where_theory_is_wrong(runs):
    report = text(runs, conditions(runs), "made up")
    assert "as predicted in 1 of 2 conditions\n  not at N1/N2 1, mass 0.5, c -0.9\n" in report
    wins = [line.split() for line in report.splitlines() if line.startswith("c < 0")]
    assert wins[0][3:7] == ["1", "1", "1", "0"] and float(wins[0][7]) == pytest.approx(15, abs=1)
    assert wins[2][3:7] == ["1", "0", "0", "1"], "tempering beats rotated queries there"


def test_the_command(tmp_path, capsys, monkeypatch):
    """What it writes; other settings need another folder."""
    monkeypatch.setattr(command, "QUICK", replace(TINY, contrasts=(-0.9, 0.9), rates=(0.01,), steps=1))
    words = ["planted", "--quick", "--seeds", "2", "--out", str(tmp_path)]
    assert main(words) == 0
    assert {file.name for file in tmp_path.iterdir()} == {*command.NAMES, "run.json"}
    found = pd.read_csv(tmp_path / "planted.csv")
    assert tuple(found.columns) == COLUMNS and len(found) == len(ROWS) * 2 * 2  # contrasts, seeds
    assert found.groupby("row").p.count().loc["gcn"] == 0 < found.groupby("row").p.count().loc["pgnn"]
    assert (found.measured * found.contrast > 0).all()
    assert all((tmp_path / f"{stem}.png").stat().st_size > 20_000 for stem in FIGURES)
    shown = capsys.readouterr().out
    assert (tmp_path / "planted.txt").read_text() in shown and "2 conditions" in shown
    assert main([*words, "--join", "blend"]) == 2
    assert "other join" in capsys.readouterr().err
