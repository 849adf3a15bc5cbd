"""The pre-trained model as it is."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from experiments.methods.method import Method, Tuned


class Frozen(Method):
    """Nothing is trained."""

    def put_on(self, model: nn.Module) -> Tuned:
        return Untouched()


class Untouched(Tuned):
    """A model without trained parameters."""

    def parameters(self) -> list[nn.Parameter]:
        return []

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        pass

    def save(self, folder: Path) -> None:
        pass
