"""Maps on the picture and the mass inside a region, on values that are known."""

import numpy as np
import pandas as pd
import pytest
import torch

from attngraph.analysis.patches import map_table, mass_summary, mass_table, patch_grid, shares

NAMES = ["one", "two"]


def region() -> torch.Tensor:
    """Of 3 x 3 patches: the middle one, and the left column."""
    inside = torch.zeros(2, 9, dtype=torch.bool)
    inside[0, 4] = inside[1, 0::3] = True
    return inside


def test_patch_grid():
    for nodes, grid in (
        (65, (8, 8, 1)),
        (64, (8, 8, 0)),
        (577, (24, 24, 1)),
        (50, (7, 7, 1)),
        (1, (1, 1, 0)),
    ):
        assert patch_grid(nodes) == grid
    for nodes, grid, others in ((225, (14, 16), 1), (261, (16, 16), 5), (7, (2, 3), 1), (6, (3, 2), 0)):
        assert patch_grid(nodes, grid) == (*grid, others)
    for nodes, grid, merged in (
        (1, (4, 4), (1, 1)),
        (4, (4, 4), (2, 2)),
        (6, (8, 12), (2, 3)),
        (16, (8, 8), (4, 4)),
    ):
        assert patch_grid(nodes, grid) == (*merged, 0)  # by squares
    for nodes, grid in ((0, (4, 4)), (4, (16, 1)), (5, (4, 5))):
        with pytest.raises(ValueError, match=f"patches after at most 5 others .* got {nodes}"):
            patch_grid(nodes, grid)
    for nodes in (0, 63, 80, 70, 261, 7):
        with pytest.raises(ValueError, match=f"square number of patches, .* no grid is given, got {nodes}"):
            patch_grid(nodes)
    for rows, columns in ((15, 16), (14, 15), (0, 3)):
        message = f"nodes must be {rows} x {columns} patches after at most 5 others .* got 225"
        with pytest.raises(ValueError, match=message):
            patch_grid(225, (rows, columns))


def test_a_rectangle_of_patches():
    values = torch.tensor([[9.0, 1, 2, 3, 4, 0, 0]])  # [CLS] and 2 x 3 patches
    table = map_table({("raw", "first"): values}, ["one"], (2, 3)).set_index(["row", "column"])["share"]
    assert table[0, 2] == 0.3 and table[1, 0] == 0.4 and table.index.max() == (1, 2)
    both = {("raw", "first"): values.expand(2, -1), ("raw", "answer"): values.flip(1)[:, :7].expand(2, -1)}
    named = map_table(both, NAMES, (2, 3)).set_index(["example", "query", "row", "column"])
    assert len(named) == 24 and named.share["two", "answer", 0, 1] == pytest.approx(4 / 19)
    assert named.lift["one", "first", 0, 2] == pytest.approx(6 * 0.3)
    with pytest.raises(ValueError, match="at least 0, got -9"):
        shares(-values, (2, 3))
    inside = torch.tensor([[False, False, True, True, False, False]])
    assert mass_table({("raw", "first"): values}, inside, ["one"], (2, 3))["mass"].tolist() == pytest.approx(
        [0.7]
    )
    with pytest.raises(ValueError, match="where no grid is given, got 7"):
        map_table({("raw", "first"): values}, ["one"])


def test_mass_inside_a_region():
    def masses(values):
        return mass_table({("raw", "answer"): values}, region(), NAMES)

    values = torch.ones(2, 10)
    values[0] = 0  # everywhere, which is counted apart
    summary, third = mass_summary(masses(values)), pytest.approx(3 / 9)
    assert summary.loc[0, ["examples", "empty", "mass", "uniform"]].tolist() == [1, 1, third, third]
    table = masses(torch.arange(20.0).view(2, 10))  # [CLS] is 0 and 10
    assert table["mass"].tolist() == pytest.approx([5 / 45, (11 + 14 + 17) / sum(range(11, 20))])
    assert table["uniform"].tolist() == pytest.approx([1 / 9, 3 / 9])
    everywhere = masses(torch.full((2, 10), 0.1))
    assert everywhere["mass"].tolist() == pytest.approx(everywhere["uniform"].tolist())
    assert masses(torch.cat([torch.ones(2, 1), region().float()], 1))["mass"].tolist() == [1, 1]
    with pytest.raises(ValueError, match=r"inside must have shape \(2, 9\), got \(2, 10\)"):
        mass_table({("raw", "answer"): torch.ones(2, 10)}, torch.ones(2, 10, dtype=torch.bool), NAMES)


def test_the_summary_is_of_examples_and_paired_with_the_uniform_map():
    draw = np.random.default_rng(0)
    n = 400
    uniform = draw.uniform(0.05, 0.15, n)
    mass = uniform + draw.normal(0.2, 0.05, n)
    table = pd.DataFrame(
        {"example": range(n), "method": "raw", "query": "answer", "mass": mass, "uniform": uniform}
    )
    table.loc[3, "mass"] = float("nan")
    raw, last = mass_summary(table).to_dict("records")
    defined = table.dropna()
    assert (raw["examples"], raw["empty"], last["method"], last["examples"]) == (n - 1, 1, "uniform", n)
    assert raw["mass"] == pytest.approx(defined["mass"].mean()) and last["mass"] == pytest.approx(
        uniform.mean()
    )
    error = defined["mass"].std() / (n - 1) ** 0.5
    assert raw["high"] - raw["mass"] == pytest.approx(1.96 * error, rel=0.1)
    assert raw["mass"] - raw["low"] == pytest.approx(1.96 * error, rel=0.1)
    paired = (defined["mass"] - defined["uniform"]).std() / (n - 1) ** 0.5
    assert raw["excess"] == pytest.approx(0.2, abs=4 * paired)
    assert raw["excess_high"] - raw["excess_low"] == pytest.approx(3.92 * paired, rel=0.1)
    assert mass_summary(table).equals(mass_summary(table))
