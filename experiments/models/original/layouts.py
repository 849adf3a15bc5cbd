"""All layouts of original checkpoints, by name."""

from __future__ import annotations

from experiments.models.original.blip import BlipLayout
from experiments.models.original.layout import Layout

LAYOUTS: dict[str, Layout] = {layout.name: layout for layout in (BlipLayout(),)}
