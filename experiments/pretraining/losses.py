"""The two losses of pre-training: on the texts, and on what each patch shows."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from experiments.models.generation import IGNORED
from experiments.scenes.patches import COLOR_CLASSES, SHAPE_CLASSES


def text_loss(logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
    r"""Weighted cross-entropy of the next token over answers and end tokens.

    With the log-probability :math:`\ell_i` of target :math:`i` and the batch's weights :math:`w_i`:

    .. math:: -\sum_i w_i \ell_i \Big/ \sum_i w_i

    Args:
        logits: ``(images, row_length, vocabulary)``.
        batch: from :func:`~experiments.pretraining.packing.pack`.
    """
    targets, weights = batch["labels"][:, 1:].flatten(), batch["weights"][:, 1:].flatten()
    losses = F.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), targets, ignore_index=IGNORED, reduction="none"
    )
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
