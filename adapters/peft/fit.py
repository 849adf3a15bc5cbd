"""Whether saved weights fit the adapters that they are loaded into."""

from __future__ import annotations

from torch import Tensor, nn

from adapters.peft.layer import ADAPTERS
from attngraph.errors import UserError


def check_fit(model: nn.Module, adapter_name: str, state: dict[str, Tensor]) -> None:
    """Refuse weights of which any is missing, left over or of another shape.

    PEFT loads what fits and only warns of the rest, so that adapters of another model would compute as if
    they had never been trained.

    Args:
        model: the model with the adapters.
        adapter_name: the adapter's name.
        state: its saved weights, under the model's names.

    Raises:
        UserError: they do not fit; the message names the first one of each kind.
    """
    there = model.state_dict()
    own = [f".{part}.{adapter_name}." for part in (ADAPTERS, "modules_to_save")]
    wanted = [key for key in there if any(part in key for part in own)]
    missing = [key for key in wanted if key not in state]
    left = [key for key in state if key not in there]
    other = [key for key in wanted if key in state and state[key].shape != there[key].shape]
    found = [
        f"{len(keys)} {what} (first {keys[0]})"
        for keys, what in ((missing, "missing"), (left, "left over"), (other, "of another shape"))
        if keys
    ]
    if found:
        kind = type(getattr(model, "get_base_model", lambda: model)()).__name__
        raise UserError(
            f"the saved weights of the adapter do not fit this {kind}: {', '.join(found)}; use the base "
            "model that the adapter was trained for"
        )
