"""The variance of a mean difference: oracles are t tests, the analysis of variance, an integral."""

import numpy as np
import pytest
from scipy import integrate, stats

from attngraph.experiments.tables.compare import holm
from attngraph.experiments.tables.variance import variances
from tests.experiments.tables.studies import Study, normal_studies, scored_p_values, studies

NONE = np.zeros((6, 6))
DEAL = [0, 1, 2, 0, 1, 2]
D = np.array([0.3, 0.1, 0.9, 0.5, -0.2, 0.8])


def by_monte_carlo(distance, squares, freedom, least, images, draws=400_000):
    """p as the average over draws of what the mean squares leave open."""
    rng = np.random.default_rng(0)
    drawn = [s * nu / rng.chisquare(nu, draws) for s, nu in zip(squares, freedom, strict=True)]
    part = np.max([np.full(draws, least), *drawn], axis=0)
    return 2 * stats.norm.sf(distance / np.sqrt(part + images)).mean()


@pytest.mark.parametrize("p", [0.5, 0.05, 1e-5])
@pytest.mark.parametrize("seeds", [2, 3, 21])
def test_without_images_it_is_the_t_test_over_seeds(seeds, p):
    d = np.random.default_rng(seeds).normal(size=seeds)
    these, new = variances(d, np.zeros((seeds, seeds)), [0] * seeds, 500)
    assert new is None and these.freedom == (seeds - 1,)
    distance = stats.t.isf(p / 2, seeds - 1) * d.std(ddof=1) / seeds**0.5
    assert these.p_values(distance) == pytest.approx(p, rel=2e-3)
    assert these.reach(1 - p) == pytest.approx(distance, rel=2e-3)


def test_methods_that_tie_have_a_p_value_of_one_and_no_more():
    rng = np.random.default_rng(0)
    for seeds in (2, 3, 7, 21):
        for _ in range(10):
            d = rng.normal(size=seeds)
            these, _ = variances(d - d.mean(), np.diag(rng.random(seeds)), [0] * seeds, 500)
            p = float(these.p_values(0.0))
            assert 1 - 1e-12 < p <= 1
            assert holm([p]) == pytest.approx(1)


def test_one_seed_speaks_of_images_alone():
    these, new = variances(np.array([0.5]), np.array([[0.04]]), ["a"], 30)
    assert new is None and these.estimate == pytest.approx(0.04)
    assert these.p_values(0.5) == pytest.approx(2 * stats.t.sf(2.5, 29))


def test_mean_squares_are_those_of_the_analysis_of_variance():
    these, new = variances(D, NONE, DEAL, 500)
    groups = [D[[0, 3]], D[[1, 4]], D[[2, 5]]]
    within = sum(((g - g.mean()) ** 2).sum() for g in groups) / 3
    between = 2 * sum((g.mean() - D.mean()) ** 2 for g in groups) / 2
    assert between / within == pytest.approx(stats.f_oneway(*groups).statistic)
    assert these.squares[0] * 6 == pytest.approx(within) and these.freedom == (3,)
    assert new.squares * 6 == pytest.approx([within, between]) and new.freedom == (3, 2)
    # random effects, by hand: Var = sigma_c^2 / C + sigma_s^2 / S
    sigma_c = (between - within) / 2
    assert new.estimate == pytest.approx(sigma_c / 3 + within / 6)
    assert new.p_values(0.4) == pytest.approx(
        by_monte_carlo(0.4, [within / 6, between / 6], [3, 2], 0, 0), rel=0.02
    )


def test_new_checkpoints_are_the_t_test_over_their_means_where_seeds_agree():
    d = np.repeat([0.3, 0.5, 0.1], 2) + np.tile([1e-6, -1e-6], 3)
    _, new = variances(d, NONE, [0, 0, 1, 1, 2, 2], 500)
    assert new.p_values(d.mean()) == pytest.approx(stats.ttest_1samp([0.3, 0.5, 0.1], 0).pvalue, rel=2e-3)


def test_uneven_checkpoints_by_the_expected_mean_square():
    """E MS between = sigma^2 + n0 sigma_c^2, and S Var = sigma^2 + k sigma_c^2, by Monte Carlo."""
    rng, deal = np.random.default_rng(0), [0, 1, 2, 0, 1]
    effects = 2 * rng.normal(size=(40_000, 3))
    _, new = variances(effects[:, deal], np.zeros((40_000, 5, 5)), deal, 500)
    true = effects[:, deal].mean(1).var()
    assert new.squares[:, 1].mean() == pytest.approx(true, rel=0.03)


def test_parts_of_the_images():
    e, f, n = 0.2, 0.3, 0.4
    covariance = e + f * np.equal.outer(DEAL, DEAL) + n * np.eye(6)
    these, new = variances(1e-6 * D, covariance, DEAL, 10**6)
    assert these.least == pytest.approx(n / 6) and these.images == pytest.approx(e + f / 3)
    assert new.least == pytest.approx(n / 6 + f / 3) and new.images == pytest.approx(e)
    full = e + f / 3 + n / 6
    assert these.estimate == pytest.approx(full) and new.estimate == pytest.approx(full)
    assert these.p_values(1.0) == pytest.approx(2 * stats.norm.sf(1 / full**0.5), rel=1e-3)


def test_the_average_is_behrens_and_fishers_integral():
    square, freedom, least, images = 0.5, 4, 0.2, 0.3
    covariance = np.full((5, 5), images) + 5 * least * np.eye(5)
    d = np.array([-2, -1, 0, 1, 2]) * (5 * square / 2.5) ** 0.5
    these, _ = variances(d, covariance, [0] * 5, 10**7)

    def tail(u):
        part = max(square * freedom / u, least)
        return stats.chi2.pdf(u, freedom) * 2 * stats.norm.sf(2.5 / (part + images) ** 0.5)

    kink = square * freedom / least
    expected = integrate.quad(tail, 0, kink)[0] + integrate.quad(tail, kink, np.inf)[0]
    assert these.p_values(2.5) == pytest.approx(expected, rel=1e-3)
    assert 1 - these.p_values(these.reach(0.95)) == pytest.approx(0.95)


def test_a_spread_below_the_noise_of_the_images_is_chance():
    """Five differences that agree more closely than images allow: the noise counts, not the spread."""
    covariance = 0.81 * np.eye(5)
    d = 0.69 + 0.26 * np.array([-1.2, -0.6, 0.0, 0.6, 1.2])
    these, _ = variances(d, covariance, [0] * 5, 800)
    assert these.estimate == pytest.approx(0.81 / 5)
    assert stats.ttest_1samp(d, 0).pvalue < 0.01 and these.p_values(d.mean()) > 0.05


@pytest.mark.parametrize("deal", [[0] * 6, DEAL, list(range(6)), [0, 0, 0, 1, 1, 2]])
def test_the_order_of_seeds_and_names_of_checkpoints_do_not_matter(deal):
    rng = np.random.default_rng(1)
    root = rng.normal(size=(6, 6))
    covariance, order = root @ root.T / 20, rng.permutation(6)
    names = [f"w{deal[k]}" for k in order]
    for one, other in zip(
        variances(D, covariance, deal, 100),
        variances(D[order], covariance[np.ix_(order, order)], names, 100),
        strict=True,
    ):
        assert (one is None) == (other is None)
        if one is not None:
            assert one.p_values(0.7) == pytest.approx(float(other.p_values(0.7)))
            assert one.estimate == pytest.approx(float(other.estimate))


def sizes(study, runs, level):
    """Share of false alarms for these checkpoints and for new ones."""
    differences, covariance, own = normal_studies(study, runs, np.random.default_rng(0))
    mean = differences.mean(1)
    these, new = variances(differences, covariance, study.deal, study.images)
    return np.mean(these.p_values(mean - own) < level), new and np.mean(new.p_values(mean) < level)


@pytest.mark.parametrize("seeds", [2, 5])
def test_small_levels_hold_with_few_seeds(seeds):
    """Holm's smallest level in a table of 40 comparisons: 0.00125. The seeds decide."""
    these, _ = sizes(Study(seeds, 1, s=1.0, e=0.2, n=0.3), 6000, 0.00125)
    assert these < 0.00125 + 3 * (0.00125 / 6000) ** 0.5


@pytest.mark.parametrize("c", [0.0, 0.5, 2.0])
def test_sizes_with_checkpoints(c):
    these, new = sizes(Study(6, 3, c=c, s=0.5, e=0.4, f=0.2, n=0.4), 4000, 0.05)
    assert 0.005 < these < 0.06 and new < 0.06
    if c == 2.0:
        assert new > 0.01  # and not for want of any power


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_false_alarms_of_every_study():
    """Type-I error at 0.05 and at Holm's smallest level, within what chance allows."""
    for number, study in enumerate(studies()):
        rng = np.random.default_rng([1, number])
        if study.kind == "normal":
            differences, covariance, own = normal_studies(study, 4000, rng)
            mean = differences.mean(-1)
            these, new = variances(differences, covariance, study.deal, study.images)
            found = [these.p_values(mean - own), [] if new is None else new.p_values(mean)]
        else:
            found = scored_p_values(study, 200, rng)
        for p_values in found:
            for level in (0.05, 0.05 / 40) if len(p_values) else ():
                allowed = 1.06 * level + 3.5 * (level / len(p_values)) ** 0.5
                assert np.mean(np.array(p_values) < level) <= allowed, study
