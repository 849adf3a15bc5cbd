"""The contrast of distances against loops over edges, identities, and planted answers."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import pad

from attngraph import AttentionGraph
from attngraph.adapters.pgnn import PGNN
from attngraph.analysis.bipartite import Bipartite
from attngraph.analysis.contrast import Contrast, Region, contrast, queries_per_value, square_distances
from attngraph.analysis.nulls import Draws
from tests.analysis.example_graphs import random_graph

FIELDS = ("contrast", "raw", "auc", "distractor_mass")
GRAPHS = [
    ({}, "sum"),
    ({"causal": True}, "mean"),
    ({"kind": "self", "causal": True}, "sum"),
    ({"kind": "self"}, "mean"),
    ({"softmax": False, "padding": False, "metric": False}, "sum"),
]


def random_region(graph: AttentionGraph, seed: int = 0, share: float = 0.4) -> Region:
    b, _, n, m, _ = graph.shape
    draw = torch.Generator().manual_seed(seed)
    relevant = torch.rand(b, n, m, generator=draw) < share
    relevant[:, 1] = False  # a query whose region is not known
    return Region(relevant)


def loops(graph: AttentionGraph, region: Region, degree: str) -> dict[str, torch.Tensor]:
    """The definition, an edge after the other."""
    b, h, n, m, d = graph.shape
    metric = torch.eye(d).double().expand(h, d, d) if graph.metric is None else graph.metric
    visible = torch.ones(b, n, m, dtype=torch.bool) if graph.visible is None else graph.visible
    visible = visible.expand(b, n, m)
    rows = torch.ones(b, n, dtype=torch.bool) if graph.query_mask is None else graph.query_mask
    found = {name: torch.full((b, h), torch.nan, dtype=torch.float64) for name in FIELDS}
    for e in range(b):
        for k in range(h):
            values = {name: [] for name in FIELDS}
            for i in range(n):
                last = i if graph.causal else n - 1
                near, far = [], []
                for j in range(m):
                    weight = graph.weight[e, k, i, j].item()
                    if not weight or not region.relevant[e, i].any():
                        continue
                    value_degree = sum(graph.weight[e, k, q, j].item() for q in range(last + 1))
                    if degree == "mean":
                        seen = visible[e, i] if graph.causal else visible[e].any(0)
                        value_degree *= seen.sum().item() / rows[e, : last + 1].sum().item()
                    query_degree = sum(graph.weight[e, k, i].tolist())
                    x = graph.query[e, k, i] / query_degree**0.5 - graph.value[e, k, j] / value_degree**0.5
                    pair = weight, (x @ metric[k] @ x).item()
                    (near if region.relevant[e, i, j] else far).append(pair)
                if near:  # a region of which nothing is visible is not known
                    mass = [sum(w for w, _ in side) for side in (near, far)]
                    values["distractor_mass"].append(mass[1] / sum(mass))
                if near and far:
                    means = [sum(w * r for w, r in side) / sum(w for w, _ in side) for side in (near, far)]
                    values["raw"].append(means[1] - means[0])
                    values["contrast"].append((means[1] - means[0]) / sum(means))
                    pairs = sum(w * v for w, _ in near for v, _ in far)
                    wins = sum(w * v * ((r < s) + (r == s) / 2) for w, r in near for v, s in far)
                    values["auc"].append(wins / pairs)
            for name, numbers in values.items():
                if numbers:
                    found[name][e, k] = sum(numbers) / len(numbers)
    return found


def same(found: Contrast, expected: Contrast, names=FIELDS) -> bool:
    return all(
        torch.allclose(getattr(found, name), getattr(expected, name), rtol=1e-9, equal_nan=True)
        for name in names
    )


@pytest.mark.parametrize("options, degree", GRAPHS)
def test_against_loops(options, degree):
    """And with p = 3 the weights of pGNN are M^(3/2) R."""
    graph = random_graph(**options)
    region = random_region(graph)
    found, expected = contrast(graph, region, degree), loops(graph, region, degree)
    for name in FIELDS:
        assert torch.allclose(getattr(found, name), expected[name], rtol=1e-9, equal_nan=True), name
        assert not expected[name].isnan().any()
    weight = PGNN(p=3, learn_p=False, degree=degree).reweight(graph)
    expected = graph.weight.pow(1.5) * square_distances(graph, degree).sqrt()
    assert torch.allclose(weight, expected, rtol=1e-9)


def test_ties_in_distance_count_one_half():
    """Values in pairs of one point and one degree; the heads' weights differ."""
    graph = random_graph(padding=False, m=6)
    twice = replace(
        graph,
        value=graph.value.repeat_interleave(2, 2),
        weight=(graph.weight * torch.linspace(1, 2, 5).double()[:, None]).repeat_interleave(2, 3) / 2,
        value_mask=None,
    )
    region = random_region(twice)
    found, expected = contrast(twice, region), loops(twice, region, "sum")
    assert torch.allclose(found.auc, expected["auc"], rtol=1e-9)
    square = square_distances(twice)
    assert torch.equal(square[..., ::2], square[..., 1::2])  # ties they are


@pytest.mark.parametrize("near, far", [(1.0, 3.0), (3.0, 1.0)])
def test_planted_distances(near, far):
    """Queries at the origin, degrees of 1, so that R is the length of the value: 2 of 8 values are relevant,
    with half of the weight."""
    lengths = torch.tensor([near] * 2 + [far] * 6).double()
    value = torch.zeros(8, 3).double()
    value[:, 0] = lengths
    row = torch.tensor([1 / 4] * 2 + [1 / 12] * 6).double()
    # so many queries that every value has the degree 1 by the mean: e = m M for equal rows
    weight = row.expand(1, 1, 5, 8)
    graph = AttentionGraph(torch.zeros(1, 1, 5, 3).double(), value[None, None], weight)
    relevant = torch.zeros(1, 5, 8, dtype=torch.bool)
    relevant[..., :2] = True
    found = contrast(graph, Region(relevant), "mean")
    squares = near**2 / (8 / 4), far**2 / (8 / 12)
    assert found.raw.item() == pytest.approx(squares[1] - squares[0])
    assert found.contrast.item() == pytest.approx((squares[1] - squares[0]) / sum(squares))
    assert found.auc.item() == (1 if squares[1] > squares[0] else 0)
    assert found.distractor_mass.item() == pytest.approx(0.5)


def test_padding(degree="mean"):
    graph = random_graph(padding=False)
    region = random_region(graph)
    b, _, n, m, _ = graph.shape
    rows, columns = (torch.arange(size + 2) < size for size in (n, m))
    noise = random_graph(seed=9, n=n + 2, m=m + 2, padding=False)
    wide = AttentionGraph(
        torch.cat([graph.query, noise.query[:, :, n:]], 2),
        torch.cat([graph.value, noise.value[:, :, m:]], 2),
        pad(graph.weight, (0, 2, 0, 2), value=0.3),
        rows.expand(b, -1),
        columns.expand(b, -1),
        metric=graph.metric,
    )
    relevant = pad(region.relevant, (0, 2, 0, 2), value=True)
    assert same(contrast(wide, Region(relevant), degree), contrast(graph, region, degree))
    one, other = (queries_per_value(Bipartite.of(x)) for x in (wide, graph))
    assert torch.equal(one, other) and torch.equal(one, torch.full_like(one, n / m))


def test_candidates_bound_the_distractors():
    """A value that is no candidate is as good as one without weight, but for its part in the degrees."""
    graph = random_graph(padding=False)
    region = random_region(graph)
    candidates = (torch.arange(7) > 0).expand(2, 7)
    found = contrast(graph, Region(region.relevant, candidates)).distractor_mass
    kept = replace(graph, value_mask=candidates)
    want = contrast(kept, Region(region.relevant & candidates[:, None])).distractor_mass
    assert torch.allclose(found, want, equal_nan=True)
    assert not torch.allclose(found, contrast(graph, region).distractor_mass)


def test_unknown_regions_are_undefined():
    graph = random_graph()
    nothing = contrast(graph, Region(torch.zeros(2, 5, 7, dtype=torch.bool)))
    assert all(getattr(nothing, name).isnan().all() for name in FIELDS)
    everything = contrast(graph, Region(torch.ones(2, 5, 7, dtype=torch.bool)))
    assert everything.contrast.isnan().all() and (everything.distractor_mass == 0).all()


def test_elsewhere_is_a_shift_on_the_grid():
    """Form and size stay; the place never does; a query's regions move together."""
    b, n, rows, columns = 100, 3, 3, 4
    graph = random_graph(b=b, n=n, m=rows * columns + 2, padding=False, metric=False)
    candidates = torch.ones(b, rows * columns + 2, dtype=torch.bool)
    candidates[:, 0] = candidates[:, -1] = False
    relevant = torch.zeros(b, n, rows, columns, dtype=torch.bool)
    relevant[:, 0, 1, 1:3] = True
    relevant[:, 2, 0, 0] = True
    given = pad(relevant.flatten(2), (1, 1), value=True)  # what is no candidate is relevant nowhere
    region = Region(given.clone(), candidates, [(rows, columns)] * b)
    draws = Draws(0, "x", 0)
    moved = region.elsewhere(graph, draws)
    shifts = set()
    for k in range(b):
        after = moved.relevant[k, :, 1:-1].unflatten(1, (rows, columns))
        options = [
            (dy, dx)
            for dy in range(rows)
            for dx in range(columns)
            if torch.equal(relevant[k].roll((dy, dx), (1, 2)), after)
        ]
        assert len(options) == 1 and options[0] != (0, 0)
        shifts.add(options[0])
    assert len(shifts) == rows * columns - 1 and not moved.relevant[..., [0, -1]].any()
    assert torch.equal(region.relevant, given)  # left alone
    for few in (torch.arange(14) == 3, torch.arange(14) < 0):  # with one candidate or none it stays
        kept = Region((region.relevant & few), few.expand(b, -1))
        assert torch.equal(kept.elsewhere(graph, draws).relevant, kept.relevant)
    again = region.elsewhere(graph, draws)
    assert not torch.equal(again.relevant, moved.relevant)
    half = Region(region.relevant[20:], candidates[20:], [(rows, columns)] * (b - 20))
    fields = ("query", "value", "weight", "query_mask", "value_mask")
    part = replace(graph, **{name: getattr(graph, name)[20:] for name in fields})
    assert torch.equal(half.elsewhere(part, Draws(0, "x", 20)).relevant, moved.relevant[20:])


def test_errors():
    for make, words in (
        (lambda: Region(torch.ones(2, 5, 7)), "relevant must be bool"),
        (lambda: Region(torch.ones(2, 5, 7).bool(), torch.ones(2, 5).bool()), "candidates must be bool"),
        (lambda: Region(torch.ones(2, 5, 7).bool(), torch.ones(2, 7).bool(), [(2, 3)] * 2), "grids must"),
        (lambda: contrast(random_graph(), Region(torch.ones(2, 5, 6).bool())), "relevant must have shape"),
    ):
        with pytest.raises(ValueError, match=words):
            make()


def test_sides_that_change_places_change_the_sign():
    graph = random_graph(padding=False)
    region = random_region(graph)
    known = region.relevant.any(2, keepdim=True)
    one, other = contrast(graph, region), contrast(graph, Region(~region.relevant & known))
    assert torch.allclose(one.contrast, -other.contrast) and torch.allclose(one.raw, -other.raw)
    assert torch.allclose(one.auc, 1 - other.auc)
    assert torch.allclose(one.distractor_mass, 1 - other.distractor_mass)
