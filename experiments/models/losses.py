"""The loss of every model family."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

IGNORED = -100  # label of tokens without a loss


def token_losses(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of each next token, ``(b, n - 1)``, in nats; 0 where there is no label.

    Args:
        logits: ``(b, n, vocabulary)``.
        labels: ``(b, n)``, not shifted; :data:`IGNORED` where there is no loss.
        label_smoothing: share of the target spread over the vocabulary.
    """
    targets = labels[:, 1:]
    losses = F.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(),
        targets.flatten(),
        ignore_index=IGNORED,
        label_smoothing=label_smoothing,
        reduction="none",
    )
    return losses.view(targets.shape)
