"""Values on image nodes as maps over the image, and the fraction of a map inside a region."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isqrt, prod
from typing import TypeAlias

import numpy as np
from torch import Tensor

from attngraph.analysis.bootstrap import Means
from attngraph.extras import pandas as pd

OTHERS = 5  # the most image nodes that are not patches: [CLS], distillation token, registers

Grid: TypeAlias = tuple[int, int]  # rows and columns of patches


def patch_grid(nodes: int, grid: Grid | None = None) -> tuple[int, int, int]:
    """Rows and columns of the grid of patches among image nodes, and the number of other nodes ([CLS],
    registers) before them.

    Args:
        nodes: the number of image nodes.
        grid: rows and columns. Squares of 2 x 2 patches or more may have become one node each (Swin,
            SmolVLM), without other nodes then. Default: a square with at most one node before it.

    Raises:
        ValueError: the grid does not fit the nodes, or no grid was given and the nodes do not form a square.
    """
    if grid is None:
        side = isqrt(max(nodes, 0))
        if nodes < 1 or nodes - side**2 > 1:
            raise ValueError(
                "nodes must be a square number of patches, with or without a [CLS] before, where no grid is "
                f"given, got {nodes}"
            )
        return side, side, nodes - side**2
    others = nodes - prod(grid)
    if min(grid) >= 1 and 0 <= others <= OTHERS:
        return *grid, others
    merged = isqrt(prod(grid) // nodes) if nodes > 0 else 1
    if merged > 1 and not any(side % merged for side in grid) and nodes * merged**2 == prod(grid):
        return grid[0] // merged, grid[1] // merged, 0
    raise ValueError(
        f"nodes must be {grid[0]} x {grid[1]} patches after at most {OTHERS} others ([CLS], registers), or "
        f"these merged by squares, got {nodes}"
    )


def shares(values: Tensor, grid: Grid | None = None) -> Tensor:
    r"""Values of the patches, divided by their sum, ``(b, patches)``: nodes before the grid are dropped.

    An example whose values are all 0 gets NaN.

    Args:
        values: ``(b, m)``, at least 0, for all image nodes.
        grid: see :func:`patch_grid`.

    Raises:
        ValueError: a negative value, or see :func:`patch_grid`.
    """
    if (values < 0).any():
        raise ValueError(f"values must be at least 0, got {float(values.min()):g}")
    patches = values[:, patch_grid(values.shape[1], grid)[2] :]
    patches = patches.double() if patches.device.type != "mps" else patches
    return patches / patches.sum(-1, keepdim=True)


def map_table(
    values: Mapping[tuple[str, str], Tensor], names: Sequence[str], grid: Grid | None = None
) -> pd.DataFrame:
    """A row per patch.

    Args:
        values: ``{(method, query): (b, m)}``, values of all image nodes.
        names: of the examples.
        grid: see :func:`patch_grid`.

    Returns:
        Columns example, method, query, row, column (of the patch), share of the patches' sum, and lift: the
        share as a multiple of the uniform map's.

    Raises:
        ValueError: see :func:`shares`.
    """
    tables = []
    for (method, query), nodes in values.items():
        rows, columns, _ = patch_grid(nodes.shape[1], grid)
        share, count = shares(nodes, grid).cpu().numpy().ravel(), rows * columns
        patch = np.tile(np.arange(count), len(names))
        tables.append(
            pd.DataFrame(
                {
                    "example": np.repeat(list(names), count),
                    "method": method,
                    "query": query,
                    "row": patch // columns,
                    "column": patch % columns,
                    "share": share,
                    "lift": share * count,
                }
            )
        )
    return pd.concat(tables, ignore_index=True)


def map_changes(table: pd.DataFrame, before: str, after: str) -> pd.DataFrame:
    """Differences of maps that were read from two kinds of weights, such as M and M̄.

    Args:
        table: of :func:`map_table`, with methods ``"<method> <kind>"``.
        before, after: the two kinds.

    Returns:
        The same columns, for each method with both kinds: share and lift of ``after`` less those of
        ``before``.
    """
    parts = table["method"].str.rpartition(" ")
    keys = ["example", "method", "query", "row", "column"]
    first, second = (table.assign(method=parts[0])[parts[2] == kind] for kind in (before, after))
    pairs = first.merge(second, on=keys, suffixes=("_before", "_after"))
    changes = {name: pairs[f"{name}_after"] - pairs[f"{name}_before"] for name in ("share", "lift")}
    return pairs[keys].assign(method=pairs["method"] + f" {after} − {before}", **changes)


def mass_table(
    values: Mapping[tuple[str, str], Tensor], inside: Tensor, names: Sequence[str], grid: Grid | None = None
) -> pd.DataFrame:
    r"""The share of each map inside a region: :math:`\sum_{j \in S} r_j / \sum_j r_j` over the patches j.

    Args:
        values: ``{(method, query): (b, m)}``, values of all image nodes.
        inside: bool ``(b, patches)``, the region S of each example.
        names: of the examples.
        grid: see :func:`patch_grid`.

    Returns:
        Columns example, method, query, mass in [0, 1] (NaN for a map that is 0 everywhere), and uniform: the
        mass of a map that is the same everywhere, the region's share of the patches.

    Raises:
        ValueError: a region of another size than the map, or see :func:`shares`.
    """
    tables = []
    for (method, query), nodes in values.items():
        share = shares(nodes, grid)
        if inside.shape != share.shape:
            raise ValueError(f"inside must have shape {tuple(share.shape)}, got {tuple(inside.shape)}")
        region = inside.to(share)
        tables.append(
            pd.DataFrame(
                {
                    "example": list(names),
                    "method": method,
                    "query": query,
                    "mass": (share * region).sum(-1).tolist(),
                    "uniform": region.mean(-1).tolist(),
                }
            )
        )
    return pd.concat(tables, ignore_index=True)


def mass_summary(
    table: pd.DataFrame, replicates: int = 1000, level: float = 0.95, seed: int = 0
) -> pd.DataFrame:
    """Means over the examples of :func:`mass_table`, with bootstrap intervals
    (:class:`attngraph.analysis.bootstrap.Means`).

    Maps that are 0 everywhere count in ``empty`` and nowhere else. The last row is the uniform map's, over
    all examples.

    Returns:
        Columns method, query, examples, empty, mass, low, high; uniform (for the same examples), and excess,
        excess_low, excess_high: mass less uniform, example by example.
    """
    uniform = table.drop_duplicates("example").assign(
        method="uniform", query="", mass=lambda part: part["uniform"]
    )
    rows = []
    for (method, query), part in pd.concat([table, uniform]).groupby(["method", "query"], sort=False):
        uniform_mass = part["uniform"].where(part["mass"].notna())
        means = Means((3,), replicates, seed)
        means.add(np.stack([part["mass"], uniform_mass, part["mass"] - uniform_mass], axis=1))
        (mass, flat, excess), (low, high) = means.mean(), means.interval(level)
        rows.append(
            {
                "method": method,
                "query": query,
                "examples": means.counts[0],
                "empty": len(part) - means.counts[0],
                "mass": mass,
                "low": low[0],
                "high": high[0],
                "uniform": flat,
                "excess": excess,
                "excess_low": low[2],
                "excess_high": high[2],
            }
        )
    return pd.DataFrame(rows)
