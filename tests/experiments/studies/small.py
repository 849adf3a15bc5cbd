"""Models that take no time."""

from __future__ import annotations

from functools import partial

from attngraph.experiments.models.blip import build_model
from attngraph.experiments.models.mplug import modeling

small_blip = partial(build_model, width=32, vision_layers=1, text_layers=1)
small_mplug = partial(modeling.build_mini, width=32, vision_layers=1, layers=(1, 4, 1))
