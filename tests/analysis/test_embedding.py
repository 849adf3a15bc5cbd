"""Maps against published data, scikit-learn and planted clouds."""

from __future__ import annotations

import sys
from itertools import combinations

import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.manifold import trustworthiness
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsClassifier

from analysis.embedding import ITERATIONS, chance_purity, least_points, maps, purity, quality
from attngraph.errors import UserError


def knn_accuracy(x, y):
    return cross_val_score(KNeighborsClassifier(5), x, y, cv=5).mean()


def clouds(n=80, features=6, apart=8.0, seed=0):
    draw = np.random.default_rng(seed)
    points = draw.normal(size=(2 * n, features))
    points[n:, 0] += apart
    return points, np.repeat(["query", "value"], n)


@pytest.fixture(scope="module")
def iris_map():
    data = load_iris()
    done = []
    (embedded,) = maps(data.data, progress=lambda steps: done.append(steps) or True)
    return data.data, data.target, embedded, sum(done)


def test_iris_classes_part_on_the_map(iris_map):
    points, classes, embedded, _ = iris_map
    random = np.random.default_rng(0).normal(size=(len(points), 2))
    assert knn_accuracy(random, classes) < 0.5
    assert knn_accuracy(embedded.coordinates, classes) > 0.95


def test_a_random_start_is_led_there_too():
    from openTSNE import initialization

    data = load_iris()
    start = initialization.random(len(data.data), random_state=1)
    assert knn_accuracy(start, data.target) < 0.5
    (embedded,) = maps(data.data, seeds=[1], init="random")
    assert knn_accuracy(embedded.coordinates, data.target) > 0.95


def test_progress_counts_every_iteration(iris_map):
    assert iris_map[3] == ITERATIONS


def test_same_seed_same_coordinates(iris_map):
    points, _, embedded, _ = iris_map
    (again,) = maps(points)
    np.testing.assert_array_equal(again.coordinates, embedded.coordinates)


def test_a_sweep_gives_the_maps_of_single_runs():
    points, _ = clouds(40)
    swept = list(maps(points, perplexities=[5, 20], seeds=[0, 1], init="random"))
    assert [(embedded.perplexity, embedded.seed) for embedded in swept] == [(5, 0), (5, 1), (20, 0), (20, 1)]
    for embedded in (swept[1], swept[3]):  # the second seed of either perplexity
        (alone,) = maps(points, perplexities=[embedded.perplexity], seeds=[embedded.seed], init="random")
        np.testing.assert_array_equal(embedded.coordinates, alone.coordinates)
    for embedded, other in combinations(swept, 2):
        assert np.abs(embedded.coordinates - other.coordinates).max() > 1


@pytest.mark.parametrize("method", ["tsne", "pca"])
def test_placed_points_land_near_their_neighbours(method):
    points, roles = clouds()
    (embedded,) = maps(points, method, [15])
    before = embedded.coordinates.copy()
    own = embedded.place(points)
    moved = np.linalg.norm(own - before, axis=1)
    spread = np.linalg.norm(before[:, None] - before, axis=2)
    assert np.median(moved) < 0.1 * np.median(spread)
    new, _ = clouds(seed=1)
    nearest = np.linalg.norm(embedded.place(new)[:, None] - before, axis=2).argmin(1)
    assert (roles[nearest] == roles).mean() > 0.98
    np.testing.assert_array_equal(embedded.coordinates, before)
    np.testing.assert_allclose(embedded.place(points), own)


def test_placing_points_does_not_shift_them_against_a_lopsided_map():
    points, _ = clouds(30)
    points = np.concatenate([points[:35], points[:30, ::-1] * 0.1])
    (embedded,) = maps(points, perplexities=[5])
    middle = (embedded.coordinates.max(0) + embedded.coordinates.min(0)) / 2
    np.testing.assert_allclose(
        middle, 0, atol=1e-9
    )  # openTSNE centres its map like this before it places points
    assert np.abs(embedded.coordinates.mean(0)).max() > 0.1  # and not by itself


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


def test_without_umap_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(UserError, match="pip install"):
        list(maps(clouds()[0], "umap"))


def test_equal_points_do_no_harm():
    points = np.repeat(np.random.default_rng(0).normal(size=(5, 3)), 30, 0)
    (embedded,) = maps(points, perplexities=[10])
    assert np.isfinite(embedded.coordinates).all()
    assert purity(embedded.coordinates, np.repeat(np.arange(5), 30)) == 1


@pytest.mark.parametrize("method, perplexity", [("tsne", 30), ("tsne", 5.5), ("umap", 15), ("pca", 30)])
def test_too_few_points_are_refused(method, perplexity):
    few = np.random.default_rng(0).normal(size=(least_points(method, perplexity) - 1, 4))
    with pytest.raises(ValueError, match=f"{len(few)} points are too few .* {len(few) + 1}"):
        list(maps(few, method, [perplexity]))


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"method": "mds"}, "method"),
        ({"init": "spectral"}, "init"),
        ({"perplexities": [0.5]}, "perplexities"),
        ({"seeds": []}, "seeds"),
    ],
)
def test_other_arguments_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        list(maps(clouds()[0], **wrong))


@pytest.mark.parametrize("perplexity", [1, 1.4])
def test_umap_needs_two_neighbours(perplexity):
    with pytest.raises(ValueError, match="perplexities must be numbers from 2 on for umap"):
        next(maps(np.random.default_rng(0).normal(size=(20, 3)), "umap", [30, perplexity]))


def test_points_must_be_finite():
    with pytest.raises(ValueError, match="finite"):
        list(maps(np.full((100, 3), np.nan)))


def brute_purity(points, labels, k):
    shares = []
    for i, x in enumerate(points):
        distances = [(float(((x - y) ** 2).sum()), j) for j, y in enumerate(points) if j != i]
        shares.append(np.mean([labels[j] == labels[i] for _, j in sorted(distances)[:k]]))
    return np.mean(shares)


@pytest.mark.parametrize("apart", [0.0, 1.5])
def test_purity_equals_a_count_by_hand(apart):
    points, labels = clouds(30, apart=apart)
    assert purity(points, labels, 7) == pytest.approx(brute_purity(points, labels, 7))


def test_purity_of_planted_clouds():
    far, labels = clouds(150, apart=20.0)
    assert purity(far, labels) == 1
    together, _ = clouds(150, apart=0.0)
    assert purity(together, labels) == pytest.approx(chance_purity(labels), abs=0.05)
    assert purity(together, np.array(["all"] * 300)) == chance_purity(["all"] * 300) == 1


def test_chance_purity_is_the_mean_over_shuffled_labels():
    points, _ = clouds(30)
    labels = np.repeat([0, 1, 2], [40, 15, 5])
    shuffled = [purity(points, np.random.default_rng(k).permutation(labels)) for k in range(200)]
    assert chance_purity(labels) == pytest.approx(np.mean(shuffled), abs=0.005)


def test_points_without_a_label_count_as_neighbours_only():
    points, _ = clouds(30, apart=0.0)
    labels = np.array(["a"] * 20 + ["b"] * 10 + [None] * 30, dtype=object)
    shares = [
        np.mean([labels[j] == labels[i] for j in np.argsort(np.linalg.norm(points - points[i], axis=1))[1:8]])
        for i in range(30)
    ]
    assert purity(points, labels, 7) == pytest.approx(np.mean(shares))
    shuffled = [purity(points, np.random.default_rng(k).permutation(labels), 7) for k in range(300)]
    assert chance_purity(labels) == pytest.approx(np.mean(shuffled), abs=0.005)
    with pytest.raises(ValueError, match="missing"):
        purity(points, [None] * 60)
    labelled = {"class": labels, "token": [None] * 60, "modality": ["text"] * 60}
    assert set(quality(points, points[:, :2], labelled).label) == {"", "class"}


def test_quality_is_scikit_learns_on_all_points_or_a_sample():
    points, labels = clouds()
    draw = np.random.default_rng(5)
    coordinates = points[:, :2] + draw.normal(size=(len(points), 2))
    table = quality(points, coordinates, {"role": labels}).set_index(["measure", "space"])
    assert table.value["trustworthiness", "map"] == trustworthiness(points, coordinates, n_neighbors=10)
    assert table.value["purity", "features"] == purity(points, labels)
    assert table.value["purity", "map"] == purity(coordinates, labels)
    assert (table.measured == len(points)).all() and (table.neighbours == 10).all()

    sampled = quality(points, coordinates, {"role": labels}, most=60, seed=2).set_index(["measure", "space"])
    rows = np.sort(np.random.default_rng(2).choice(len(points), 60, replace=False))
    assert (sampled.measured == 60).all()
    assert sampled.value["trustworthiness", "map"] == trustworthiness(
        points[rows], coordinates[rows], n_neighbors=10
    )
    assert sampled.value["purity", "features"] == purity(points[rows], labels[rows])


def test_a_random_map_is_trusted_by_half():
    points, labels = clouds(300)
    random = np.random.default_rng(1).normal(size=(len(points), 2))
    table = quality(points, random, {}).iloc[0]
    assert table.value == pytest.approx(table.chance, abs=0.03)


def test_labels_and_lengths_are_checked():
    points, labels = clouds(10)
    with pytest.raises(ValueError, match="one per point"):
        purity(points, labels[1:])
    with pytest.raises(ValueError, match="neighbours"):
        purity(points, labels, 20)
    with pytest.raises(ValueError, match="equally many"):
        quality(points, points[1:, :2], {})
