"""The losses of pre-training against loops."""

import torch

from experiments.models.batch import IGNORED
from experiments.pretraining.losses import patch_loss, text_loss
from experiments.scenes.patches import COLOR_CLASSES, SHAPE_CLASSES


def test_text_loss_against_a_loop():
    """The logits at one token are for the next; a text weighs as its tokens do."""
    torch.manual_seed(0)
    logits = torch.randn(2, 4, 5)
    labels = torch.tensor([[IGNORED, 2, 4, IGNORED], [IGNORED, IGNORED, 0, 3]])
    weights = torch.tensor([[0.0, 0.5, 0.25, 0.0], [0.0, 0.0, 1.0, 2.0]])
    batch = {"labels": labels, "weights": weights}
    loss = 0.0
    for row, place in ((0, 1), (0, 2), (1, 2), (1, 3)):
        loss -= weights[row, place] * logits[row, place - 1].log_softmax(0)[labels[row, place]] / 3.75
    assert torch.allclose(text_loss([(logits, batch)]), loss)
    cuts = (slice(0, 1), slice(0, 3)), (slice(1, 2), slice(0, 4))  # the first row lacks its last, empty place
    parts = [(logits[cut], {name: value[cut] for name, value in batch.items()}) for cut in cuts]
    assert torch.allclose(text_loss(parts), loss), "parts may differ in length"


def test_patch_loss_against_a_loop():
    torch.manual_seed(0)
    scores = torch.randn(2, 3, SHAPE_CLASSES + COLOR_CLASSES)
    batch = {
        "patch_shapes": torch.tensor([[0, 2, 1], [0, 0, 7]]),
        "patch_colors": torch.tensor([[0, 3, 1], [0, 0, 11]]),
    }
    loss = 0.0
    for image in range(2):
        for patch in range(3):
            shape, color = (
                scores[image, patch, :SHAPE_CLASSES],
                scores[image, patch, SHAPE_CLASSES:],
            )
            loss -= shape.log_softmax(0)[batch["patch_shapes"][image, patch]] / 6
            loss -= color.log_softmax(0)[batch["patch_colors"][image, patch]] / 6
    assert torch.allclose(patch_loss(scores, batch), loss)
