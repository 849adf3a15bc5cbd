"""The two losses of pre-training: on the texts, and on what each patch shows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from experiments.models.batch import IGNORED
from experiments.scenes.patches import COLOR_CLASSES, SHAPE_CLASSES


def text_loss(parts: Sequence[tuple[Tensor, dict[str, Tensor]]]) -> Tensor:
    r"""Weighted cross-entropy of the next token over answers and end tokens.

    With the log-probability :math:`\ell_i` of target :math:`i` and the batch's weights :math:`w_i`:

    .. math:: -\sum_i w_i \ell_i \Big/ \sum_i w_i

    Args:
        parts: the batch in one or several parts: logits ``(rows, length, vocabulary)``, and the ``labels``
            and ``weights`` ``(rows, length)`` of these rows, as
            :func:`~experiments.pretraining.packing.pack` makes them.
    """
    logits = torch.cat([scores[:, :-1].flatten(0, 1) for scores, _ in parts])
    targets, weights = (
        torch.cat([batch[name][:, 1:].flatten() for _, batch in parts]) for name in ("labels", "weights")
    )
    losses = F.cross_entropy(logits.float(), targets, ignore_index=IGNORED, reduction="none")
    return (losses * weights).sum() / weights.sum()


def patch_loss(scores: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Mean cross-entropy of the shape, plus that of the colour, of the thing that each patch shows.

    From the texts alone the image encoder learns shapes slowly: a text says little about where in the picture
    its words come from.

    Args:
        scores: ``(images, patches, SHAPE_CLASSES + COLOR_CLASSES)``.
        batch: holds ``patch_shapes`` and ``patch_colors``, ``(images, patches)``.
    """
    shapes, colors = scores.float().flatten(0, 1).split((SHAPE_CLASSES, COLOR_CLASSES), dim=-1)
    return F.cross_entropy(shapes, batch["patch_shapes"].flatten()) + F.cross_entropy(
        colors, batch["patch_colors"].flatten()
    )
