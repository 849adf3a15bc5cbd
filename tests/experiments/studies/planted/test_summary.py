"""Rates and rivals are chosen on validation graphs; gains are paired."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from experiments.studies.planted.study import COLUMNS, ROWS
from experiments.studies.planted.summary import chosen, conditions, interval, text


@pytest.fixture
def runs() -> pd.DataFrame:
    """Two conditions; the rate 0.1 is better on validation graphs, 0.2 on test graphs; of the rows without
    distances tempering is best on validation graphs."""
    random = np.random.default_rng(0)
    lines = []
    for c in (-0.9, 0.9):
        for name in ROWS:
            for rate in (0.1, 0.2):
                for seed in range(4):
                    noise = 0.01 * random.standard_normal()
                    skill = 0.2 * ROWS[name].uses_distance + 0.05 * (name == "tempering")
                    lines.append(
                        (
                            1.0,
                            0.5,
                            c,
                            name,
                            rate,
                            seed,
                            c / 2,
                            0.6 + skill - rate / 2,
                            0.6 + skill + rate + noise,
                        )
                        + (1.5 if "pgnn" in name else np.nan,)
                    )
    return pd.DataFrame(lines, columns=list(COLUMNS))


def test_choices_are_made_on_validation_graphs(runs):
    assert set(chosen(runs).rate) == {0.1}
    assert set(conditions(runs).without) == {"tempering"}


def test_gains_are_paired(runs):
    line = conditions(runs).iloc[0]
    at = runs[(runs.contrast == -0.9) & (runs.rate == 0.1)].set_index("seed")
    difference = at.test[at.row == "pgnn"] - at.test[at.row == "tempering"]
    assert line.pgnn_gain == pytest.approx(difference.mean())
    whole = stats.ttest_1samp(difference, 0).confidence_interval(0.95)
    assert interval(difference.to_numpy())[1:] == pytest.approx((whole.low, whole.high))
    assert (line.pgnn_low, line.pgnn_high) == pytest.approx((whole.low, whole.high))
    over_gcn = interval((at.test[at.row == "pgnn"] - at.test[at.row == "gcn"]).to_numpy())
    assert (line.pgnn_gcn_gain, line.pgnn_gcn_low, line.pgnn_gcn_high) == pytest.approx(over_gcn)


def test_the_report_says_where_theory_is_wrong(runs):
    report = text(runs, conditions(runs), "made up")
    assert "Sign of p − 2 as predicted in 1 of 2 conditions; not at N1/N2 1, mass 0.5, c -0.9" in report
    assert "c < 0: above 0 in 1, below in 0, neither in 0 of 1 conditions; mean +15" in report
    assert "pGNN, μ 0.1 against GCN: its mean lies above in 2 of 2 conditions" in report
    assert all(row.title in report for row in ROWS.values())
