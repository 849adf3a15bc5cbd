"""ViLT with the patches of an image in order: transformers shuffles them in every call."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.models.vilt.modeling_vilt import ViltEmbeddings


class OrderedViltEmbeddings(ViltEmbeddings):
    """Patches row by row, padding last. Each keeps its own position's embedding, so the model computes the
    same for every one of them."""

    def visual_embed(self, pixel_values: Tensor, pixel_mask: Tensor, max_image_length: int = 200) -> tuple:
        embedded = super().visual_embed(pixel_values, pixel_mask, max_image_length)
        states, mask, (index, (rows, columns)) = embedded
        place = index[..., 0] * columns + index[..., 1] + (1 - mask[:, 1:]) * rows * columns
        order = place.argsort(dim=1, stable=True)
        example = torch.arange(len(order), device=order.device)[:, None]
        states = torch.cat([states[:, :1], states[:, 1:][example, order]], 1)
        mask = torch.cat([mask[:, :1], mask[:, 1:][example, order]], 1)
        return states, mask, (index[example, order], (rows, columns))


def in_order(model: nn.Module) -> nn.Module:
    """The model, changed in place so that its patches come in order, if it is a ViLT."""
    for part in model.modules():
        if type(part) is ViltEmbeddings:
            part.__class__ = OrderedViltEmbeddings
    return model
