"""Sums of edge messages at their target nodes: torch-scatter where it is installed, PyG's own scatter otherwise."""

from __future__ import annotations

import warnings

from torch import Tensor

try:
    from torch_scatter import scatter_add

    BACKEND = "torch-scatter"
except Exception as error:  # not installed, or built against another torch
    scatter_add = None
    BACKEND = "pyg"
    if not isinstance(error, ModuleNotFoundError):
        warnings.warn(
            f"torch-scatter is installed but does not load ({type(error).__name__}: {error}); "
            "the sparse backend uses PyG's scatter instead",
            stacklevel=2,
        )


def scatter_sum(source: Tensor, index: Tensor, size: int) -> Tensor:
    r"""``out[k] = Σ_{e: index[e] = k} source[e]`` along dimension 0.

    Args:
        source: ``(e, ...)``.
        index: ``(e,)`` long, the target of each edge.
        size: the number of targets.
    """
    if scatter_add is not None:
        return scatter_add(source, index, dim=0, dim_size=size)
    from torch_geometric.utils import scatter

    return scatter(source, index, dim=0, dim_size=size, reduce="sum")
