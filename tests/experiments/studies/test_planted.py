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
from attngraph.backends import edges_of
from attngraph.experiments.cli import main
from attngraph.experiments.commands import planted as command
from attngraph.experiments.studies import planted, planted_theory
from attngraph.experiments.studies.planted import (
    CLASSES,
    CLEAN,
    EDGES,
    GROUPS,
    MASSES,
    ROWS,
    SHAPES,
    TOPIC,
    Direction,
    Study,
    draw,
    drawn,
    train,
)
from attngraph.experiments.studies.planted_cues import CUES, SECOND, Cue
from attngraph.experiments.studies.planted_report import DIRECTION, chosen, conditions, text
from attngraph.experiments.studies.reweighting import Distances

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
    directions = torch.from_numpy(planted.directions(3)[2 * GROUPS :])
    content = made.value @ directions.T  # (g, m, classes)
    share = torch.take_along_dim(content, made.answer[:, None, :], 2)  # (g, m, n)
    at_relevant = share.transpose(1, 2)[made.relevant]
    torch.testing.assert_close(at_relevant, torch.full_like(at_relevant, ((1 - TOPIC) * CLEAN) ** 0.5))
    topics = torch.from_numpy(planted.directions(3)[:GROUPS])
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
    directions = torch.from_numpy(planted.directions(2)[2 * GROUPS :])
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


# ---- further cues ------------------------------------------------------------------------------------------

EVERY_CUE = [Cue(name, factor) for name, factors in CUES.items() for factor in factors]


@pytest.fixture(params=EVERY_CUE, ids=lambda cue: f"{cue.name}-{cue.factor:.2g}")
def cue(request):
    return request.param


def test_a_cue_is_all_that_differs(cue):
    made = cue.draw(30, 3, "test", torch.float64)
    edge = made.weight > 0
    torch.testing.assert_close(made.weight.sum(-1), torch.ones(30, 12).double())
    away = (made.weight * ~made.relevant).sum(-1)
    torch.testing.assert_close(away, torch.full_like(away, 0.5))
    assert (edge.sum(-1) == EDGES).all() and (made.relevant & edge).any(-1).all()
    numbers = {
        "weight": made.weight,
        "degree": made.weight.sum(1, keepdim=True).expand_as(edge),
        "length": made.value.norm(dim=-1)[:, None].expand_as(edge),
    }
    for name, number in numbers.items():
        near, far = number[edge & made.relevant], number[edge & ~made.relevant]
        odds = cue.factor if name == cue.name else 1.0
        torch.testing.assert_close(far, torch.full_like(far, float(near[0]) * odds))
        torch.testing.assert_close(near, near[:1].expand_as(near))
    carriers = torch.from_numpy(planted.directions(3, GROUPS + 1)[-CLASSES:])
    content = (made.value @ carriers.T).norm(dim=-1)
    torch.testing.assert_close(content, torch.full_like(content, (1 - TOPIC) ** 0.5))
    share = torch.take_along_dim(made.value @ carriers.T, made.answer[:, None, :], 2).transpose(1, 2)
    at_relevant = share[edge & made.relevant]
    torch.testing.assert_close(at_relevant, torch.full_like(at_relevant, ((1 - TOPIC) * CLEAN) ** 0.5))


@pytest.mark.parametrize("c", [-0.9, 0.5])
def test_distances_and_mass_with_a_cue(cue, c):
    """Exactly as predicted, for any exponents; the schemes' own messages."""
    made = cue.draw(10, 0, "test", torch.float64)
    graph = made.graph(c)
    edges, edge = edges_of(graph), made.weight > 0
    found = square_distances(graph)[:, 0]
    for side, square in zip((made.relevant, ~made.relevant), planted_theory.cue_distances(cue, c)):
        torch.testing.assert_close(found[edge & side], torch.full_like(found[edge & side], float(square)))
    free = ROWS["free"].make()
    free.a.logit.set(1.0)
    free.b.logit.set(-0.7)
    schemes = {
        "gcn": (GCN(), (1, 0)),
        "p2": (ROWS["p2"].make(), (1, 0)),
        "tempering": (Tempering(p=1.2, learn_p=False), (0.6, 0)),
        "pgnn": (PGNN(p=2.6, learn_p=False), (1.3, 0.6)),
        "closed": (Distances("closed_form", p=1.4, learn_p=False), (0.7, -0.6)),
        "free": (free.double(), (free.a.number(), free.b.number())),
    }
    for row, (scheme, exponents) in schemes.items():
        message = scheme.message_weights(edges).detach()[:, 0]
        away = (message * ~made.relevant).sum(-1) / message.sum(-1)
        expected = planted_theory.cue_mass(cue, c, row, *exponents)
        torch.testing.assert_close(away, torch.full_like(away, float(expected)), atol=1e-6, rtol=0)


def test_best_exponents_with_a_cue(cue):
    """Of a grid."""
    for c in (-0.9, 0, 0.9):
        for row in ("pgnn", "closed", "placebo", "tempering", "free"):
            of_p = [(p / 2, 0 if row == "tempering" else p - 2) for p in np.linspace(1, 3, 9)]
            of_both = [(a, b) for a in np.linspace(0.5, 1.5, 5) for b in np.linspace(-2, 2, 9)]
            pairs = of_both if row == "free" else of_p
            masses = [planted_theory.cue_mass(cue, c, row, a, b) for a, b in pairs]
            best = planted_theory.cue_mass(cue, c, row, *planted_theory.cue_exponents(cue, c, row))
            assert best == pytest.approx(min(masses), abs=1e-12)


def test_accuracy_with_a_cue():
    """Of the readout with the true directions of the classes."""
    kind = Cue("degree", 4.0)
    made = kind.draw(1500, 2, "test", torch.float64)
    message = PGNN(p=3, learn_p=False).message_weights(edges_of(made.graph(0.5)))[:, 0]
    carriers = torch.from_numpy(planted.directions(2, GROUPS + 1)[-CLASSES:])
    score = message / message.sum(-1, keepdim=True) @ made.value @ carriers.T
    found = float((score.argmax(-1) == made.answer).double().mean())
    assert found == pytest.approx(planted_theory.predict_cue("degree", 4.0, 0.5).best, abs=0.03)


def test_one_exponent_for_two_cues():
    """Where M is informative and relevant values are near, p cannot use both and free exponents can."""
    theory = planted_theory.predict_cue("weight", round(1 / 3, 4), 0.9)
    assert theory.gain < -0.1 and theory.accuracy["Free exponents"] > theory.without + 0.1
    part = Cue("weight", 1 / 3)
    study = replace(SECOND, parts=(part,), contrasts=(0.9,), steps=60, batch=8, scored=32)
    data = drawn(study, part, [0, 1])
    runs = {name: train(study, ROWS[name], 0.06, data, [0, 1]) for name in ("tempering", "pgnn", "free")}
    tests = {name: float(found["test"].mean()) for name, found in runs.items()}
    assert tests["free"] > tests["tempering"] + 0.1 > tests["pgnn"] + 0.1
    assert (runs["free"]["a"] > 1).all() and (runs["free"]["b"] < 0).all()


# ---- training ----------------------------------------------------------------------------------------------

PART = Direction(Fraction(1), 0.5)
TINY = Study(parts=(PART,), contrasts=(-0.9, 0.3), steps=4, batch=2, scored=4)


def trained(study: Study, name: str, rate: float, seeds) -> dict[str, torch.Tensor]:
    return train(study, ROWS[name], rate, drawn(study, study.parts[0], seeds), seeds)


@pytest.mark.parametrize("name, join", [("gcnii", "replace"), ("pgnn", "blend")])
def test_stacking_changes_no_run(name, join):
    study = replace(TINY, join=join)
    together = trained(study, name, 0.05, [0, 5])
    alone = trained(replace(study, contrasts=(0.3,)), name, 0.05, [5])
    for field, value in alone.items():
        torch.testing.assert_close(together[field][1:, 1:], value, equal_nan=True, rtol=1e-4, atol=1e-5)
    assert (name == "pgnn") == ("p" in together)


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
        for name in Study().rows:
            skill = 0.6 + 0.2 * ("pgnn" in name) + 0.05 * (name == "tempering")
            p = 1.5 if "pgnn" in name else np.nan
            for rate in (0.1, 0.2):
                for seed in range(4):
                    test = skill + rate + 0.01 * random.standard_normal()
                    lines.append((1.0, 0.5, c, name, rate, seed, c / 2, skill - rate / 2, test, p))
    return pd.DataFrame(lines, columns=Study().columns)


def test_choices_are_made_on_validation_graphs_and_gains_are_paired(runs):
    assert set(chosen(runs).rate) == {0.1}
    assert set(conditions(runs).without) == {"tempering"}
    line = conditions(runs).iloc[0]
    at = runs[(runs.contrast == -0.9) & (runs.rate == 0.1)].set_index("seed")
    difference = at.test[at.row == "pgnn"] - at.test[at.row == "tempering"]
    assert line.pgnn_gain == pytest.approx(difference.mean())
    whole = stats.ttest_1samp(difference, 0).confidence_interval(0.95)
    assert (line.pgnn_low, line.pgnn_high) == pytest.approx((whole.low, whole.high))
    over_gcn = at.test[at.row == "pgnn"] - at.test[at.row == "gcn"]
    low, high = stats.ttest_1samp(over_gcn, 0).confidence_interval(0.95)
    assert (line.pgnn_gcn_gain, line.pgnn_gcn_low, line.pgnn_gcn_high) == pytest.approx(
        (over_gcn.mean(), low, high)
    )


def test_the_report_says_where_theory_is_wrong(runs):
    report = text(runs, conditions(runs), "made up")
    assert "as predicted in 1 of 2 conditions\n  not at N1/N2 1, 50% of the mass on dist" in report
    wins = [line.split() for line in report.splitlines() if line.startswith("c < 0")]
    assert wins[0][3:7] == ["1", "1", "1", "0"] and float(wins[0][7]) == pytest.approx(15, abs=1)
    assert wins[2][3:7] == ["1", "0", "0", "1"], "tempering beats rotated queries there"


def written(folder) -> set[str]:
    return {file.name for file in folder.iterdir()} - {"run.json"}


def test_the_command(tmp_path, capsys, monkeypatch):
    """What it writes; other settings need another folder."""
    study = replace(TINY, contrasts=(-0.9, 0.9), rates=(0.01,), steps=1)
    monkeypatch.setitem(command.STUDIES, "direction", study)
    words = ["planted", "--seeds", "2", "--out", str(tmp_path)]
    assert main(words) == 0
    assert written(tmp_path) == {name for name in command.NAMES if "cues" not in name}
    found = pd.read_csv(tmp_path / "planted.csv")
    assert list(found.columns) == study.columns and len(found) == len(study.rows) * 2 * 2  # contrasts, seeds
    assert found.groupby("row").p.count().loc["gcn"] == 0 < found.groupby("row").p.count().loc["pgnn"]
    assert (found.measured * found.contrast > 0).all()
    assert all((tmp_path / f"{stem}.png").stat().st_size > 20_000 for stem in DIRECTION)
    shown = capsys.readouterr().out
    assert (tmp_path / "planted.txt").read_text() in shown and "2 conditions" in shown
    assert main([*words, "--join", "blend"]) == 2
    assert "other join" in capsys.readouterr().err


def test_the_command_with_cues(tmp_path, capsys, monkeypatch):
    few = {"rates": (0.01,), "steps": 1, "batch": 2, "scored": 4}
    study = replace(SECOND, parts=EVERY_CUE[::2], contrasts=(-0.9, 0.9), **few)
    monkeypatch.setitem(command.STUDIES, "cues", study)
    words = ["planted", "--preset", "cues", "--seeds", "2", "--out", str(tmp_path)]
    assert main(words) == 0
    found, table = (pd.read_csv(tmp_path / name) for name in ("planted.csv", "conditions.csv"))
    assert list(found.columns) == study.columns
    assert len(found) == 3 * 7 * 2 * 2  # cues, rows, contrasts, seeds
    assert table.measured.to_numpy() == pytest.approx(table.expected.to_numpy(), abs=1e-4)
    assert table[["free_a", "free_b", "closed_p", "pgnn_gcn_gain", "theory_free_gain"]].notna().all(axis=None)
    assert written(tmp_path) == {name for name in command.NAMES if not name.startswith(DIRECTION)}
    assert (tmp_path / "planted-cues.png").stat().st_size > 20_000
    shown = capsys.readouterr().out
    assert "theory: Free exponents" in shown and "weight 0.333" in shown
