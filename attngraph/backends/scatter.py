"""Sums of edge messages at their target nodes: by torch-scatter where it is installed, else by PyG."""

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


def scatter_sum(source: Tensor, index: Tensor, size: int | None) -> Tensor:
    r"""Sums along dimension 0,

    .. math:: y_k = \sum_{e:\, t_e = k} x_e .

    Args:
        source: messages :math:`x_e`, ``(e, ...)``.
        index: the target :math:`t_e` of each edge, ``(e,)`` long.
        size: the number of targets.

    Returns:
        ``(size, ...)``.
    """
    if scatter_add is not None:
        return scatter_add(source, index, dim=0, dim_size=size)
    from torch_geometric.utils import scatter

    return scatter(source, index, dim=0, dim_size=size, reduce="sum")
