"""Maps against published data, scikit-learn and planted clouds."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.manifold import trustworthiness
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsClassifier

from attngraph.analysis.embedding import chance_purity, least_points, maps, purity, quality


def knn_accuracy(x, y):
    return cross_val_score(KNeighborsClassifier(5), x, y, cv=5).mean()


def clouds(n=80, features=6, apart=8.0, seed=0):
    draw = np.random.default_rng(seed)
    points = draw.normal(size=(2 * n, features))
    points[n:, 0] += apart
    return points, np.repeat(["query", "value"], n)


def test_iris_classes_part_on_the_map():
    data = load_iris()
    (embedded,) = maps(data.data)
    random = np.random.default_rng(0).normal(size=(len(data.data), 2))
    assert knn_accuracy(random, data.target) < 0.5
    assert knn_accuracy(embedded.coordinates, data.target) > 0.95


def test_a_sweep_gives_the_maps_of_single_runs():
    points, _ = clouds(25)
    swept = list(maps(points, perplexities=[5, 10], seeds=[0, 1]))
    assert [(embedded.perplexity, embedded.seed) for embedded in swept] == [(5, 0), (5, 1), (10, 0), (10, 1)]
    (alone,) = maps(points, perplexities=[10], seeds=[1])
    np.testing.assert_array_equal(swept[3].coordinates, alone.coordinates)
    for embedded in swept[:3]:
        assert np.abs(embedded.coordinates - alone.coordinates).max() > 1


@pytest.mark.parametrize("method", ["tsne", "pca"])
def test_placed_points_land_near_their_neighbours(method):
    points, roles = clouds(50)
    (embedded,) = maps(points, method, [15])
    before = embedded.coordinates.copy()
    own = embedded.place(points)
    spread = np.linalg.norm(before[:, None] - before, axis=2)
    assert np.median(np.linalg.norm(own - before, axis=1)) < 0.1 * np.median(spread)
    nearest = np.linalg.norm(embedded.place(clouds(50, seed=1)[0])[:, None] - before, axis=2).argmin(1)
    assert (roles[nearest] == roles).mean() > 0.98
    np.testing.assert_array_equal(embedded.coordinates, before)
    np.testing.assert_allclose(embedded.place(points), own)


def test_pca_keeps_the_most_variance():
    points, _ = clouds()
    (embedded,) = maps(points, "pca", [5, 30], [0, 1])
    singular = np.linalg.svd(points - points.mean(0), compute_uv=False)
    np.testing.assert_allclose(np.linalg.norm(embedded.coordinates, axis=0), singular[:2])
    assert embedded.perplexity is None and embedded.seed is None


@pytest.mark.slow
def test_umap_parts_clouds_and_places_new_points():
    pytest.importorskip("umap")
    points, roles = clouds(40)
    (embedded,), (again,) = (maps(points, "umap", [10], [3]) for _ in range(2))
    assert purity(embedded.coordinates, roles) > 0.95
    np.testing.assert_array_equal(embedded.coordinates, again.coordinates)
    nearest = np.linalg.norm(embedded.place(points + 1e-3)[:, None] - embedded.coordinates, axis=2).argmin(1)
    assert (roles[nearest] == roles).mean() > 0.95


def test_arguments_that_are_refused():
    for wrong, message in (
        (dict(method="mds"), "method"),
        (dict(perplexities=[0.5]), "perplexities"),
        (dict(method="umap", perplexities=[30, 1.4]), "perplexities must be at least 2 for umap"),
        (dict(seeds=[]), "seeds"),
        (dict(points=np.full((100, 3), np.nan)), "finite"),
    ):
        with pytest.raises(ValueError, match=message):
            list(maps(**dict(points=clouds()[0]) | wrong))
    for method, perplexity in (("tsne", 30), ("tsne", 5.5), ("umap", 15), ("pca", 30)):
        few = clouds()[0][: least_points(method, perplexity) - 1]
        with pytest.raises(ValueError, match=f"{len(few)} points are too few .* {len(few) + 1}"):
            list(maps(few, method, [perplexity]))


def brute_purity(points, labels, k):
    """Over the points that have a label; their neighbours may be without one."""
    shares = []
    for i, x in enumerate(points):
        near = sorted((float(((x - y) ** 2).sum()), j) for j, y in enumerate(points) if j != i)[:k]
        if labels[i] is not None:
            shares.append(np.mean([labels[j] == labels[i] for _, j in near]))
    return np.mean(shares)


@pytest.mark.parametrize("labels", [["a"] * 30 + ["b"] * 30, ["a"] * 20 + ["b"] * 10 + [None] * 30])
def test_purity_equals_a_count_by_hand(labels):
    """And its chance the mean over shuffled labels."""
    points, labels = clouds(30, apart=1.5)[0], np.array(labels, dtype=object)
    for neighbours in (1, 7, 59):
        found = purity(points, labels, neighbours)
        assert found == pytest.approx(brute_purity(points, labels, neighbours))
    for neighbours in (0, 60):
        with pytest.raises(ValueError, match=rf"be in 1\.\.59 for 60 points, got {neighbours}"):
            purity(points, labels, neighbours)
    shuffled = [purity(points, np.random.default_rng(k).permutation(labels), 7) for k in range(300)]
    assert chance_purity(labels) == pytest.approx(np.mean(shuffled), abs=0.008)
    assert purity(points, ["a"] * 60) == chance_purity(["a"] * 60) == 1
    with pytest.raises(ValueError, match="labels are all missing"):
        purity(points, [None] * 60)


def test_quality_is_scikit_learns_on_all_points_or_a_sample():
    points, labels = clouds()
    coordinates = points[:, :2] + np.random.default_rng(5).normal(size=(len(points), 2))
    rows = np.sort(np.random.default_rng(2).choice(len(points), 60, replace=False))
    for most, kept in ((len(points), slice(None)), (60, rows)):
        table = quality(points, coordinates, {"role": labels}, most=most, seed=2)
        table, few, place = table.set_index(["measure", "space"]), points[kept], coordinates[kept]
        assert table.value["trustworthiness", "map"] == trustworthiness(few, place, n_neighbors=10)
        assert table.value["purity", "features"] == purity(few, labels[kept])
        assert table.value["purity", "map"] == purity(place, labels[kept])
        assert (table.measured == len(few)).all() and (table.neighbours == 10).all()
    for few, neighbours in ((9, 4), (3, 1)):  # fewer than half of the points
        assert quality(points[:few], coordinates[:few], {}).neighbours.tolist() == [neighbours]
    for wrong in (points[:2], coordinates[:2]), (points, coordinates[1:]):
        with pytest.raises(ValueError, match="equally many, and at least 3"):
            quality(*wrong, {})
    random = np.random.default_rng(1).normal(size=(len(points), 2))
    table = quality(points, random, {}).iloc[0]
    assert table.value == pytest.approx(table.chance, abs=0.05)  # a random map is trusted by half
