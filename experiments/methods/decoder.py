"""Fine-tuning of the language side: the ceiling of adapters, which sit there."""

from experiments.methods.method import REFERENCE, register
from experiments.methods.own_parameters import LanguageSide

register(
    LanguageSide(
        name="decoder",
        title="Decoder fine-tuning",
        group=REFERENCE,
        note="every weight of the text decoder is trained, the image encoder stays frozen",
    )
)
