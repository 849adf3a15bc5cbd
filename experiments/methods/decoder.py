"""Fine-tuning of the language side: the ceiling of adapters, which sit there."""

from experiments.methods.method import REFERENCE, register
from experiments.methods.own_parameters import LanguageSide

register(
    LanguageSide(
        name="decoder",
        title="Decoder fine-tuning",
        group=REFERENCE,
        note="every weight that reads and writes text is trained (BLIP's text decoder; mPLUG's text encoder, "
        "fusion and decoder), the image encoder stays frozen",
    )
)
