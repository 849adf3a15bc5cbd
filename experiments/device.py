"""Whether a device is there."""

import torch

from attngraph.errors import UserError


def check_device(device: str) -> None:
    """Raises UserError where the device is not there."""
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {device} is not available here ({str(error).splitlines()[0]}): use cpu") from None
