"""Curves of training."""

import numpy as np
import pytest

from attngraph.errors import UserError
from experiments.report.overview.curves import draw, panels_of, read_columns, thinned
from experiments.report.overview.drawing import png, svg
from experiments.report.overview.found import found_runs
from experiments.report.overview.grouped import grouped, rows_of
from experiments.tasks import TASKS
from tests.experiments.report.overview.small import STEPS, save_table


@pytest.mark.parametrize("n", [1, 99, 100, 101, 250, 1000, 100_001])
def test_thinned_curves_keep_mean_and_length(n):
    rng = np.random.default_rng(n)
    values = rng.random(n)
    steps, thin = thinned(np.arange(1.0, n + 1), values, 100)
    assert len(steps) == len(thin) <= 100
    length = -(-n // 100)
    sizes = np.full(len(thin), length)
    sizes[-1] = n - length * (len(thin) - 1)
    assert np.average(thin, weights=sizes) == pytest.approx(values.mean())
    assert np.average(steps, weights=sizes) == pytest.approx((n + 1) / 2)


def panels(folder, task="ve"):
    with found_runs([folder]) as search:
        (group,) = grouped(search.runs)
        return panels_of(rows_of(group), TASKS[task])


def test_curves_of_a_table(tmp_path):
    made = panels(save_table(tmp_path))
    assert made.titles == ["training loss", "learning rate", "VE acc, validation (× 100)"]
    loss, rate, validation = made.curves
    assert loss["GCN"].values.shape == (2, STEPS)
    np.testing.assert_allclose(loss["pGNN"].values[1] - loss["GCN"].values[0], 2.0)
    np.testing.assert_allclose(rate["GCN"].values[0, 0], 1e-3)
    np.testing.assert_allclose(validation["GCN"].values, [[25, 50], [25, 50]])


def test_a_seed_that_stopped_earlier_ends_the_curve(tmp_path):
    table = save_table(tmp_path)
    file = table / "cells" / "gcn" / "ve" / "seed1" / "metrics.csv"
    file.write_text("\n".join(file.read_text().splitlines()[:11]))
    assert panels(table).curves[0]["GCN"].values.shape == (2, 10)


def test_runs_without_curves_have_none(tmp_path):
    table = save_table(tmp_path)
    for name in ("metrics.csv", "validation.csv"):
        for file in table.glob(f"cells/*/*/*/{name}"):
            file.unlink()
    assert panels(table) is None


@pytest.mark.parametrize("text", ["", "step,loss\n", "step,loss\n1,x\n", "loss\n1\n", "step,loss\n1\n", '"'])
def test_damaged_files_are_named(tmp_path, text):
    (tmp_path / "metrics.csv").write_text(text)
    with pytest.raises(UserError, match="metrics.csv is damaged"):
        read_columns(tmp_path / "metrics.csv")


def test_a_figure_is_drawn_for_pages_and_files(tmp_path):
    figure = draw(panels(save_table(tmp_path)))
    text = svg(figure, "mine")
    assert text.startswith("<svg") and "currentColor" in text and "http" not in text
    assert "training loss" in text and "GCN" in text and text == svg(figure, "mine")
    assert png(figure).startswith(b"\x89PNG")
