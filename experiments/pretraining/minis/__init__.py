"""The models that ``attngraph pretrain`` makes, by their names: all in which they differ."""

from __future__ import annotations

from experiments.pretraining.minis.blip import MiniBlip
from experiments.pretraining.minis.mini import Mini
from experiments.pretraining.minis.mplug import MiniMPlug

MINIS: dict[str, Mini] = {mini.name: mini for mini in (MiniBlip(), MiniMPlug())}

__all__ = ["MINIS", "Mini"]
