"""All layouts of original checkpoints, by name."""

from __future__ import annotations

from experiments.models.original.blip import BlipLayout
from experiments.models.original.layout import Layout
from experiments.models.original.mplug import MPlugLayout

LAYOUTS: dict[str, Layout] = {layout.name: layout for layout in (BlipLayout(), MPlugLayout())}
