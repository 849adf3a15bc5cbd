"""Display of a graph in a notebook: its description, and a small image of its weights."""

from __future__ import annotations

import base64
import html
from io import BytesIO

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d, interpolate

SIDE = 240  # pixels, at most
LARGEST = 2**24  # weights of one example: beyond it there is no image


def thumbnail(description: str, weight: Tensor) -> str:
    """HTML of a description and of the mean of the heads' weights, each query's relative to its largest.

    Args:
        description: of the graph.
        weight: of one example, ``(h, n, m)``.
    """
    text = f"<code>{html.escape(description)}</code>"
    if not weight.numel():
        return text
    rows = weight.detach().float().mean(0)
    rows = rows / rows.amax(-1, keepdim=True).clamp(min=torch.finfo(rows.dtype).tiny)
    rows = adaptive_max_pool2d(rows[None], [min(side, SIDE) for side in rows.shape])
    rows = interpolate(rows[None], scale_factor=max(1, SIDE // max(rows.shape)))[0, 0]
    file = BytesIO()
    Image.fromarray(255 - (rows.nan_to_num() * 255).byte().cpu().numpy()).save(file, "png")
    picture = base64.b64encode(file.getvalue()).decode()
    return (
        f'{text}<br><img src="data:image/png;base64,{picture}" style="border: 1px solid #d0d7de" '
        f'alt="attention weights"><br><small>M of example 0, mean of heads, each query (row) relative to its '
        "largest weight; attngraph.show(graph) shows the edges</small>"
    )
