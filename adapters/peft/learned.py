"""The single numbers that graph adapters learn, under readable names."""

from __future__ import annotations

from torch import nn

from adapters.peft.layer import OutputLayer
from adapters.scalar import learned_values


def learned_scalars(model: nn.Module) -> dict[str, float]:
    """Current values of the single numbers that the active graph adapter learns, layer by layer.

    These are the scheme's (:meth:`adapters.scheme.Scheme.learned`: p and μ of pGNN, for example) and the
    share of the ``blend`` join.

    Args:
        model: a PEFT model with graph adapters, or the model inside.

    Returns:
        ``{"layer.0.attention.p": 1.31, "layer.0.attention.share": 0.2, ...}``. A layer is named by the part
        of its path in the model that tells it from the other adapted layers.
    """
    layers = {module.name: module for module in model.modules() if isinstance(module, OutputLayer)}
    values: dict[str, float] = {}
    for name, layer in zip(short_names(list(layers)), layers.values()):
        adapter = layer.chosen
        if adapter is None:
            continue
        for scalar, value in (adapter.scheme.learned() | learned_values(adapter.join)).items():
            values[f"{name}.{scalar}"] = value
    return values


def short_names(names: list[str]) -> list[str]:
    """Module paths without what all of them share at the start and at the end.

    The component before a path's first number stays, and so does the one after its last number:
    ``text_decoder.bert.encoder.layer.0.attention.output.dense`` becomes ``layer.0.attention``.
    """
    paths = [name.split(".") for name in names]
    numbers = [[k for k, part in enumerate(path) if part.isdigit()] for path in paths]
    if not paths or not all(numbers):
        return names
    start = min(_shared(paths), *(max(0, places[0] - 1) for places in numbers))
    end = min(
        _shared([path[::-1] for path in paths]),
        *(max(0, len(path) - places[-1] - 2) for path, places in zip(paths, numbers)),
    )
    return [".".join(path[start : len(path) - end]) for path in paths]


def _shared(paths: list[list[str]]) -> int:
    """With how many equal components all paths start."""
    different = (k for k, parts in enumerate(zip(*paths)) if len(set(parts)) > 1)
    return next(different, min(map(len, paths)))
