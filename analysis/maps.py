"""The former name of :mod:`attngraph.analysis.patches`; gone in the next version."""

import warnings
from typing import Any

from attngraph.analysis import patches


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    warnings.warn(
        "attngraph.analysis.maps is now attngraph.analysis.patches", DeprecationWarning, stacklevel=2
    )
    return getattr(patches, name)
