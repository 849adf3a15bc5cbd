"""mPLUG, which transformers does not have: its configuration and its model, laid out as transformers' are."""

from experiments.models.mplug.configuration import MPlugConfig, mplug_base, mplug_large
from experiments.models.mplug.modeling import MPlugForConditionalGeneration

__all__ = ["MPlugConfig", "MPlugForConditionalGeneration", "mplug_base", "mplug_large"]
