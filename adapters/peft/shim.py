"""Registration of graph adapters with PEFT: an entry in its closed list of types, and a hint for users
without this package.

PEFT registers a method only under a name that its ``PeftType`` enum holds, and that enum is closed. Here a
member is added at run time, and the method is registered through PEFT's own function. A checkpoint names its
method in ``adapter_config.json``; PEFT looks that name up and raises ``KeyError`` with it when it does not
know it. So the name that we write there says what to do, and is registered as a second name of the same
configuration.
"""

from __future__ import annotations

from typing import Any

from peft import mapping
from peft.tuners.tuners_utils import BaseTuner
from peft.utils import PeftType, register_peft_method

NAME = "graph_adapter"
SAVED_NAME = (
    "GRAPH_ADAPTER (of the Python package attngraph: install it and `import adapters` before loading)"
)


def add_member(kind: Any, name: str) -> Any:
    """The member ``name`` of a string enum, with the value ``name``; added if the enum lacks it."""
    if name in kind.__members__:
        return kind[name]
    member: Any = str.__new__(kind, name)
    member._name_ = member._value_ = name
    member.__objclass__ = kind
    member._sort_order_ = len(kind)
    type.__setattr__(kind, name, member)
    kind._member_map_[name] = member
    kind._member_names_.append(name)
    kind._value2member_map_[name] = member
    return member


PEFT_TYPE = add_member(PeftType, NAME.upper())


def register(config: type, model: type[BaseTuner]) -> None:
    """Register the method with PEFT.

    A second registration, as when a notebook reloads the package, replaces the first.
    """
    mappings: tuple[dict[Any, Any], ...] = (
        mapping.PEFT_TYPE_TO_CONFIG_MAPPING,
        mapping.PEFT_TYPE_TO_TUNER_MAPPING,
        mapping.PEFT_TYPE_TO_PREFIX_MAPPING,
    )
    for known in mappings:
        known.pop(PEFT_TYPE, None)
    register_peft_method(name=NAME, config_cls=config, model_cls=model, prefix=model.prefix)
    configs: dict[Any, type] = mapping.PEFT_TYPE_TO_CONFIG_MAPPING
    configs[SAVED_NAME] = config
