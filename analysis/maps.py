"""The former name of :mod:`analysis.patches`; gone in the next version."""

import warnings
from typing import Any

from analysis import patches


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    warnings.warn("analysis.maps is now analysis.patches", DeprecationWarning, stacklevel=2)
    return getattr(patches, name)
