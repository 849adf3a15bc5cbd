"""Other methods of PEFT next to graph adapters: what is switched on, and what cannot be combined."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from attngraph.errors import UserError


def find_base(module: Any) -> Any:
    """The module that a PEFT layer wraps; None if the module is not a PEFT layer."""
    return getattr(module, "base_layer", None) if isinstance(module, BaseTunerLayer) else None


def refuse_left_out(name: str, others: list[Any], left_out: bool) -> None:
    """Raise an error for PEFT methods that ignore the output of the layer that they wrap.

    Args:
        name: name of the layer.
        others: the PEFT layers around it, the outermost first.
        left_out: whether the layer was not called.

    Raises:
        UserError: there is such a method.
    """
    subtracting = [layer for layer in others if _kind(layer) == "glora" and _works(layer)]  # what they called
    guilty = others[:1] if left_out else subtracting
    if guilty:
        raise UserError(
            f"{method_of(guilty[0])} on {name} uses the frozen weight and bypasses the graph adapter there, "
            f"which would neither act nor learn: {_remedy(guilty[0])}"
        )


def refuse_turned(name: str, others: list[Any], turned: bool) -> None:
    """Raise an error for PEFT methods that change the input of an attention layer's output projection.

    Args:
        name, others: as for :func:`refuse_left_out`.
        turned: whether the input differs from the output of attention. Some methods start as the identity.

    Raises:
        UserError: there is such a method.
    """
    guilty = [layer for layer in others if _works(layer) and _turns(layer)] or (others[:1] if turned else [])
    if guilty:
        raise UserError(
            f"{method_of(guilty[0])} on {name} changes the attention output before the graph adapter, so "
            f"messages of a graph cannot replace it: {_remedy(guilty[0])}"
        )


def _works(layer: Any) -> bool:
    return not (layer.disable_adapters or layer.merged)


def _turns(layer: Any) -> bool:
    return _kind(layer) in ("oft", "boft") or (_kind(layer) == "ia3" and layer.is_feedforward)


def _kind(layer: Any) -> str:
    return type(layer).__module__.split(".")[-2]


def method_of(layer: Any) -> str:
    """PEFT's name of the method that a layer belongs to, and the layer's class."""
    return f"PEFT's {_kind(layer)} ({type(layer).__name__})"


def _remedy(layer: Any) -> str:
    kind = _kind(layer)
    return f"choose other target_modules for {kind}, or leave the layer to it with exclude_modules=[...]"


def switches(model: nn.Module) -> Callable[[], None]:
    """Function that restores which parameters are trained and which adapters are active."""
    trained = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    chosen = [
        (layer, {name: x for name, x in vars(layer).items() if name in ("_active_adapter", "_learning")})
        for layer in model.modules()
        if isinstance(layer, BaseTunerLayer)
    ]

    def put_back() -> None:
        for parameter, before in trained:
            parameter.requires_grad_(before)
        for layer, choice in chosen:
            vars(layer).update(choice)

    return put_back
