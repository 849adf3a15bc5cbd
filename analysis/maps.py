r"""Values on image nodes as maps on the picture, and how much of them lies inside a region."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isqrt

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from analysis.bootstrap import Means

OTHERS = 5  # image nodes that are no patches, at most: [CLS], distillation token, registers


def patch_grid(nodes: int) -> tuple[int, int]:
    """Side of the square grid of patches among image nodes, and how many other nodes ([CLS], registers) come before it.

    Raises:
        ValueError: the nodes are no square grid, even without up to 5 leading nodes.
    """
    side = isqrt(nodes)
    if nodes < 1 or nodes - side**2 > OTHERS:
        raise ValueError(f"nodes must be a square number of patches after at most {OTHERS} others ([CLS]), got {nodes}")
    return side, nodes - side**2


def shares(values: Tensor) -> Tensor:
    r"""Values of the patches, divided by their sum, ``(b, patches)``: nodes before the grid are dropped.

    An example whose values are all 0 gets NaN.

    Args:
        values: ``(b, m)``, at least 0, for all image nodes.

    Raises:
        ValueError: a negative value, or see :func:`patch_grid`.
    """
    if (values < 0).any():
        raise ValueError(f"values must be at least 0, got {float(values.min()):g}")
    patches = values[:, patch_grid(values.shape[1])[1]:]
    patches = patches.double() if patches.device.type != "mps" else patches
    return patches / patches.sum(-1, keepdim=True)


def map_table(values: Mapping[tuple[str, str], Tensor], names: Sequence[str]) -> pd.DataFrame:
    """A row per patch.

    Args:
        values: ``{(method, query): (b, m)}``, values of all image nodes.
        names: of the examples.

    Returns:
        Columns example, method, query, row, column (of the patch), share of the patches' sum, and lift: the share as a
        multiple of the uniform map's.

    Raises:
        ValueError: see :func:`shares`.
    """
    tables = []
    for (method, query), nodes in values.items():
        found = shares(nodes).cpu().numpy()
        side = isqrt(found.shape[1])
        place = np.tile(np.arange(side**2), len(names))
        tables.append(pd.DataFrame({"example": np.repeat(list(names), side**2), "method": method, "query": query,
                                    "row": place // side, "column": place % side, "share": found.ravel(),
                                    "lift": found.ravel() * side**2}))
    return pd.concat(tables, ignore_index=True)


def mass_table(values: Mapping[tuple[str, str], Tensor], inside: Tensor, names: Sequence[str]) -> pd.DataFrame:
    r"""How much of each map lies inside a region: :math:`\sum_{j \in S} r_j / \sum_j r_j` over the patches j.

    Args:
        values: ``{(method, query): (b, m)}``, values of all image nodes.
        inside: bool ``(b, patches)``, the region S of each example.
        names: of the examples.

    Returns:
        Columns example, method, query, mass in [0, 1] (NaN for a map that is 0 everywhere), and uniform: the mass of a
        map that is the same everywhere, the region's share of the patches.

    Raises:
        ValueError: a region of another size than the map, or see :func:`shares`.
    """
    tables = []
    for (method, query), nodes in values.items():
        found = shares(nodes)
        if inside.shape != found.shape:
            raise ValueError(f"inside must have shape {tuple(found.shape)}, got {tuple(inside.shape)}")
        region = inside.to(found)
        tables.append(pd.DataFrame({"example": list(names), "method": method, "query": query,
                                    "mass": (found * region).sum(-1).tolist(), "uniform": region.mean(-1).tolist()}))
    return pd.concat(tables, ignore_index=True)


def mass_summary(table: pd.DataFrame, replicates: int = 1000, level: float = 0.95, seed: int = 0) -> pd.DataFrame:
    """Means over the examples of :func:`mass_table`, with bootstrap intervals (:class:`analysis.bootstrap.Means`).

    Maps that are 0 everywhere count in ``empty`` and nowhere else. The last row is the uniform map's, over all
    examples.

    Returns:
        Columns method, query, examples, empty, mass, low, high; uniform (for the same examples), and excess,
        excess_low, excess_high: mass less uniform, example by example.
    """
    uniform = table.drop_duplicates("example").assign(method="uniform", query="", mass=lambda part: part["uniform"])
    rows = []
    for (method, query), part in pd.concat([table, uniform]).groupby(["method", "query"], sort=False):
        same = part["uniform"].where(part["mass"].notna())
        means = Means((3,), replicates, seed)
        means.add(np.stack([part["mass"], same, part["mass"] - same], axis=1))
        (mass, flat, excess), (low, high) = means.mean(), means.interval(level)
        rows.append({"method": method, "query": query, "examples": means.counts[0],
                     "empty": len(part) - means.counts[0], "mass": mass, "low": low[0], "high": high[0],
                     "uniform": flat, "excess": excess, "excess_low": low[2], "excess_high": high[2]})
    return pd.DataFrame(rows)
