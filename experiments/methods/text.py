"""What the text alone gives away: the language side fine-tuned with the image hidden."""

from __future__ import annotations

from dataclasses import dataclass

from experiments.methods.method import REFERENCE, Vision, register
from experiments.methods.own_parameters import OwnParameters, on_language_side
from experiments.models.family import ModelFamily


@dataclass(frozen=True, kw_only=True)
class TextOnly(OwnParameters):
    """The parameters of the language side; the image states are zero."""

    vision: Vision = "zero"

    def trained(self, family: ModelFamily, parameter: str) -> bool:
        return on_language_side(family, parameter)


register(
    TextOnly(
        name="text",
        title="Text only",
        group=REFERENCE,
        note="full fine-tuning of the text decoder with the image states zeroed",
    )
)
