"""What the text alone gives away: the language side fine-tuned with the image hidden."""

from experiments.methods.method import REFERENCE, register
from experiments.methods.own_parameters import LanguageSide

register(
    LanguageSide(
        name="text",
        title="Text only",
        group=REFERENCE,
        note="decoder fine-tuning with the image states zeroed",
        follows="decoder",
        rates=(),
        vision="zero",
    )
)
