"""Prefix tuning: learned keys and values before those of the language side's attention."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters.prefix import PrefixConfig, PrefixTuning
from experiments.configs.settings import Settings
from experiments.files import published
from experiments.methods.method import OTHERS, Method, Tuned, register
from experiments.models.family import ModelFamily


@dataclass(frozen=True, kw_only=True)
class PrefixMethod(Method):
    """Keys and values before those of self- and cross-attention; see :class:`adapters.prefix.PrefixTuning`.

    Args:
        tokens, projection: as in :class:`adapters.prefix.PrefixConfig`.
    """

    tokens: int = 16
    projection: int | None = None

    def settings(self, chosen: Settings, task: str, join: str | None = None) -> dict[str, Any]:
        return {"tokens": self.tokens, "projection": self.projection}

    def apply(self, family: ModelFamily, settings: dict[str, Any]) -> PrefixTuned:
        return PrefixTuned(family, PrefixTuning(family.model, PrefixConfig(**settings)))


class PrefixTuned(Tuned):
    """A model with a prefix."""

    def __init__(self, family: ModelFamily, prefix: PrefixTuning):
        super().__init__(family)
        self.prefix = prefix
        family.unadapted = prefix.disabled

    def save(self, folder: Path) -> None:
        """``prefix_config.json`` and ``prefix.safetensors``, which :func:`adapters.prefix.load_prefix`
        reads.
        """
        with published(folder) as part:
            self.prefix.save(part)

    def load(self, folder: Path) -> None:
        self.prefix.load(folder)


register(
    PrefixMethod(name="prefix", title="Prefix tuning", group=OTHERS, rates=(3e-2, 1e-1), default_rate=1e-1)
)
