"""mPLUG, which transformers does not have: its configuration and its model, laid out as transformers' are."""

from experiments.models.mplug.modeling import (
    MPlugConfig,
    MPlugForConditionalGeneration,
    mplug_base,
    mplug_large,
)

__all__ = ["MPlugConfig", "MPlugForConditionalGeneration", "mplug_base", "mplug_large"]
