"""Maps of points in the plane (t-SNE, UMAP, PCA), and their quality."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from attngraph.extras import optional
from attngraph.extras import pandas as pd

METHODS = ("tsne", "umap", "pca")
EXAGGERATED, PLAIN = 250, 500  # iterations of t-SNE


@dataclass(frozen=True, eq=False)
class Map:
    """Points in the plane.

    Attributes:
        coordinates: ``(points, 2)``.
        place: function from new points ``(n, features)`` to their coordinates on this map, ``(n, 2)``,
            without changing it.
        method: one of ``METHODS``.
        perplexity, seed: settings of the map; None for PCA.
    """

    coordinates: np.ndarray
    place: Callable[[np.ndarray], np.ndarray]
    method: str
    perplexity: float | None
    seed: int | None


def least_points(method: str, perplexity: float) -> int:
    """The smallest number of points for a map.

    t-SNE uses three times the perplexity as the number of neighbours of each point, UMAP the perplexity.
    """
    return {"tsne": int(3 * perplexity) + 1, "umap": round(perplexity) + 1, "pca": 3}[method]


def maps(
    points: np.ndarray,
    method: str = "tsne",
    perplexities: Sequence[float] = (30,),
    seeds: Sequence[int] = (0,),
    jobs: int = 1,
) -> Iterator[Map]:
    r"""A map for each perplexity and seed.

    t-SNE (van der Maaten & Hinton 2008) looks for coordinates :math:`y` whose neighbourhoods resemble the
    points',

    .. math:: \min_y \sum_{ij} P_{ij} \log \frac{P_{ij}}{Q_{ij}}, \quad
              Q_{ij} \propto \frac{1}{1 + \lVert y_i - y_j \rVert^2},

    where the perplexity sets how many neighbours :math:`P` has. It is openTSNE's (Policar et al. 2024): exact
    neighbours, found once for all maps, 250 iterations with exaggeration 12 and 500 without. It starts from
    PCA, which keeps some of the large-scale arrangement. New points are placed against the points of the map
    only, not against each other.

    Args:
        points: ``(n, features)``; distances are Euclidean.
        method: ``"tsne"``; ``"umap"`` (McInnes et al. 2018), whose number of neighbours is then the
            perplexity; or ``"pca"``, the two directions of largest variance: one map, without perplexities
            and seeds.
        perplexities: one map or more for each.
        seeds: one map for each. t-SNE maps of different seeds are nearly the same.
        jobs: threads of t-SNE.

    Raises:
        ValueError: another method, points that are not finite, a perplexity below 1 (2 for UMAP), or
            too few points for it.
        UserError: the package of a method is not installed.
    """
    points = np.ascontiguousarray(points)
    _check(points, method, perplexities, seeds)
    if method == "pca":
        yield _pca(points)
        return
    if method == "umap":
        for perplexity in perplexities:
            for seed in seeds:
                yield _umap(points, perplexity, seed)
        return
    tsne = _TSNE(points, max(perplexities), jobs)
    for perplexity in perplexities:
        tsne.set_perplexity(perplexity)
        for seed in seeds:
            yield tsne.map(seed)


def _check(points: np.ndarray, method: str, perplexities: Sequence[float], seeds: Sequence[int]) -> None:
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if points.ndim != 2 or not np.isfinite(points).all():
        raise ValueError(
            f"points must be finite numbers of shape (points, features), got shape {points.shape}"
        )
    if not perplexities or not seeds or min(perplexities) < 1:
        raise ValueError(
            f"perplexities must be at least 1 and seeds not empty, got {perplexities} and {seeds}"
        )
    if method == "umap" and round(min(perplexities)) < 2:
        raise ValueError(
            "perplexities must be at least 2 for umap, which uses them as numbers of neighbours, "
            f"got {perplexities}"
        )
    least = least_points(method, max(perplexities))
    if len(points) < least:
        advice = f" with perplexity {max(perplexities):g}: pass more points or lower it"
        raise ValueError(
            f"{len(points)} points are too few for {method}, which needs {least}"
            + ("" if method == "pca" else advice)
        )


class _TSNE:
    """Maps of the same points by t-SNE; the neighbours are found once.

    Args:
        points: ``(n, features)``.
        most: the largest perplexity of all maps.
        jobs: threads.
    """

    def __init__(self, points: np.ndarray, most: float, jobs: int):
        self.points, self.perplexity, self.jobs = points, most, jobs
        self.affinities = optional("openTSNE.affinity").PerplexityBasedNN(
            points, perplexity=most, method="exact", n_jobs=jobs
        )
        self.weights = self.affinities.P

    def set_perplexity(self, perplexity: float) -> None:
        self.perplexity = perplexity
        self.affinities.set_perplexity(perplexity)
        self.weights = self.affinities.P

    def map(self, seed: int) -> Map:
        from openTSNE import TSNEEmbedding, initialization

        start = initialization.pca(self.points, random_state=seed)
        self.affinities.P = self.weights.copy()  # exaggeration rounds them, and small differences grow
        embedding = TSNEEmbedding(start, self.affinities, random_state=seed, n_jobs=self.jobs)
        embedding = embedding.optimize(EXAGGERATED, exaggeration=12, momentum=0.5)
        embedding = embedding.optimize(PLAIN, momentum=0.8)
        # centred as placing new points would centre it, so that placing moves nothing
        embedding -= (embedding.max(0) + embedding.min(0)) / 2

        def place(new: np.ndarray) -> np.ndarray:
            return np.array(embedding.transform(np.ascontiguousarray(new)))

        return Map(np.array(embedding), place, "tsne", self.perplexity, seed)


def _umap(points: np.ndarray, perplexity: float, seed: int) -> Map:
    # with a seed UMAP uses one thread, and warns unless that is asked for
    umap = optional("umap").UMAP(n_neighbors=round(perplexity), random_state=seed, init="pca", n_jobs=1)
    umap.fit(points)
    return Map(np.array(umap.embedding_), umap.transform, "umap", perplexity, seed)


def _pca(points: np.ndarray) -> Map:
    pca = optional("sklearn.decomposition").PCA(2, svd_solver="full").fit(points)
    return Map(pca.transform(points), pca.transform, "pca", None, None)


def purity(points: np.ndarray, labels: Sequence | np.ndarray, neighbours: int = 10) -> float:
    r"""kNN purity: the share of points' nearest neighbours that have the point's own label,

    .. math:: \frac{1}{nk} \sum_i \sum_{j \in N_k(i)} [y_i = y_j],

    over the points that have a label, in [0, 1]; :func:`chance_purity` is what labels unrelated to the points
    get.

    Args:
        points: ``(n, features)``, or coordinates on a map.
        labels: ``(n,)``, of any kind; None for a point without a label, which equals no other.
        neighbours: how many of them, fewer than points.

    Raises:
        ValueError: as many neighbours as points, another number of labels, or no label at all.
    """
    codes = _codes(labels, len(points))
    if not 1 <= neighbours < len(points):
        raise ValueError(
            f"neighbours must be in 1..{len(points) - 1} for {len(points)} points, got {neighbours}"
        )
    search = optional("sklearn.neighbors").NearestNeighbors(n_neighbors=neighbours)
    nearest = search.fit(points).kneighbors(return_distance=False)
    return float((codes[nearest] == codes[:, None])[codes >= 0].mean())


def chance_purity(labels: Sequence | np.ndarray) -> float:
    r"""The mean of :func:`purity` over random permutations of the labels:
    :math:`\sum_c n_c (n_c - 1) / ((n - 1) \sum_c n_c)`, with :math:`n_c` of the :math:`n` points of label
    :math:`c`."""
    codes = _codes(labels, len(labels))
    counts = np.bincount(codes[codes >= 0])
    return float((counts * (counts - 1)).sum() / (counts.sum() * (len(codes) - 1)))


def _codes(labels: Sequence | np.ndarray, points: int) -> np.ndarray:
    """A number for each different label; -1 for a missing one."""
    codes = pd.factorize(np.asarray(labels))[0]
    if len(codes) != points:
        raise ValueError(f"labels must be one per point, got {len(codes)} for {points} points")
    if (codes < 0).all():
        raise ValueError("labels are all missing: remove them")
    return codes


def quality(
    points: np.ndarray,
    coordinates: np.ndarray,
    labels: Mapping[str, Sequence],
    neighbours: int = 10,
    most: int = 3000,
    seed: int = 0,
) -> pd.DataFrame:
    r"""Quality of a map: its faithfulness, and how well labels separate the points and their map.

    Trustworthiness (Venna & Kaski 2001) is 1 if every point's neighbours on the map are its neighbours among
    the points, and about 0.5 on a random map. It takes time and memory quadratic in the number of points, so
    that of more than ``most`` points a random sample is measured, the same for all rows of the table.

    Args:
        points: ``(n, features)``, at least 3.
        coordinates: ``(n, 2)``, their map.
        labels: ``{name: (n,)}``, see :func:`purity`. Labels that are all missing, or all the same, are
            skipped.
        neighbours: number of neighbours; fewer if there are not twice as many points.
        most: largest number of points that are measured.
        seed: seed of the sample.

    Returns:
        a row for the map's ``trustworthiness``, and for each of the labels the ``purity`` among the points
        (``space`` "features") and on the ``map``: columns measure, label, space, value, chance, neighbours,
        measured (points).

    Raises:
        ValueError: fewer than 3 points, or arguments of different lengths.
    """
    if len(points) < 3 or len(points) != len(coordinates):
        raise ValueError(
            f"points and coordinates must be equally many, and at least 3, got {len(points)} and "
            f"{len(coordinates)}"
        )
    arrays = {name: np.asarray(given, dtype=object) for name, given in labels.items()}
    if len(points) > most:
        rows = np.sort(np.random.default_rng(seed).choice(len(points), most, replace=False))
        points, coordinates = points[rows], coordinates[rows]
        arrays = {name: given[rows] for name, given in arrays.items()}
    neighbours = min(neighbours, (len(points) - 1) // 2)
    trust = optional("sklearn.manifold").trustworthiness(points, coordinates, n_neighbors=neighbours)
    table = [("trustworthiness", "", "map", trust, 0.5)]
    for name, given in arrays.items():
        if pd.Series(given).nunique() < 2:
            continue
        for space, x in (("features", points), ("map", coordinates)):
            table.append(("purity", name, space, purity(x, given, neighbours), chance_purity(given)))
    frame = pd.DataFrame(table, columns=["measure", "label", "space", "value", "chance"])
    return frame.assign(neighbours=neighbours, measured=len(points))
